"""Compressed files as plain ones: seekable, and never larger than allowed."""

from __future__ import annotations

import hashlib
import lzma
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

import zstandard

from golemp2p import limits
from golemp2p.images.model import ImageError

GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
XZ: Final = b"\xfd7zXZ\0"
BZIP2: Final = b"BZh"
_BLOCK: Final = 256 * 1024
_MAX_WINDOW: Final = 128 * limits.MIB  # what zstd --long=27 needs
DECODE_ERRORS: Final = (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError, ValueError, MemoryError)


def unpacked_limit(size_bytes: int) -> int:
    """What an image of that size may become unpacked: a bomb of some kB does not fill the disk."""
    return min(max(size_bytes * limits.MAX_IMAGE_GROWTH, limits.IMAGE_FREE_GROWTH_BYTES), limits.MAX_IMAGE_BYTES)


class _Decoder(Protocol):
    def read(self, size: int) -> bytes: ...


class _Gzip:
    """gzip, also of several members; unlike gzip.GzipFile it says so when the end is missing."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._pending, self._any = file, b"", False
        self._decoder = zlib.decompressobj(wbits=31)

    def read(self, size: int) -> bytes:
        while True:
            if self._decoder.eof:
                self._pending = self._decoder.unused_data or self._file.read(_BLOCK)
                if not self._pending.startswith(GZIP):
                    return b""  # zeros and other tails are what gzip ignores too
                self._decoder = zlib.decompressobj(wbits=31)
            block = self._pending or self._file.read(_BLOCK)
            data = self._decoder.decompress(block, size)
            self._pending = self._decoder.unconsumed_tail
            if data:
                return data
            if not block and not self._decoder.eof:
                raise EOFError("the compressed data are cut off")


def _zstd(file: IO[bytes]) -> _Decoder:
    reader: _Decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(
        file, read_across_frames=True, closefd=False
    )
    return reader


def decoder(file: IO[bytes], head: bytes) -> _Decoder | None:
    """A reader of what ``file`` (at its beginning, whose first bytes are ``head``) holds; None when it is plain."""
    if head.startswith(GZIP):
        return _Gzip(file)
    if head.startswith(ZSTD):
        return _zstd(file)
    for magic, name in ((XZ, "xz"), (BZIP2, "bzip2")):
        if head.startswith(magic):
            raise ImageError(f"{name} compression is not supported", hint="use gzip, zstd or none")
    return None


class Slice:
    """The bytes ``offset`` to ``offset + size_bytes`` of a file, as a file to read from once."""

    def __init__(self, file: IO[bytes], offset: int, size_bytes: int) -> None:
        self._file, self._left = file, size_bytes
        file.seek(offset)

    def read(self, size: int = -1) -> bytes:
        size = self._left if size < 0 else min(size, self._left)
        data = self._file.read(size)
        self._left -= len(data)
        return data


class HashingSlice(Slice):
    """A slice that hashes all it gives."""

    def __init__(self, file: IO[bytes], offset: int, size_bytes: int) -> None:
        super().__init__(file, offset, size_bytes)
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        self.sha256.update(data)
        return data


def inflate(source: _Decoder, out: IO[bytes], *, max_bytes: int) -> tuple[int, str]:
    """Everything of ``source`` into ``out``; its size and sha256. Raises ImageError (bomb, damage)."""
    size, digest = 0, hashlib.sha256()
    try:
        while block := source.read(_BLOCK):
            size += len(block)
            if size > max_bytes:
                raise ImageError(f"the image is larger than {max_bytes} bytes unpacked")
            digest.update(block)
            out.write(block)
    except DECODE_ERRORS as exc:
        raise ImageError(f"the image's compressed data are damaged or cut off: {exc}") from exc
    return size, digest.hexdigest()


@contextmanager
def open_plain(path: Path, *, directory: Path | None = None) -> Iterator[IO[bytes]]:
    """The file, unpacked into a nameless temporary file when it is compressed. Raises ImageError."""
    try:
        file = path.open("rb")
    except OSError as exc:
        raise ImageError(f"{path} cannot be read: {exc.strerror}") from exc
    with file:
        size = file.seek(0, 2)
        file.seek(0)
        if size > limits.MAX_IMAGE_BYTES:
            raise ImageError(f"an image of {size} bytes", hint=f"at most {limits.MAX_IMAGE_BYTES}")
        head = file.read(8)
        file.seek(0)
        source = decoder(file, head)
        if source is None:
            yield file
            return
        with tempfile.TemporaryFile(dir=directory) as plain:
            inflate(source, plain, max_bytes=unpacked_limit(size))
            plain.seek(0)
            yield plain
