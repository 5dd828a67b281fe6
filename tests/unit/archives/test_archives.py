from __future__ import annotations

import io
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golemp2p.archives import FORMATS, ArchiveError, check_format, pack, unpack

MIB = 1024 * 1024


def tree(root: Path) -> dict[str, object]:
    """What is there, in words."""
    return {
        path.relative_to(root).as_posix(): (
            f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes() if path.is_file() else None
        )
        for path in root.rglob("*")
    }


def some_tree(root: Path) -> Path:
    (root / "a" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "a" / "file").write_bytes(b"x" * 100_000)
    (root / "a" / "deep" / "tool").write_text("#!/bin/sh\n")
    (root / "a" / "deep" / "tool").chmod(0o755)
    (root / "a" / "link").symlink_to("deep/tool")
    (root / "grün €").write_text("unicode")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize("form", FORMATS)
def test_a_directory_comes_out_as_it_went_in_without_special_files(form: str, tmp_path: Path) -> None:
    source = some_tree(tmp_path / "in")
    pack(source, tmp_path / "archive", form)
    unpack(tmp_path / "archive", tmp_path / "out", form, max_bytes=MIB)
    (source / "pipe").unlink()
    assert tree(tmp_path / "out") == tree(source)
    assert (tmp_path / "out/a/deep/tool").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("form", FORMATS)
def test_packing_is_reproducible(form: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        source = some_tree(tmp_path / name)
        os.utime(source / "a" / "file", (1, len(name) * 1000))
        pack(source, tmp_path / f"{name}.archive", form)
    assert (tmp_path / "one.archive").read_bytes() == (tmp_path / "two.archive").read_bytes()


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([member("../evil")], "leads out"),
        ([member("/etc/evil")], "leads out"),
        ([member("a/../../evil")], "leads out"),
        ([member("out", tarfile.SYMTYPE, "/etc")], "leads out"),
        ([member("a/out", tarfile.SYMTYPE, "../../etc")], "leads out"),
        ([member("out", tarfile.SYMTYPE, ".."), member("out/evil")], "leads out"),
        ([member("d", tarfile.SYMTYPE, "."), member("d/evil")], "twice"),
        ([member("twice"), member("twice")], "twice"),
        ([member("null", tarfile.CHRTYPE)], "neither file"),
        ([member("pipe", tarfile.FIFOTYPE)], "neither file"),
        ([member("hard", tarfile.LNKTYPE, "/etc/passwd")], "neither file"),
        ([member("/".join("d" * 200))], "too deep"),
    ],
)
def test_what_would_get_out_is_refused(members: list[tarfile.TarInfo], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(tar_of(*((m, b"") for m in members)))
    with pytest.raises(ArchiveError, match=complaint):
        unpack(tmp_path / "bad.tar", tmp_path / "out", "tar", max_bytes=MIB)
    assert not (tmp_path / "evil").exists()


def test_a_zip_cannot_climb_and_its_links_stay_inside(tmp_path: Path) -> None:
    for name, target in (("../evil", None), ("/evil", None), ("link", "../..")):
        path = tmp_path / "bad.zip"
        with zipfile.ZipFile(path, "w") as archive:
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if target else 0o100644) << 16
            archive.writestr(info, target or "x")
        out = tmp_path / f"out{len(name)}"
        with pytest.raises(ArchiveError, match="leads out"):
            unpack(path, out, "zip", max_bytes=MIB)


@pytest.mark.parametrize("form", ["tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_a_bomb_ends_at_the_limit(form: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "zeros").open("wb") as file:
        file.truncate(20 * MIB)
    pack(tmp_path / "in", tmp_path / "bomb", form)
    assert (tmp_path / "bomb").stat().st_size < MIB
    with pytest.raises(ArchiveError, match="more than 1048576 bytes"):
        unpack(tmp_path / "bomb", tmp_path / "out", form, max_bytes=MIB)
    assert sum(p.stat().st_size for p in (tmp_path / "out").rglob("*")) <= MIB


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_too_many_files_are_refused(form: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(20):
        (tmp_path / "in" / str(number)).touch()
    pack(tmp_path / "in", tmp_path / "many", form)
    with pytest.raises(ArchiveError, match="more than 10 files"):
        unpack(tmp_path / "many", tmp_path / "out", form, max_bytes=MIB, max_files=10)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FORMATS), st.data())
def test_damaged_archives_are_named_errors_and_nothing_else(form: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "in").mkdir()
        (root / "in" / "file").write_bytes(b"hello" * 50)
        pack(root / "in", root / "archive", form)
        whole = bytearray((root / "archive").read_bytes())
        if data.draw(st.booleans()):
            del whole[data.draw(st.integers(0, len(whole) - 1)) :]
        else:
            for _ in range(data.draw(st.integers(1, 5))):
                whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        (root / "archive").write_bytes(whole)
        try:
            unpack(root / "archive", root / "out", form, max_bytes=MIB)
        except ArchiveError as exc:
            assert exc.message


def test_formats_have_short_names_and_unknown_ones_are_named() -> None:
    assert check_format("TGZ") == "tar.gz"
    with pytest.raises(ArchiveError, match="'rar'"):
        check_format("rar")
