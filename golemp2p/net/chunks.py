"""Files in chunks: their hashes, and partial files of which some chunks are there and checked.

A partial file has its full length from the start (sparse); beside it ``<name>.have`` holds one byte per chunk. After
a restart the chunks that it marks are hashed again, so a torn write costs that chunk only.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from golemp2p import limits
from golemp2p.errors import RemoteProtocolError
from golemp2p.net.directfile import DirectFile

CHUNK_BYTES: Final = limits.SHARE_CHUNK_BYTES
HASH_BYTES: Final = 32


def chunk_count(size_bytes: int) -> int:
    return -(-size_bytes // CHUNK_BYTES)


def hash_chunks(path: Path) -> bytes:
    """The sha256 of every chunk, one after the other. In the calling thread."""
    with path.open("rb") as file:
        return b"".join(iter(lambda: _digest(file.read(CHUNK_BYTES)), b""))


def _digest(chunk: bytes) -> bytes:
    return hashlib.sha256(chunk).digest() if chunk else b""


class ChunkLists:
    """Chunk hashes of our own files, made when first asked for. Files of a content store never change."""

    def __init__(self) -> None:
        self._lists: OrderedDict[str, bytes] = OrderedDict()
        self._making = trio.Lock()

    async def of(self, sha256: str, path: Path) -> bytes:
        async with self._making:  # those who ask at the same moment share one reading
            found = self._lists.get(sha256)
            if found is None:
                found = await trio.to_thread.run_sync(hash_chunks, path)
                self._lists[sha256] = found
                while len(self._lists) > limits.SHARE_LISTS:
                    self._lists.popitem(last=False)
            self._lists.move_to_end(sha256)
            return found


@dataclass
class Bitmap:
    """Which chunks of a file somebody has."""

    flags: bytearray

    @classmethod
    def unpack(cls, data: bytes, count: int) -> Bitmap:
        """Raises RemoteProtocolError."""
        if len(data) != -(-count // 8):
            raise RemoteProtocolError(f"a chunk map of {len(data)} bytes for {count} chunks")
        return cls(bytearray((data[i // 8] >> (i % 8)) & 1 for i in range(count)))

    def pack(self) -> bytes:
        data = bytearray(-(-len(self.flags) // 8))
        for i, flag in enumerate(self.flags):
            data[i // 8] |= flag << (i % 8)
        return bytes(data)

    @property
    def full(self) -> bool:
        return 0 not in self.flags


class PartialFile:
    """A file that arrives chunk by chunk, in any order. Blocking methods are for worker threads."""

    def __init__(self, path: Path, size_bytes: int, hashes: bytes) -> None:
        self.path, self.size_bytes, self._hashes = path, size_bytes, hashes
        self._notes = path.with_name(f"{path.name}.have")
        self.have = Bitmap(bytearray(chunk_count(size_bytes)))

    def open(self) -> None:
        """Make or take up the files. Blocking."""
        marked = self._notes.read_bytes() if self._notes.exists() else b""
        with self.path.open("a+b") as file:
            file.truncate(self.size_bytes)
            if len(marked) != len(self.have.flags):
                marked = bytes(len(self.have.flags))
            for index, flag in enumerate(marked):
                if flag:
                    file.seek(index * CHUNK_BYTES)
                    self.have.flags[index] = self.fits(index, file.read(self.length(index)))
        self._notes.write_bytes(bytes(self.have.flags))

    def length(self, index: int) -> int:
        return min(CHUNK_BYTES, self.size_bytes - index * CHUNK_BYTES)

    def fits(self, index: int, chunk: bytes | memoryview) -> bool:
        return hashlib.sha256(chunk).digest() == self._hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]

    def put(self, index: int, chunk: bytes | memoryview) -> bool:
        """Write the chunk if it is the right one; whether it is. Blocking."""
        if not self.fits(index, chunk):
            return False
        for path, data, offset in ((self.path, chunk, index * CHUNK_BYTES), (self._notes, b"\1", index)):
            with DirectFile(path, offset) as file:
                file.write(memoryview(data))
        self.have.flags[index] = 1
        return True

    def holds(self, offset: int, length: int) -> bool:
        """Whether every byte of the range is there and checked."""
        if length <= 0 or offset < 0 or offset + length > self.size_bytes:
            return False
        return all(self.have.flags[offset // CHUNK_BYTES : (offset + length - 1) // CHUNK_BYTES + 1])

    @property
    def done_bytes(self) -> int:
        return sum(self.length(index) for index, flag in enumerate(self.have.flags) if flag)

    def forget_notes(self) -> None:
        self._notes.unlink(missing_ok=True)
