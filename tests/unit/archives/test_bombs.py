"""Archives made to take the node's memory or its disk's inodes. What is measured is what Python allocates."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pytest

from golemp2p.archives import ArchiveError, unpack

MIB = 1024 * 1024


@contextmanager
def at_most(most_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def long_header(out: IO[bytes], kind: bytes) -> None:
    """200 MiB that tarfile would read in one piece."""
    out.write(header(kind, 200 * MIB))
    for _ in range(200):
        out.write(bytes(MIB))
    out.write(header(tarfile.REGTYPE, 0))


def old_sparse(out: IO[bytes]) -> None:
    """Extension headers without an end."""
    block = bytearray(header(b"S", 0))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    out.write(bytes(block))
    more = (b"00000000001\0" * 42).ljust(504, b"\0") + b"\1" + bytes(7)
    for _ in range(20_000):
        out.write(more)


def pax_record(name: bytes, value: bytes) -> bytes:
    size = len(name) + len(value) + 3
    while len(b"%d" % size) + len(name) + len(value) + 3 != size:
        size = len(b"%d" % size) + len(name) + len(value) + 3
    return b"%d %s=%s\n" % (size, name, value)


def new_sparse(out: IO[bytes]) -> None:
    """A map that says it has a billion entries."""
    body = pax_record(b"GNU.sparse.major", b"1") + pax_record(b"GNU.sparse.minor", b"0")
    out.write(header(b"x", len(body)) + body.ljust(512, b"\0"))
    out.write(header(tarfile.REGTYPE, 400 * MIB))
    out.write(b"1000000000\n" + b"1\n" * (20 * MIB))


def many_pax(out: IO[bytes]) -> None:
    """Members whose attributes, of 100 kB each, tarfile would all keep."""
    for number in range(2_000):
        body = pax_record(b"comment", b"%d" % number + b"c" * 100_000)
        out.write(header(b"x", len(body)) + body.ljust(-(-len(body) // 512) * 512, b"\0"))
        out.write(header(tarfile.REGTYPE, 0, f"f{number}"))


def many_globals(out: IO[bytes]) -> None:
    for number in range(2_000):
        body = pax_record(b"k%d" % number, b"c" * 60_000)
        out.write(header(b"g", len(body)) + body.ljust(-(-len(body) // 512) * 512, b"\0"))
        out.write(header(tarfile.REGTYPE, 0, f"f{number}"))


def long_links(out: IO[bytes]) -> None:
    for number in range(2_000):
        target = b"t" * 60_000
        out.write(header(b"K", len(target)) + target.ljust(-(-len(target) // 512) * 512, b"\0"))
        out.write(header(tarfile.SYMTYPE, 0, f"l{number}"))


BOMBS: tuple[Callable[[IO[bytes]], None], ...] = (
    lambda out: long_header(out, b"x"),
    lambda out: long_header(out, b"g"),
    lambda out: long_header(out, b"L"),
    lambda out: long_header(out, b"K"),
    old_sparse,
    new_sparse,
    many_pax,
    many_globals,
    long_links,
)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_tar_cannot_take_the_nodes_memory(bomb: Callable[[IO[bytes]], None], tmp_path: Path) -> None:
    archive = tmp_path / "a"
    with gzip.open(archive, "wb", 1) as out:
        bomb(cast(IO[bytes], out))
    with at_most(48 * MIB):
        try:
            unpack(archive, tmp_path / "out", "tar.gz", max_bytes=MIB)
        except ArchiveError:
            return
    assert bomb is many_pax  # the only one that is a right archive


def test_the_directory_of_a_zip_cannot_take_the_nodes_memory(tmp_path: Path) -> None:
    """Entries of 46 bytes on disk are objects of 600 in memory, made before anybody can count them."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as made:
        made.writestr("a", b"")
    start = buffer.getvalue().index(b"PK\1\2")
    entry = buffer.getvalue()[start : buffer.getvalue().index(b"PK\5\6")]
    count = 500_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry) * count, start, 0)
    archive = tmp_path / "a"
    archive.write_bytes(buffer.getvalue()[:start] + entry * count + end)
    with at_most(48 * MIB), pytest.raises(ArchiveError, match="directory"):
        unpack(archive, tmp_path / "out", "zip", max_bytes=MIB)


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_directories_that_are_only_on_the_way_count_as_files(form: str, tmp_path: Path) -> None:
    names = [f"{number}/" + "d/" * 100 + "file" for number in range(20)]
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "a", "w") as made:
            for name in names:
                made.writestr(name, b"")
    else:
        with tarfile.open(tmp_path / "a", "w") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(ArchiveError, match="more than 1000 files"):
        unpack(tmp_path / "a", tmp_path / "out", form, max_bytes=MIB, max_files=1000)


def test_a_tar_of_git_is_taken(tmp_path: Path) -> None:
    """It begins with a global header, and has long names in extended ones."""
    name = "d" * 90 + "/" + "f" * 120
    with tarfile.open(tmp_path / "a", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "c" * 40}) as tar:
        info = tarfile.TarInfo(name)
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
    unpack(tmp_path / "a", tmp_path / "out", "tar", max_bytes=MIB)
    assert (tmp_path / "out" / name).read_bytes() == b"hi"


def test_an_xz_that_demands_a_gigabyte_of_memory_is_refused(tmp_path: Path) -> None:
    raw = lzma.compress(b"x" * 1024, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
    # The size of the dictionary is one byte of the block's header, before its check sum.
    block = bytearray(raw[12:24])
    assert block[2] == 0x21
    block[4] = 37  # 1 GiB
    block[8:12] = zlib.crc32(block[:8]).to_bytes(4, "little")
    (tmp_path / "a").write_bytes(raw[:12] + bytes(block) + raw[24:])
    with pytest.raises(ArchiveError, match="emory"):
        unpack(tmp_path / "a", tmp_path / "out", "tar.xz", max_bytes=MIB)


def test_xz_streams_that_follow_each_other_are_one_archive_and_a_cut_one_is_none(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "plain", "w") as tar:
        info = tarfile.TarInfo("f")
        info.size = 100_000
        tar.addfile(info, io.BytesIO(bytes(range(250)) * 400))
    plain = (tmp_path / "plain").read_bytes()
    packed = lzma.compress(plain[:50_000]) + bytes(8) + lzma.compress(plain[50_000:])
    (tmp_path / "a").write_bytes(packed)
    unpack(tmp_path / "a", tmp_path / "out", "tar.xz", max_bytes=MIB)
    assert (tmp_path / "out/f").read_bytes() == bytes(range(250)) * 400
    (tmp_path / "cut").write_bytes(packed[:200])
    with pytest.raises(ArchiveError):
        unpack(tmp_path / "cut", tmp_path / "out2", "tar.xz", max_bytes=MIB)
