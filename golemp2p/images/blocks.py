"""Single compressed blocks of a squashfs, unpacked to at most so many bytes."""

from __future__ import annotations

import lzma
import zlib
from typing import Final

import lzallright
import zstandard

from golemp2p import limits
from golemp2p.images.model import ImageError
from golemp2p.images.plain import DECODE_ERRORS

_GZIP, _LZO, _XZ, _ZSTD = 1, 3, 4, 6
_NAMES: Final = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_XZ_MEMORY_BYTES: Final = 64 * limits.MIB


def name_of_compressor(compressor: int) -> str:
    """Raises ImageError when this reader lacks it."""
    if compressor not in (_GZIP, _LZO, _XZ, _ZSTD):
        name = _NAMES.get(compressor, f"number {compressor}")
        raise ImageError(f"squashfs compression {name} is not supported", hint="gzip, lzo, xz and zstd are")
    return _NAMES[compressor]


def inflate_block(compressor: int, data: bytes, max_bytes: int) -> bytes:
    """Raises ImageError for damage and for more than ``max_bytes``."""
    try:
        found = _inflate(compressor, data, max_bytes)
    except (*DECODE_ERRORS, lzallright.LZOError) as exc:
        raise ImageError(f"the squashfs is damaged: {exc}") from exc
    if len(found) > max_bytes:
        raise ImageError("the squashfs is damaged: a block is larger than it can be")
    return found


def _inflate(compressor: int, data: bytes, max_bytes: int) -> bytes:
    if compressor == _GZIP:
        gzip = zlib.decompressobj()
        found = gzip.decompress(data, max_bytes + 1)
        if not gzip.eof and len(found) <= max_bytes:
            raise EOFError("a block is cut off")
        return found
    if compressor == _XZ:
        return lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES).decompress(data, max_bytes + 1)
    if compressor == _LZO:
        # It takes no maximum, but the format grows at most 255-fold: a block of a MiB cannot fill the worker's memory.
        return lzallright.LZOCompressor.decompress(data, max_bytes)
    frame = zstandard.get_frame_parameters(data)
    if frame.content_size not in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
        # This library allocates what the frame claims, whatever maximum is given.
        if frame.content_size > max_bytes:
            raise ValueError(f"a block claims {frame.content_size} bytes")
        if not frame.content_size:
            return b""
    return zstandard.ZstdDecompressor(max_window_size=16 * limits.MIB).decompress(data, max_output_size=max_bytes)
