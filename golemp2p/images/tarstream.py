"""Reading tar files that strangers wrote, and writing our own.

Not tarfile: it reads headers of any size into memory, and keeps every member. Understood are ustar, GNU long names and
pax; what an image cannot sensibly hold (sparse files, multi-volume archives) is refused by name.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Final

from golemp2p import limits
from golemp2p.images.model import ImageError

BLOCK: Final = 512
_MAX_PATH_CHARS: Final = 4_096  # PATH_MAX
_COPY_BYTES: Final = 1024 * 1024


class EntryKind(StrEnum):
    FILE = "file"
    DIR = "dir"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    SPECIAL = "special"  # devices, pipes, sockets


_KINDS: Final = {
    b"0": EntryKind.FILE,
    b"\0": EntryKind.FILE,
    b"7": EntryKind.FILE,
    b"1": EntryKind.HARDLINK,
    b"2": EntryKind.SYMLINK,
    b"3": EntryKind.SPECIAL,
    b"4": EntryKind.SPECIAL,
    b"5": EntryKind.DIR,
    b"6": EntryKind.SPECIAL,
}
_TYPES: Final = {
    EntryKind.FILE: tarfile.REGTYPE,
    EntryKind.DIR: tarfile.DIRTYPE,
    EntryKind.SYMLINK: tarfile.SYMTYPE,
    EntryKind.HARDLINK: tarfile.LNKTYPE,
}


@dataclass(frozen=True, slots=True)
class TarEntry:
    """``name`` and ``link`` as written, bytes that are no UTF-8 escaped; ``offset`` is where the data begins."""

    name: str
    kind: EntryKind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0
    mtime_s: int = 0
    link: str = ""
    offset: int = 0


def path_parts(name: str) -> tuple[str, ...]:
    """The components of an entry's name; () is the root. Raises ImageError for ``..`` and what no path can be."""
    if len(name) > _MAX_PATH_CHARS:
        raise ImageError(f"a path of {len(name)} characters in the image", hint=f"at most {_MAX_PATH_CHARS}")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or "\0" in name:
        raise ImageError(f"the image holds the path {name[:200]!r}, which leads out of it")
    if len(parts) > limits.MAX_IMAGE_DEPTH:
        raise ImageError(
            f"a path in the image is {len(parts)} directories deep", hint=f"at most {limits.MAX_IMAGE_DEPTH}"
        )
    return parts


def read_tar(file: IO[bytes], start: int, size_bytes: int) -> Iterator[TarEntry]:
    """The entries of the tar that lies at ``start`` in a seekable file. Raises ImageError.

    The caller may move the file's position between entries.
    """
    position, end = start, start + size_bytes
    long_name = long_link = None
    pax: dict[str, str] = {}
    for count in range(limits.MAX_IMAGE_FILES * 2):
        file.seek(position)
        header = file.read(max(min(BLOCK, end - position), 0))
        if not header and count:
            return  # without an end mark; Go's and GNU's readers take that too
        if len(header) < BLOCK:
            raise ImageError(f"the tar ends within a header, after {position - start} bytes")
        if not header.strip(b"\0"):
            return
        if not _checksum_fits(header):
            raise ImageError(f"no tar header at byte {position - start}: its checksum does not fit")
        kind, size = header[156:157], _number(header[124:136])
        data_at = position + BLOCK
        if kind in (b"L", b"K", b"x", b"g"):
            if size > limits.MAX_TAR_HEADER_BYTES:
                raise ImageError(
                    f"an extended tar header of {size} bytes", hint=f"at most {limits.MAX_TAR_HEADER_BYTES}"
                )
            extended = file.read(size)
            if len(extended) < size or data_at + size > end:
                raise ImageError("the tar ends within an extended header")
            if kind == b"L":
                long_name = _text(extended)
            elif kind == b"K":
                long_link = _text(extended)
            elif kind == b"x":
                pax = _pax(extended)
            position = data_at + _padded(size)
            continue
        if any(name.startswith("GNU.sparse") for name in pax) or kind == b"S":
            raise ImageError("the tar holds a sparse file, which is not supported", hint="make it without --sparse")
        if kind not in _KINDS:
            raise ImageError(f"the tar holds an entry of type {kind!r}, which is not supported")
        size = _decimal(pax.get("size"), size)
        entry_kind = _KINDS[kind]
        if entry_kind is not EntryKind.FILE and kind != b"1":
            size = 0
        if kind == b"1" and size and data_at + size > end:
            size = 0  # some writers give the target's size
        name = pax.get("path") or long_name or _plain_name(header)
        if entry_kind is EntryKind.FILE and name.endswith("/"):
            entry_kind, size = EntryKind.DIR, 0
        if data_at + size > end:
            raise ImageError(f"the tar ends within {name[:200]!r}")
        yield TarEntry(
            name=name,
            kind=entry_kind,
            mode=_number(header[100:108]) & 0o7777,
            uid=_id(_decimal(pax.get("uid"), _number(header[108:116]))),
            gid=_id(_decimal(pax.get("gid"), _number(header[116:124]))),
            size_bytes=size if entry_kind is EntryKind.FILE else 0,
            mtime_s=min(_decimal(pax.get("mtime"), _number(header[136:148])), 2**33 - 1),
            link=pax.get("linkpath") or long_link or _text(header[157:257]),
            offset=data_at,
        )
        position = data_at + _padded(size)
        long_name = long_link = None
        pax = {}
    raise ImageError("too many entries in a tar", hint=f"at most {limits.MAX_IMAGE_FILES}")


