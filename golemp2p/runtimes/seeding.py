"""A fresh volume's first content, unpacked from a tar of what the image has at the volume's path.

The tar may hold anything. Each entry is made relative to a directory that we made or opened ourselves, never through
a link, and nothing that is there is replaced, so nothing lands outside of the volume. Nothing else may write in it
meanwhile: the payload is not started yet. Set-id bits of files are dropped, devices and pipes left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from golemp2p import limits
from golemp2p.images.model import ImageError
from golemp2p.images.tarstream import EntryKind, TarEntry, copy_bytes, path_parts, read_tar
from golemp2p.runtimes.base import RuntimeFailureError

_DIR: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNIT_BYTES: Final = 4_096  # what file systems give away at a time
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Room:
    """What the volumes of one activity may take together."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.left_bytes = size_bytes
        self.left_files = limits.MAX_SEED_FILES

    def take(self, size_bytes: int) -> None:
        """Room for one file. Raises RuntimeFailureError."""
        self.left_bytes -= max(-(-size_bytes // _UNIT_BYTES), 1) * _UNIT_BYTES
        self.left_files -= 1
        if self.left_bytes < 0:
            raise self.full()
        if self.left_files < 0:
            raise RuntimeFailureError(
                "the image holds too many files in its volumes", hint=f"at most {limits.MAX_SEED_FILES}"
            )

    def full(self) -> RuntimeFailureError:
        return RuntimeFailureError(
            f"what the image holds in its volumes does not fit on the {self.size_bytes // limits.MIB} MiB of disk",
            hint="agree on more storage, or keep the files elsewhere in the image; small files take room, too",
        )


def seed_volume(volume: Path, tar: IO[bytes], room: Room, *, check: Callable[[], None] = lambda: None) -> None:
    """Unpack ``tar`` (seekable; first the directory itself, then what is in it) into the empty directory ``volume``.

    Blocks; ``check`` is called between files and may raise to end it. Owners are kept where we are root: elsewhere
    all is ours, as is the payload. Raises RuntimeFailureError.
    """
    size_bytes = tar.seek(0, os.SEEK_END)
    try:
        with contextlib.closing(_Seeder(volume, tar, room)) as seeder:
            for entry in read_tar(tar, 0, size_bytes):
                check()
                seeder.add(entry)
    except ImageError as exc:
        raise RuntimeFailureError(f"cannot copy the image's files into a volume: {exc.message}") from None
    except OSError as exc:
        if exc.errno in _FULL:
            raise room.full() from None
        raise RuntimeFailureError(f"cannot copy the image's files into a volume: {exc.strerror}") from None


class _Seeder:
    def __init__(self, volume: Path, tar: IO[bytes], room: Room) -> None:
        self._tar, self._room = tar, room
        self._root = os.geteuid() == 0
        self._prefix: tuple[str, ...] | None = None  # how the tar calls the volume
        # The way down to where the last entry was made; the next is mostly there, too.
        self._names: list[str] = []
        self._open: list[int] = [os.open(volume, _DIR)]

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def add(self, entry: TarEntry) -> None:
        parts = self._within(entry.name, is_first=self._prefix is None)
        if not parts:
            if entry.kind is EntryKind.DIR:
                # Whatever the image says, a volume is there to be written to by whom it is given to.
                self._finish(self._open[0], dataclasses.replace(entry, mode=entry.mode | 0o700))
            return
        if entry.kind is EntryKind.SPECIAL:
            return
        name, parent = parts[-1], self._descend(parts[:-1])
        if entry.kind is EntryKind.HARDLINK:
            self._link(entry, parent, name)
            return
        self._room.take(entry.size_bytes)
        if entry.kind is EntryKind.DIR:
            os.mkdir(name, 0o700, dir_fd=parent)
            self._finish(self._descend(parts), entry)
        elif entry.kind is EntryKind.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
            if self._root:
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        else:
            with os.fdopen(os.open(name, _NEW, 0o600, dir_fd=parent), "wb") as file:
                copy_bytes(self._tar, entry.offset, entry.size_bytes, file)
                file.flush()
                self._finish(file.fileno(), entry)
                os.utime(file.fileno(), (entry.mtime_s, entry.mtime_s))

    def _link(self, entry: TarEntry, parent: int, name: str) -> None:
        """A second name; of something in the volume, as it was put there."""
        self._room.take(0)
        target = self._within(entry.link, is_first=False)
        if not target:
            raise ImageError(f"{entry.name[:200]!r} is a hard link to a directory")
        here = os.dup(parent)  # going to the target may close it
        try:
            there = self._descend(target[:-1])
            os.link(target[-1], name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(here)

    def _within(self, name: str, *, is_first: bool) -> tuple[str, ...]:
        """The path below the volume. Engines name the directory itself ``.``, or by its last component."""
        parts = path_parts(name)
        if is_first:
            self._prefix = parts
        prefix = self._prefix or ()
        if parts[: len(prefix)] != prefix:
            raise ImageError(f"{name[:200]!r} is not in the volume's directory")
        return parts[len(prefix) :]

    def _descend(self, parts: tuple[str, ...]) -> int:
        """A descriptor of the directory, which must be there."""
        same = 0
        while same < min(len(parts), len(self._names)) and parts[same] == self._names[same]:
            same += 1
        while len(self._names) > same:
            self._names.pop()
            os.close(self._open.pop())
        for part in parts[same:]:
            self._open.append(os.open(part, _DIR, dir_fd=self._open[-1]))
            self._names.append(part)
        return self._open[-1]

    def _finish(self, descriptor: int, entry: TarEntry) -> None:
        is_dir = entry.kind is EntryKind.DIR
        if self._root:
            os.fchown(descriptor, entry.uid, entry.gid)
            os.fchmod(descriptor, entry.mode & (0o3777 if is_dir else 0o777))
        else:  # what we could not enter we could neither count nor remove
            os.fchmod(descriptor, (entry.mode & (0o1777 if is_dir else 0o777)) | (0o700 if is_dir else 0o600))
