"""Golem's image format: a squashfs, then CRC32 (little endian) of a JSON, that JSON, and its length as 8 ASCII digits.

A squashfs without that trailer is taken too; it says nothing about how to start it.
"""

from __future__ import annotations

import json
import zlib
from typing import IO, Final

from golemp2p import limits
from golemp2p.images.model import ImageConfig, ImageError, parse_config

_DIGITS: Final = 8
_CRC: Final = 4


def read_trailer(file: IO[bytes], squashfs_bytes: int) -> ImageConfig | None:
    """The configuration behind a squashfs of that many bytes; None when there is none. Raises ImageError (damage)."""
    size = file.seek(0, 2)
    if size - squashfs_bytes < _DIGITS + _CRC + 2:
        return None
    file.seek(size - _DIGITS)
    digits = file.read(_DIGITS)
    if not digits.isdigit():
        file.seek(squashfs_bytes)
        rest = file.read(min(size - squashfs_bytes, limits.MIB))
        if rest.strip(b"\0"):
            raise ImageError("the gvmi is damaged: behind its squashfs is something, but no length of a configuration")
        return None  # padding
    length = int(digits)
    begin = size - _DIGITS - length
    if length > limits.MAX_IMAGE_JSON_BYTES or begin - _CRC < squashfs_bytes:
        raise ImageError(f"the gvmi is damaged: its configuration claims {length} bytes")
    file.seek(begin - _CRC)
    crc, data = int.from_bytes(file.read(_CRC), "little"), file.read(length)
    if zlib.crc32(data) != crc:
        raise ImageError("the gvmi is damaged: the checksum of its configuration does not fit")
    try:
        section = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise ImageError("the gvmi's configuration is not JSON") from exc
    return parse_config(section)