def write_header(out: IO[bytes], entry: TarEntry) -> None:
    """A deterministic GNU header; the data and :func:`padding` follow."""
    info = tarfile.TarInfo(entry.name)
    info.type, info.mode, info.size = _TYPES[entry.kind], entry.mode, entry.size_bytes
    info.uid, info.gid, info.mtime, info.linkname = entry.uid, entry.gid, entry.mtime_s, entry.link
    out.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))


def padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % BLOCK)


END: Final = bytes(2 * BLOCK)


def copy_bytes(source: IO[bytes], offset: int, size_bytes: int, out: IO[bytes]) -> None:
    """Raises ImageError when the source is shorter."""
    source.seek(offset)
    while size_bytes:
        block = source.read(min(size_bytes, _COPY_BYTES))
        if not block:
            raise ImageError("the image ends within a file")
        out.write(block)
        size_bytes -= len(block)


def write_file(out: IO[bytes], name: str, data: bytes) -> None:
    write_header(out, TarEntry(name, EntryKind.FILE, size_bytes=len(data)))
    out.write(data + padding(len(data)))


def _padded(size: int) -> int:
    return size + -size % BLOCK


def _checksum_fits(header: bytes) -> bool:
    try:
        written = int(header[148:156].replace(b"\0", b" ").split()[0], 8)
    except (ValueError, IndexError):
        return False
    return written == sum(header[:148]) + 8 * 0x20 + sum(header[156:])


def _number(field: bytes) -> int:
    """Octal text, or GNU's base 256; negative ones (times before 1970) count as 0."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else 0
    digits = field.replace(b"\0", b" ").strip()
    try:
        return max(int(digits, 8), 0) if digits else 0
    except ValueError as exc:
        raise ImageError(f"a tar header holds {field!r} where a number should be") from exc


def _decimal(text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    try:
        return max(int(text.partition(".")[0]), 0) if len(text) < 40 else otherwise
    except ValueError as exc:
        raise ImageError(f"a pax header holds {text!r} where a number should be") from exc


def _id(number: int) -> int:
    return number if number < 2**31 else 65_534


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _plain_name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    # GNU headers keep times where ustar keeps the prefix.
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _pax(data: bytes) -> dict[str, str]:
    """``"<length> <name>=<value>\\n"`` records."""
    found: dict[str, str] = {}
    while data.strip(b"\0"):
        head, space, _ = data.partition(b" ")
        length = int(head) if space and head.isdigit() and len(head) < 10 else 0
        record = data[len(head) + 1 : length]
        if length > len(data) or not record.endswith(b"\n") or b"=" not in record:
            raise ImageError("a pax header in the tar is damaged")
        name, _, value = record[:-1].partition(b"=")
        found[name.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return found
