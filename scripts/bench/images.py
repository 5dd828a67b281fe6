"""One image to several providers: ``python scripts/bench/images.py``.

A requestor and its providers, each a process of its own on loopback, libp2p with DHT. Measured side by side: the time
until one provider has the image, the time until three that begin at the same moment have it, and what that cost the
requestor. Loopback has no thin lines, so ``--uplink`` (MB/s, 0: none) holds the requestor's sending back as a real
line would (no bulk lanes then); without it the processor is the limit, and three copies on few cores take their time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog
import trio

MB = 1_000_000
GOAL = 1.5


class Line:
    """What all streams of the requestor may send together."""

    def __init__(self, bytes_per_s: float) -> None:
        self._rate, self._free_at, self.sent_bytes = bytes_per_s, 0.0, 0

    async def take(self, size: int) -> None:
        self.sent_bytes += size
        if self._rate:
            now = trio.current_time()
            self._free_at = max(self._free_at, now) + size / self._rate
            await trio.sleep(self._free_at - now)


class ThinStream:
    """A stream of the requestor, held back by its line."""

    def __init__(self, stream: Any, line: Line) -> None:
        self._stream, self._line = stream, line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def write(self, data: bytes) -> None:
        await self._line.take(len(data))
        await self._stream.write(data)


async def requestor(image: Path, store: Path, uplink: float) -> None:
    from golemp2p.identity.keys import NodeKey
    from golemp2p.net.config import NetConfig
    from golemp2p.net.data import DataService
    from golemp2p.net.lanes import Lanes
    from golemp2p.net.libp2p import open_libp2p_network
    from golemp2p.storage.content import ContentStore

    line = Line(uplink * MB)
    async with open_libp2p_network(NodeKey.generate(), NetConfig()) as network, trio.open_nursery() as nursery:
        accept = network.set_stream_handler
        network.set_stream_handler = lambda protocol, handler: accept(  # type: ignore[method-assign] # a thin line
            protocol,
            lambda stream: handler(ThinStream(stream, line)),
        )
        lanes = None if uplink else Lanes(network)  # the thin line is of libp2p's streams
        if lanes is not None:
            await nursery.start(lanes.run)
        data = DataService(network, ContentStore(store), lanes=lanes)
        content = await data._store.add_file(image)
        data.serve()
        nursery.start_soon(data.sharing.run)
        data.sharing.announce_content(content)
        say({"peer": network.peer_id, "address": network.addresses()[0], "digest": content.sha3_256})
        while await trio.to_thread.run_sync(sys.stdin.readline):
            say({"sent": line.sent_bytes})
        nursery.cancel_scope.cancel()


async def provider(owner: str, address: str, digest: str, store: Path, shared: bool, by_lane: bool) -> None:
    from golemp2p.core.ids import PeerId
    from golemp2p.identity.keys import NodeKey
    from golemp2p.net.config import NetConfig
    from golemp2p.net.data import DataService
    from golemp2p.net.lanes import Lanes
    from golemp2p.net.libp2p import open_libp2p_network
    from golemp2p.storage.content import ContentStore

    config = NetConfig(bootstrap=(address,))
    async with open_libp2p_network(NodeKey.generate(), config) as network, trio.open_nursery() as nursery:
        lanes = Lanes(network) if by_lane else None
        if lanes is not None:
            await nursery.start(lanes.run)
        data = DataService(network, ContentStore(store), lanes=lanes)
        data.serve()
        nursery.start_soon(data.sharing.run)
        await network.connect(address)
        say({"ready": True})
        await trio.to_thread.run_sync(sys.stdin.readline)
        started = time.monotonic()
        await data.fetch(PeerId(owner), "sha3-256", digest, max_bytes=10**10, timeout_s=600, shared=shared)
        say({"seconds": time.monotonic() - started, "ended": time.monotonic()})
        await trio.to_thread.run_sync(sys.stdin.readline)  # stays, as a node does, until all have it
        nursery.cancel_scope.cancel()


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def measure(image: Path, folder: Path, providers: int, uplink: float, shared: bool) -> tuple[float, float]:
    """(seconds until all have it, bytes that the requestor sent / size)."""
    source = start("requestor", str(image), str(folder / "requestor"), str(uplink))
    others: list[subprocess.Popen[str]] = []
    try:
        facts = hear(source)
        place = facts["peer"], facts["address"], facts["digest"]
        for number in range(providers):
            arguments = ("provider", *place, str(folder / f"provider-{number}"), str(int(shared)), str(int(not uplink)))
            others.append(start(*arguments))
        for other in others:
            hear(other)
        started = time.monotonic()
        for other in others:
            tell(other)
        ended = max(hear(other)["ended"] for other in others)
        tell(source)
        sent = hear(source)["sent"] / image.stat().st_size
        return ended - started, sent
    finally:
        for process in (*others, source):
            process.kill()
            process.wait()


def main() -> int:
    """0 when three providers behind a thin line meet the goals: at most 1.5 times one's time and the image's bytes."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if sys.argv[1:2] == ["requestor"]:
        trio.run(requestor, Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
        return 0
    if sys.argv[1:2] == ["provider"]:
        owner, address, digest, store, mode, lanes = sys.argv[2:8]
        trio.run(provider, owner, address, digest, Path(store), mode == "1", lanes == "1")
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument(
        "--uplink", type=float, nargs="*", default=[10.0, 0.0], help="MB/s of the requestor; 0: no limit"
    )
    parser.add_argument("--providers", type=int, default=3)
    options = parser.parse_args()
    status = 0
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / "image"
        image.write_bytes(os.urandom(options.megabytes * MB))
        for uplink in options.uplink:
            print(f"uplink {f'{uplink:g} MB/s' if uplink else 'unlimited'}, {options.megabytes} MB")
            one_s = 0.0
            for count, shared in ((1, True), (options.providers, True), (options.providers, False)):
                folder = Path(name) / f"{uplink:g}-{count}-{shared}"
                seconds, sent = measure(image, folder, count, uplink, shared)
                one_s = one_s or seconds
                if uplink and shared and max(seconds / one_s, sent) > GOAL:
                    status = 1
                print(
                    f"  {count} provider(s), {'shared' if shared else 'plain '}: {seconds:6.2f} s"
                    f" = {seconds / one_s:.2f} x one; requestor sent {sent:.2f} x the image",
                    flush=True,
                )

    return status


if __name__ == "__main__":
    sys.exit(main())
