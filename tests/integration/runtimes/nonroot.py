"""A provider's runtime vm/docker by a user who is not root: ``python nonroot.py ENGINE_URL IMAGE DIRECTORY``.

Runs a payload that locks its own directory, ends it, and prints what the payload said, what was counted, what is left.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import trio

from golemp2p.activity.disk import remove_tree, used_bytes
from golemp2p.runtimes.base import Deployment, Limits
from golemp2p.runtimes.docker.runtime import DockerRuntime, DockerSettings

SCRIPT = "id -u; mkdir mine; dd if=/dev/zero of=mine/file bs=1M count=4 2>/dev/null; chmod 0 mine"
USER = 65534


async def main(url: str, image: str, place: str) -> None:
    directory = Path(place)
    work, package = directory / "work", Path(image)
    work.mkdir(mode=0o700)

    async def show(_: str, data: bytes) -> None:
        print(data.decode(), end="")

    runtime = DockerRuntime(DockerSettings(engine=url), directory / "cache", directory)
    sha256 = hashlib.sha256(await trio.Path(package).read_bytes()).hexdigest()
    async with trio.open_nursery() as nursery:
        order = Deployment("b" * 32, package, sha256, work, nursery, Limits(storage_bytes=64 << 20))
        instance = await runtime.deploy(order)
        try:
            await instance.start([])
            status = await instance.run("sh", ["-c", SCRIPT], show)
            print("code", status.code)
            print("counted", used_bytes(instance.disk, enough_bytes=1 << 30) >= 4 << 20)
        finally:
            await instance.terminate()
        nursery.cancel_scope.cancel()
    remove_tree(work)
    print("left", work.exists())


if __name__ == "__main__":
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
