"""A local network as a process of its own: `python -m tests.e2e.netprocess DIRECTORY OPTIONS_JSON`.

Up until its stdin closes. Prints "up" when the requestor sees every provider's offer; localnet.json has the rest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

from golemp2p import log
from golemp2p.localnet import LocalNetOptions, open_localnet


async def main(directory: Path, options: dict[str, object]) -> None:
    log.configure("warning")
    async with open_localnet(LocalNetOptions(directory=directory, **options)):  # type: ignore[arg-type] # the tests' own
        print("up", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), json.loads(sys.argv[2]))
