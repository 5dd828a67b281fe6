"""Counting and removing what a payload made."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import golemp2p
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


def test_what_lies_deeper_than_paths_may_be_long_is_not_overlooked(tmp_path: Path) -> None:
    """Twenty names of 255 characters: few directories, and no path by which they could be opened."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 255, dir_fd=here)
        inner = os.open("d" * 255, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    descriptor = os.open("hidden", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.write(descriptor, os.urandom(MIB))
    os.close(descriptor)
    os.close(here)
    try:
        found = used_bytes([tmp_path], enough_bytes=100 * MIB)
    except TooManyFilesError:
        return
    finally:
        remove_tree(tmp_path)
    assert found > MIB


REMOVE_AS_NOBODY = """
import os, sys
from pathlib import Path
from golemp2p.activity.disk import remove_tree, used_bytes
os.setgid(65534); os.setuid(65534)
root = Path(sys.argv[1])
(root / "work/a/b").mkdir(parents=True)
(root / "work/a/b/file").write_text("x")
(root / "work/c").mkdir()
(root / "work/c/file").write_text("x")
(root / "work/a/b").chmod(0)
(root / "work/a").chmod(0o300)
(root / "work/c").chmod(0o500)
(root / "work/h").mkdir()
(root / "work/h/hidden").write_bytes(os.urandom(1 << 20))
(root / "work/h").chmod(0)
assert used_bytes([root / "work"], enough_bytes=1 << 30) > 1 << 20
remove_tree(root / "work")
sys.exit((root / "work").exists())
"""


def test_directories_that_their_owner_may_not_enter_are_counted_and_removed(tmp_path: Path) -> None:
    """By a node that is not root's: its payloads can take their own directories' rights away."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o777)
    package = Path(golemp2p.__file__).parent.parent
    try:
        done = subprocess.run(
            [sys.executable, "-c", REMOVE_AS_NOBODY, str(place)], check=False, cwd=package, env={"PYTHONPATH": "."}
        )
        assert done.returncode == 0
    finally:
        remove_tree(place)
