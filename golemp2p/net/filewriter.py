"""Writing what arrives, and hashing it on the way, in a worker thread: the network is read meanwhile."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from golemp2p.storage.content import ALGORITHMS

_BLOCK_BYTES: Final = 1024 * 1024  # one hop to a worker thread each
_BLOCKS_AHEAD: Final = 1  # beside the one that is being written and the one that is being filled


class FileWriter:
    """From :func:`writing`. ``digests``, in hex, are there when it is over; they are of the whole file."""

    def __init__(self, path: Path, offset: int, algorithms: Sequence[str]) -> None:
        self.digests: dict[str, str] = {}
        self._path, self._offset = path, offset
        self._hashers = {alg: hashlib.new(ALGORITHMS[alg]) for alg in algorithms}
        self._pending = bytearray()
        self._send, self._receive = trio.open_memory_channel[bytes](_BLOCKS_AHEAD)
        self.failure: OSError | None = None
        self.over = trio.Event()

    async def write(self, data: bytes) -> None:
        """Raises OSError of this or an earlier piece."""
        self._pending += data
        if len(self._pending) >= _BLOCK_BYTES:
            block, self._pending = bytes(self._pending), bytearray()
            try:
                await self._send.send(block)
            except trio.BrokenResourceError:
                if self.failure is not None:
                    raise self.failure from None
                raise

    async def run(self) -> None:
        try:
            file = await trio.to_thread.run_sync(self._open)
            try:
                async with self._receive:
                    async for block in self._receive:
                        await trio.to_thread.run_sync(self._write, file, block)
            finally:
                os.close(file)
        except OSError as exc:
            self.failure = exc
        self.over.set()

    async def end(self) -> None:
        """What is there is written; returns when it is."""
        if self._pending and self.failure is None:
            with suppress(trio.BrokenResourceError):  # failure says why
                await self._send.send(bytes(self._pending))
        self._send.close()
        await self.over.wait()
        self.digests = {alg: hasher.hexdigest() for alg, hasher in self._hashers.items()}

    def _open(self) -> int:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, self._offset)
            if self._hashers:
                while block := os.read(file, _BLOCK_BYTES):  # what an earlier attempt brought
                    self._hash(block)
            os.lseek(file, self._offset, os.SEEK_SET)
        except BaseException:  # whatever it was, nobody has the descriptor yet
            os.close(file)
            raise
        return file

    def _write(self, file: int, block: bytes) -> None:
        left = memoryview(block)
        while left:
            left = left[os.write(file, left) :]
        self._hash(block)

    def _hash(self, block: bytes) -> None:
        for hasher in self._hashers.values():
            hasher.update(block)


@asynccontextmanager
async def writing(path: Path, offset: int, algorithms: Sequence[str] = ()) -> AsyncIterator[FileWriter]:
    """Append to ``path`` from ``offset``. What came is on disk at the end, whatever happened. Raises OSError."""
    writer = FileWriter(path, offset, algorithms)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_shielded, writer)
        try:
            yield writer
        except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery, which would wrap it
            failure = exc
        finally:
            with trio.CancelScope(shield=True):
                await writer.end()
    if failure is not None:
        raise failure
    if writer.failure is not None:
        raise writer.failure


async def _shielded(writer: FileWriter) -> None:
    with trio.CancelScope(shield=True):  # it ends soon: its source is closed first
        await writer.run()
