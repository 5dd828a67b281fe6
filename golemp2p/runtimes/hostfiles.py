"""GuestFiles over directories of this host that the payload sees as its volumes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from golemp2p.errors import UsageError
from golemp2p.runtimes.volumes import open_file, put_file, put_tree, read_tree


class HostFiles:
    """``volumes``: guest path -> host directory. All copying is done in worker threads."""

    def __init__(self, volumes: Mapping[str, Path]) -> None:
        self._volumes = dict(volumes)

    @property
    def volumes(self) -> Sequence[str]:
        return tuple(self._volumes)

    def host(self, volume: str) -> Path:
        """The directory behind a volume."""
        return self._volumes[volume]

    async def put(self, path: str, source: Path) -> None:
        await trio.to_thread.run_sync(put_file, self._volumes, path, source)

    @asynccontextmanager
    async def reading(self, path: str, *, max_bytes: int) -> AsyncIterator[Path]:
        descriptor = await trio.to_thread.run_sync(open_file, self._volumes, path)
        try:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes > max_bytes:
                raise UsageError(f"{path!r} has {size_bytes} bytes", hint=f"at most {max_bytes}")
            # By descriptor: the payload may rename things under our hands.
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)

    async def put_tree(self, path: str, source: Path) -> None:
        await trio.to_thread.run_sync(put_tree, self._volumes, path, source)

    async def get_tree(self, path: str, target: Path, *, max_bytes: int, max_files: int) -> None:
        read = partial(read_tree, self._volumes, path, target, max_bytes=max_bytes, max_files=max_files)
        await trio.to_thread.run_sync(read)
