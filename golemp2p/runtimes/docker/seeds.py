"""What an image has at the paths of volumes, read through the engine, which alone knows how images are stored.

A bind mount hides it, so it is asked for at a container that has no volumes and is never started. That costs 20 to
60 ms; what is small, nothing above all, is remembered.
"""

from __future__ import annotations

import io
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

import trio

from golemp2p import limits
from golemp2p.runtimes.docker.engine import Engine, EngineError, TooLargeError
from golemp2p.runtimes.seeding import Room, seed_volume

_NOTHING: Final = b""
_PROGRAM: Final = "/.golemp2p-never-started"


class VolumeSeeds:
    """``left_behind`` is told of a container that could not be removed; it has the labels by which it is found."""

    def __init__(self, left_behind: Callable[[], None]) -> None:
        self._left_behind = left_behind
        self._known: OrderedDict[tuple[str, str], bytes] = OrderedDict()  # (image, guest path): a tar

    async def fill(
        self,
        engine: Engine,
        image: Mapping[str, Any],
        volumes: Mapping[str, Path],
        labels: Mapping[str, str],
        room: Room,
    ) -> None:
        """Put what the image has at each path into its volume, which is empty. Raises RuntimeFailureError, in time."""
        with trio.move_on_after(limits.SEED_TIMEOUT_S) as deadline:
            unknown = {guest: host for guest, host in volumes.items() if (image["Id"], guest) not in self._known}
            for guest, host in volumes.items():
                if guest not in unknown and (tar := self._recall(image["Id"], guest)) != _NOTHING:
                    await _unpack(host, io.BytesIO(tar), room)
            if unknown:
                await self._read(engine, image, unknown, labels, room)
        if deadline.cancelled_caught:
            raise EngineError(f"copying the image's files into volumes took longer than {limits.SEED_TIMEOUT_S:g} s")

    async def _read(
        self,
        engine: Engine,
        image: Mapping[str, Any],
        volumes: Mapping[str, Path],
        labels: Mapping[str, str],
        room: Room,
    ) -> None:
        declared = (image["Config"] or {}).get("Volumes") or ()
        container = await engine.create(
            image=image["Id"],
            entrypoint=[_PROGRAM],
            labels=dict(labels),
            # An engine copies into volumes of its own making, as often as the image declares some, without any limit.
            host={"network_mode": "none", "mounts": [_empty(path) for path in declared]},
        )
        try:
            for guest, host in volumes.items():
                with tempfile.SpooledTemporaryFile(limits.SEED_REMEMBERED_BYTES, dir=str(host.parent.parent)) as tar:
                    try:
                        await engine.archive(container, f"{guest}/.", tar, max_bytes=room.size_bytes + limits.MIB)
                    except TooLargeError:
                        raise room.full() from None
                    size_bytes = tar.tell()
                    if size_bytes <= limits.SEED_REMEMBERED_BYTES:
                        tar.seek(0)
                        self._remember(image["Id"], guest, tar.read())
                    if size_bytes:
                        await _unpack(host, tar, room)
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await engine.remove(container)
                except EngineError:
                    self._left_behind()

    def _recall(self, image: str, guest: str) -> bytes:
        self._known.move_to_end((image, guest))
        return self._known[image, guest]

    def _remember(self, image: str, guest: str, tar: bytes) -> None:
        self._known[image, guest] = tar
        while len(self._known) > limits.SEEDS_REMEMBERED:
            self._known.popitem(last=False)


def _empty(path: str) -> Mapping[str, Any]:
    return {"Type": "volume", "Target": path, "VolumeOptions": {"NoCopy": True}}


async def _unpack(volume: Path, tar: IO[bytes], room: Room) -> None:
    def work() -> None:
        seed_volume(volume, tar, room, check=trio.from_thread.check_cancelled)

    await trio.to_thread.run_sync(work)
