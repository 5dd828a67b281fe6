"""Tars that anybody may have written: read as tarfile reads them, or refused."""

from __future__ import annotations

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.images.model import ImageError
from golemp2p.images.tarstream import EntryKind, TarEntry, path_parts, read_tar, write_file, write_header
from tests.unit.images.making import info, tar

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=120)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join).filter(lambda p: not p.endswith("/"))


def read(data: bytes) -> list[TarEntry]:
    return list(read_tar(io.BytesIO(data), 0, len(data)))


@given(
    st.lists(st.tuples(PATHS, st.binary(max_size=1500)), max_size=6),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_what_tarfile_writes_is_read_as_it_was_meant(files: list[tuple[str, bytes]], form: int) -> None:
    data = tar(files, form)
    found = read(data)
    assert [(entry.name, data[entry.offset : entry.offset + entry.size_bytes]) for entry in found] == files
    assert all(entry.kind is EntryKind.FILE for entry in found)


@given(st.data())
def test_a_cut_or_changed_tar_is_read_or_refused_never_worse(data: st.DataObject) -> None:
    long = "n" * 150
    whole = bytearray(
        tar([("a", b"x" * 700), (info(long, tarfile.SYMTYPE, link=long), b""), (info("d", tarfile.DIRTYPE), b"")])
    )
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(ImageError):
        for entry in read(cut):
            assert entry.offset + entry.size_bytes <= len(cut)


@given(st.binary(max_size=2000))
def test_noise_is_no_tar(data: bytes) -> None:
    with contextlib.suppress(ImageError):
        read(data)


@given(PATHS, PATHS, st.integers(0, 2**31 - 1), st.integers(0, 0o7777), st.integers(0, 2**33))
def test_what_we_write_is_what_tarfile_reads(name: str, link: str, uid: int, mode: int, mtime: int) -> None:
    out = io.BytesIO()
    write_header(out, TarEntry(name, EntryKind.SYMLINK, mode, uid, uid, 0, mtime, link))
    write_file(out, name, b"data")
    out.write(bytes(1024))
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        one, two = archive.getmembers()
        assert (one.name, one.linkname, one.uid, one.mode, one.mtime) == (name, link, uid, mode, mtime)
        content = archive.extractfile(two)
        assert content is not None
        assert content.read() == b"data"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/..", "/../x", "x\0y", "x" * 5000, "/".join("a" * 200)])
def test_paths_that_lead_out_or_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ImageError):
        path_parts(name)


def test_absolute_and_dotted_paths_are_taken_as_relative() -> None:
    assert path_parts("/./usr//bin/") == ("usr", "bin")
    assert path_parts("./") == ()


def test_headers_that_claim_much_cost_nothing() -> None:
    header = bytearray(tar([("x", b"")])[:512])
    header[156:157] = b"L"
    header[124:136] = b"\x80" + (2**40).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    with pytest.raises(ImageError, match="extended tar header"):
        read(bytes(header))


@pytest.mark.parametrize("kind", [b"S", b"M", b"V"])
def test_entries_that_no_image_has_are_refused_by_name(kind: bytes) -> None:
    with pytest.raises(ImageError, match="not supported"):
        read(tar([(info("x", kind), b"")]))


def test_a_sparse_file_by_pax_is_refused() -> None:
    member = info("x")
    member.pax_headers = {"GNU.sparse.major": "1"}
    with pytest.raises(ImageError, match="sparse"):
        read(tar([(member, b"")]))
