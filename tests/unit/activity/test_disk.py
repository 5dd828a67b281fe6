"""Counting and removing what a payload made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from golemp2p import limits
from golemp2p.activity.disk import TooManyFilesError, remove_tree, used_bytes

MIB = 1024 * 1024


def nest(root: Path, levels: int) -> None:
    """Deeper than any path may be long."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("level", dir_fd=here)
        inner = os.open("level", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_all_files_count_and_no_link_is_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "work", tmp_path / "outside"
    (root / "deep" / "deeper").mkdir(parents=True)
    outside.mkdir()
    for path in (root / "a", root / "deep" / "b", root / "deep" / "deeper" / "c", outside / "d"):
        path.write_bytes(os.urandom(MIB))
    (root / "link").symlink_to(outside)
    assert 3 * MIB <= used_bytes([root], enough_bytes=100 * MIB) < 3.5 * MIB


def test_sparse_files_and_further_names_take_no_space(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1024 * MIB)
    (tmp_path / "a").write_bytes(os.urandom(MIB))
    for number in range(20):
        os.link(tmp_path / "a", tmp_path / f"again-{number}")
    assert MIB <= used_bytes([tmp_path], enough_bytes=100 * MIB) < 2 * MIB


def test_empty_files_are_not_free(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert used_bytes([tmp_path], enough_bytes=MIB) >= 100 * limits.DISK_ENTRY_BYTES


def test_too_many_files_and_too_deep_trees_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nest(tmp_path, limits.MAX_ACTIVITY_DIR_DEPTH + 5)
    with pytest.raises(TooManyFilesError, match="deep"):
        used_bytes([tmp_path], enough_bytes=100 * MIB)
    monkeypatch.setattr(limits, "MAX_ACTIVITY_FILES", 50)
    with pytest.raises(TooManyFilesError, match="50 files"):
        used_bytes([tmp_path], enough_bytes=100 * MIB)


def test_a_tree_deeper_than_paths_and_stacks_is_removed_and_nothing_outside(tmp_path: Path) -> None:
    root, outside = tmp_path / "work", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "mine").touch()
    (root / "link").symlink_to(outside)
    nest(root, 3_000)
    (root / "twin").mkdir()
    nest(root / "twin", 10)
    remove_tree(root)
    assert not root.exists()
    assert (outside / "mine").exists()


def test_what_does_not_exist_takes_nothing_and_is_removed_already(tmp_path: Path) -> None:
    assert used_bytes([tmp_path / "none"], enough_bytes=1) == 0
    remove_tree(tmp_path / "none")
