"""Paths of a payload stay in its volumes, whatever it puts there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.runtimes.volumes import GuestPathError, open_file, put_file, put_tree, read_tree, split_guest_path


@pytest.fixture
def volumes(tmp_path: Path) -> Mapping[str, Path]:
    found = {"/golem/work": tmp_path / "work", "/golem/work/deep": tmp_path / "deep", "/data": tmp_path / "data"}
    for path in found.values():
        path.mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "source").write_text("new")
    return found


def read(volumes: Mapping[str, Path], path: str) -> str:
    with os.fdopen(open_file(volumes, path)) as file:
        return file.read()


def test_the_longest_volume_wins(volumes: Mapping[str, Path]) -> None:
    assert split_guest_path(volumes, "/golem/work/deep/x") == (volumes["/golem/work/deep"], ["x"])
    assert split_guest_path(volumes, "/golem//work/./deeper/x") == (volumes["/golem/work"], ["deeper", "x"])


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("x", "not absolute"),
        ("/golem/work/../x", r"'\.\.'"),
        ("/etc/passwd", "in no volume"),
        ("/golem/workx", "in no"),
    ],
)
def test_what_is_in_no_volume_is_refused(volumes: Mapping[str, Path], path: str, complaint: str) -> None:
    with pytest.raises(GuestPathError, match=complaint):
        open_file(volumes, path)
    with pytest.raises(GuestPathError, match=complaint):
        put_file(volumes, path, volumes["/data"].parent / "source")


def test_files_are_read_and_written_and_directories_made(volumes: Mapping[str, Path], tmp_path: Path) -> None:
    put_file(volumes, "/data/a/b/c.txt", tmp_path / "source")
    assert read(volumes, "/data/a/b/c.txt") == "new"
    put_file(volumes, "/data/a/b/c.txt", tmp_path / "secret")
    assert read(volumes, "/data/a/b/c.txt") == "secret"
    assert [path.name for path in (tmp_path / "data" / "a" / "b").iterdir()] == ["c.txt"]
    with pytest.raises(GuestPathError, match="there is no file '/data/zzz'"):
        read(volumes, "/data/zzz")
    with pytest.raises(GuestPathError, match="no regular file"):
        read(volumes, "/data/a")
    with pytest.raises(GuestPathError, match="names a directory"):
        put_file(volumes, "/data/a/", tmp_path / "source")


def test_links_inside_are_followed_and_links_out_are_refused(volumes: Mapping[str, Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "dir").mkdir()
    (data / "dir" / "file").write_text("inside")
    (data / "good").symlink_to("dir/../dir/file")
    (data / "gooddir").symlink_to("dir")
    assert read(volumes, "/data/good") == "inside"
    assert read(volumes, "/data/gooddir/file") == "inside"
    (data / "up").symlink_to("../secret")
    (data / "updir").symlink_to("..")
    (data / "absolute").symlink_to(tmp_path / "secret")
    (data / "loop").symlink_to("loop")
    for path in ("/data/up", "/data/updir/secret", "/data/absolute"):
        with pytest.raises(GuestPathError, match="leads out of its volume"):
            read(volumes, path)
    with pytest.raises(GuestPathError, match="too many symbolic links"):
        read(volumes, "/data/loop")
    with pytest.raises(GuestPathError, match="leads out"):
        put_file(volumes, "/data/updir/x", tmp_path / "source")


def test_writing_over_a_link_replaces_the_link(volumes: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "data" / "trap").symlink_to("../secret")
    put_file(volumes, "/data/trap", tmp_path / "source")
    assert (tmp_path / "secret").read_text() == "secret"
    assert read(volumes, "/data/trap") == "new"


def test_a_pipe_does_not_block_us(volumes: Mapping[str, Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data" / "pipe")
    with pytest.raises(GuestPathError, match="no regular file"):
        open_file(volumes, "/data/pipe")


@given(st.text(max_size=40))
def test_any_path_is_inside_or_refused(path: str) -> None:
    root = Path("/volume")
    try:
        host, parts = split_guest_path({"/v": root}, path)
    except GuestPathError:
        return
    assert host == root
    assert ".." not in parts


def test_a_tree_with_names_that_are_no_text_goes_in_and_comes_out(volumes: Mapping[str, Path], tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfcn")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / name).write_text("x")
    put_tree(volumes, "/data/in", tmp_path / "tree")
    read_tree(volumes, "/data/in", tmp_path / "back", max_bytes=100, max_files=10)
    assert (tmp_path / "back" / name).read_text() == "x"


def test_what_is_exchanged_while_it_is_read_is_an_error_of_ours(
    volumes: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "a").mkdir()
    (tmp_path / "data" / "a" / "b").mkdir()
    look = os.stat

    def exchange(path: str, **how: Any) -> os.stat_result:
        facts = look(path, **how)
        if path == "b" and not (tmp_path / "data/a/b").is_symlink():
            (tmp_path / "data/a/b").rmdir()
            (tmp_path / "data/a/b").symlink_to("/etc")
        return facts

    monkeypatch.setattr(os, "stat", exchange)
    with pytest.raises(GuestPathError):
        read_tree(volumes, "/data/a", tmp_path / "out", max_bytes=100, max_files=10)
    monkeypatch.undo()
    assert not (tmp_path / "out/b/passwd").exists()
