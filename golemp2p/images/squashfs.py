"""A reader of squashfs 4.0 in Python: memory-safe, bounded, without mounting and without privileges.

Layout: a superblock, data blocks, then tables of inodes, directories, fragments and owners in "metadata blocks" of at
most 8 KiB. Everything is little endian. See the kernel's Documentation/filesystems/squashfs.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Final

from golemp2p import limits
from golemp2p.images.blocks import inflate_block, name_of_compressor
from golemp2p.images.model import ImageError
from golemp2p.images.tarstream import EntryKind

MAGIC: Final = b"hsqs"
SUPERBLOCK: Final = struct.Struct("<4s4I6H8Q")
_METADATA_BYTES: Final = 8_192
_NONE: Final = 0xFFFF_FFFF  # no fragment
_PLAIN_BLOCK: Final = 1 << 24
_MAX_LIST_BYTES: Final = 64 * limits.MIB  # one directory's listing
_MAX_SYMLINK: Final = 4_096
_BLOCKS_AT_ONCE: Final = 4_096
_DIR, _REG, _SYMLINK = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Node:
    """A file, directory, link or special file. ``number`` is the same for all hard links of one file."""

    kind: EntryKind
    number: int
    mode: int
    uid: int
    gid: int
    mtime_s: int
    size_bytes: int = 0
    link: str = ""
    links: int = 1
    start: int = 0  # of the data, or of the directory's listing
    offset: int = 0  # in the fragment, or in the listing's first block
    fragment: int = _NONE
    blocks_at: tuple[int, int] = (0, 0)  # where the sizes of its blocks are


class SquashFs:
    """An image's file system. Every method raises ImageError for what is damaged or too much."""

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        self._file = file
        file.seek(0)
        data = file.read(SUPERBLOCK.size)
        if len(data) < SUPERBLOCK.size or not data.startswith(MAGIC):
            raise ImageError(f"this is no squashfs: it starts with {data[:8].hex() or 'nothing'}")
        fields = SUPERBLOCK.unpack(data)
        _, self.inodes, self.made_s, self.block_bytes, fragments, self._compressor, log, _, ids, major, minor = fields[
            :11
        ]
        self._root, self.used_bytes, id_table, _, self._inode_at, self._dir_at, fragment_table, _ = fields[11:]
        if (major, minor) != (4, 0):
            raise ImageError(f"squashfs {major}.{minor} is not supported", hint="4.0 is")
        if not 12 <= log <= 20 or self.block_bytes != 1 << log:
            raise ImageError(f"the squashfs is damaged: block size {self.block_bytes}, log {log}")
        if not SUPERBLOCK.size < self.used_bytes <= size_bytes:
            raise ImageError(f"the squashfs is cut off: it says {self.used_bytes} bytes, there are {size_bytes}")
        if self.inodes > limits.MAX_IMAGE_FILES:
            raise ImageError(f"the squashfs holds {self.inodes} files", hint=f"at most {limits.MAX_IMAGE_FILES}")
        name_of_compressor(self._compressor)
        self._metadata = lru_cache(maxsize=1_024)(self._read_metadata)
        self._fragment = lru_cache(maxsize=4)(self._read_fragment)
        self._ids = [owner for (owner,) in struct.iter_unpack("<I", self._table(id_table, ids, 4))]
        table = self._table(fragment_table, fragments, 16) if fragments else b""
        self._fragments = list(struct.iter_unpack("<QII", table))

    def root(self) -> Node:
        node = self._inode(self._root)
        if node.kind is not EntryKind.DIR:
            raise ImageError("the squashfs is damaged: its root is no directory")
        return node

    def list(self, directory: Node) -> list[tuple[str, Node]]:
        """Name and node of everything in a directory, sorted as on disk."""
        found: list[tuple[str, Node]] = []
        size = directory.size_bytes - 3  # counts "." and ".." somehow
        if size <= 0:
            return found
        if size > _MAX_LIST_BYTES:
            raise ImageError("the squashfs is damaged: a directory's listing is too long")
        data, at = self._read_run(self._dir_at + directory.start, directory.offset, size), 0
        seen: set[bytes] = set()
        while at < size:
            count, start, _ = _unpack("<III", data, at)
            at += 12
            if count > 255:
                raise ImageError("the squashfs is damaged: a directory header counts too much")
            for _ in range(count + 1):
                offset, _, _, length = _unpack("<HhHH", data, at)
                name = data[at + 8 : at + 9 + length]
                at += 9 + length
                if len(name) <= length or b"/" in name or b"\0" in name or name in (b".", b"..") or name in seen:
                    raise ImageError(f"the squashfs is damaged: a directory holds the name {name[:80]!r}")
                seen.add(name)
                found.append((name.decode("utf-8", "surrogateescape"), self._inode((start << 16) | offset)))
                if len(found) > limits.MAX_IMAGE_FILES:
                    raise ImageError("the squashfs holds too many files", hint=f"at most {limits.MAX_IMAGE_FILES}")
        return found

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Every path below the root, parents first. Loops and bombs end at the limits."""
        stack: list[tuple[str, Node]] = [("", self.root())]
        count = 0
        while stack:
            path, directory = stack.pop()
            if path.count("/") >= limits.MAX_IMAGE_DEPTH:
                raise ImageError("the squashfs nests directories too deeply", hint=f"at most {limits.MAX_IMAGE_DEPTH}")
            deeper = []
            for name, node in self.list(directory):
                count += 1
                if count > limits.MAX_IMAGE_FILES:
                    raise ImageError("the squashfs holds too many files", hint=f"at most {limits.MAX_IMAGE_FILES}")
                yield f"{path}{name}", node
                if node.kind is EntryKind.DIR:
                    deeper.append((f"{path}{name}/", node))
            stack.extend(reversed(deeper))

    def read(self, node: Node) -> Iterator[bytes]:
        """A regular file's content, in pieces of at most a block."""
        at, left = node.start, node.size_bytes
        for stored in self._blocks(node):
            size = min(self.block_bytes, left)
            if stored == 0:
                yield bytes(size)
            else:
                block = self._block(at, stored)
                if len(block) != size:
                    raise ImageError("the squashfs is damaged: a block has the wrong size")
                yield block
                at += stored & (_PLAIN_BLOCK - 1)
            left -= size
        if left:
            if node.fragment >= len(self._fragments) or left >= self.block_bytes:
                raise ImageError("the squashfs is damaged: a file's tail is missing")
            tail = self._fragment(node.fragment)[node.offset : node.offset + left]
            if len(tail) != left:
                raise ImageError("the squashfs is damaged: a file's tail is too short")
            yield tail

    # --- tables -----------------------------------------------------------------------------------------------------
    def _inode(self, reference: int) -> Node:
        start, offset = self._inode_at + (reference >> 16), reference & 0xFFFF
        kind, mode, uid, gid, mtime, number = _unpack("<HHHHII", self._read_run(start, offset, 16), 0)
        if max(uid, gid) >= len(self._ids):
            raise ImageError("the squashfs is damaged: an owner is missing")
        facts = {
            "number": number,
            "mode": mode & 0o7777,
            "uid": self._ids[uid],
            "gid": self._ids[gid],
            "mtime_s": mtime,
        }
        offset += 16
        if kind == _DIR:
            block, _, size, within, _ = _unpack("<IIHHI", self._read_run(start, offset, 16), 0)
            return Node(EntryKind.DIR, size_bytes=size, start=block, offset=within, **facts)
        if kind == _DIR + 7:
            _, size, block, _, _, within, _ = _unpack("<IIIIHHI", self._read_run(start, offset, 24), 0)
            return Node(EntryKind.DIR, size_bytes=size, start=block, offset=within, **facts)
        if kind == _REG:
            at, fragment, within, size = _unpack("<IIII", self._read_run(start, offset, 16), 0)
            places = (start, offset + 16)
            return Node(
                EntryKind.FILE, size_bytes=size, start=at, offset=within, fragment=fragment, blocks_at=places, **facts
            )
        if kind == _REG + 7:
            at, size, _, links, fragment, within, _ = _unpack("<QQQIIII", self._read_run(start, offset, 40), 0)
            places = (start, offset + 40)
            return Node(
                EntryKind.FILE,
                size_bytes=size,
                start=at,
                offset=within,
                fragment=fragment,
                blocks_at=places,
                links=links,
                **facts,
            )
        if kind in (_SYMLINK, _SYMLINK + 7):
            _, size = _unpack("<II", self._read_run(start, offset, 8), 0)
            if not 0 < size <= _MAX_SYMLINK:
                raise ImageError("the squashfs is damaged: a link of impossible length")
            link = self._read_run(start, offset + 8, size).decode("utf-8", "surrogateescape")
            return Node(EntryKind.SYMLINK, link=link, **facts)
        if kind in (4, 5, 6, 7, 11, 12, 13, 14):
            return Node(EntryKind.SPECIAL, **facts)
        raise ImageError(f"the squashfs is damaged: a file of type {kind}")

    def _blocks(self, node: Node) -> Iterator[int]:
        """The stored sizes of a file's blocks. Read no sooner than its data: a liar's sizes then cost nothing."""
        if node.size_bytes > limits.MAX_IMAGE_BYTES:
            raise ImageError(
                f"the squashfs holds a file of {node.size_bytes} bytes", hint=f"at most {limits.MAX_IMAGE_BYTES}"
            )
        whole, rest = divmod(node.size_bytes, self.block_bytes)
        count = whole if node.fragment != _NONE or not rest else whole + 1
        start, offset = node.blocks_at
        for first in range(0, count, _BLOCKS_AT_ONCE):
            some = min(_BLOCKS_AT_ONCE, count - first)
            yield from struct.unpack(f"<{some}I", self._read_run(start, offset + first * 4, some * 4))

    def _table(self, at: int, count: int, item_bytes: int) -> bytes:
        """A table that is reached over an index of its metadata blocks."""
        size = count * item_bytes
        blocks = -(-size // _METADATA_BYTES)
        if blocks * 8 > self.used_bytes:
            raise ImageError("the squashfs is damaged: a table is larger than the image")
        index = self._bytes(at, blocks * 8)
        data = b"".join(self._metadata(start)[0] for (start,) in struct.iter_unpack("<Q", index))
        if len(data) < size:
            raise ImageError("the squashfs is damaged: a table is cut off")
        return data[:size]

    def _read_run(self, at: int, offset: int, size: int) -> bytes:
        """``size`` bytes, ``offset`` bytes after the beginning of the metadata block at ``at``."""
        pieces: list[bytes] = []
        while size:
            block, at = self._metadata(at)
            piece = block[offset : offset + size]
            if not piece and len(block) < _METADATA_BYTES:  # only a table's last block is shorter
                raise ImageError("the squashfs is damaged: a table ends too early")
            offset = max(offset - len(block), 0)
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _read_metadata(self, at: int) -> tuple[bytes, int]:
        """One metadata block and where the next begins."""
        (header,) = struct.unpack("<H", self._bytes(at, 2))
        size = header & 0x7FFF
        if not 0 < size <= _METADATA_BYTES:
            raise ImageError("the squashfs is damaged: a metadata block of impossible size")
        data = self._bytes(at + 2, size)
        if not header & 0x8000:
            data = inflate_block(self._compressor, data, _METADATA_BYTES)
        return data, at + 2 + size

    def _read_fragment(self, number: int) -> bytes:
        at, stored, _ = self._fragments[number]
        return self._block(at, stored)

    def _block(self, at: int, stored: int) -> bytes:
        size = stored & (_PLAIN_BLOCK - 1)
        if not 0 < size <= self.block_bytes:
            raise ImageError("the squashfs is damaged: a block of impossible size")
        data = self._bytes(at, size)
        return data if stored & _PLAIN_BLOCK else inflate_block(self._compressor, data, self.block_bytes)

    def _bytes(self, at: int, size: int) -> bytes:
        if at + size > self.used_bytes:
            raise ImageError("the squashfs is damaged: something lies behind its end")
        self._file.seek(at)
        data = self._file.read(size)
        if len(data) != size:
            raise ImageError("the squashfs is cut off")
        return data


def _unpack(form: str, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, at)
    except struct.error as exc:
        raise ImageError("the squashfs is damaged: a directory ends too early") from exc
