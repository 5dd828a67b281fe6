"""What a work directory takes on the disk, and its removal. The payload makes its own tree, as deep as it likes, while
we look: nothing here recurses, follows a link or holds more than one directory open beside the root.

All functions block; call them from a worker thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from golemp2p import limits

_DIR: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class TooManyFilesError(Exception):
    """More entries or levels than we are ready to walk through once a second."""


def used_bytes(roots: Sequence[Path], *, enough_bytes: int) -> int:
    """Of all files at and below ``roots``; stops counting beyond ``enough_bytes``. 0 where there is none.

    Blocks that are allocated, so that sparse files count as what they take, and DISK_ENTRY_BYTES for each entry.
    Raises TooManyFilesError.
    """
    total, entries = 0, 0
    linked: set[int] = set()  # inodes with several names: they take their space once
    todo = [(str(root), 0) for root in roots]
    while todo and total <= enough_bytes:
        path, depth = todo.pop()
        try:
            descriptor = _opened(path)
        except NotADirectoryError:
            total += _blocks_of(path)
            continue
        except OSError as exc:  # gone meanwhile, or a link now
            if exc.errno == errno.ENAMETOOLONG:
                raise TooManyFilesError("directories with paths that are too long") from None
            continue
        try:
            with os.scandir(descriptor) as found:
                for entry in found:
                    try:
                        facts = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    entries += 1
                    if stat.S_ISDIR(facts.st_mode):
                        todo.append((f"{path}/{entry.name}", depth + 1))
                    elif facts.st_nlink > 1:
                        if facts.st_ino in linked:
                            continue
                        linked.add(facts.st_ino)
                    total += facts.st_blocks * 512 + limits.DISK_ENTRY_BYTES
                    if entries > limits.MAX_ACTIVITY_FILES:
                        raise TooManyFilesError(f"more than {limits.MAX_ACTIVITY_FILES} files")
        finally:
            os.close(descriptor)
        if depth > limits.MAX_ACTIVITY_DIR_DEPTH:
            raise TooManyFilesError(f"directories more than {limits.MAX_ACTIVITY_DIR_DEPTH} deep")
    return total


def _opened(path: str) -> int:
    try:
        return os.open(path, _DIR)
    except PermissionError:  # a payload of our own user does not hide what it has
        _unlock(path)
        return os.open(path, _DIR)


def _blocks_of(path: str) -> int:
    try:
        return Path(path).lstat().st_blocks * 512
    except OSError:
        return 0


def remove_tree(root: Path) -> None:
    """Remove ``root`` with all that is in it; what cannot be removed stays. Nobody else may write there any more.

    Directories are moved up to the root before they are emptied, so any depth is fine.
    """
    _unlock(root)
    try:
        top = os.open(root, _DIR)
    except OSError:
        with contextlib.suppress(OSError):
            root.unlink()
        return
    try:
        number = 0
        todo = deque(_clear(top))
        for name in todo:
            _unlock(name, top)
        while todo:
            name = todo.popleft()
            try:
                inner = os.open(name, _DIR, dir_fd=top)
            except OSError:
                continue
            try:
                for child in _clear(inner):
                    _unlock(child, inner)
                    number += 1
                    moved = f".removing-{os.getpid()}-{number}"
                    with contextlib.suppress(OSError):
                        os.rename(child, moved, src_dir_fd=inner, dst_dir_fd=top)
                        todo.append(moved)
            finally:
                os.close(inner)
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        root.rmdir()


def _unlock(name: str | Path, directory: int | None = None) -> None:
    """Let ourselves into a directory whose owner, who is us unless we are root, may not enter or move it."""
    if os.geteuid() == 0:
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            mode = os.fstat(descriptor).st_mode
            if mode & 0o700 != 0o700:  # by descriptor: a name may have become a link meanwhile
                Path(f"/proc/self/fd/{descriptor}").chmod(stat.S_IMODE(mode) | 0o700)
        finally:
            os.close(descriptor)


def _clear(descriptor: int) -> list[str]:
    """Unlink all but the directories, and name those."""
    directories = []
    for name in os.listdir(descriptor):
        try:
            os.unlink(name, dir_fd=descriptor)
        except (IsADirectoryError, PermissionError):  # POSIX has EPERM for it
            directories.append(name)
        except OSError:
            continue
    return directories
