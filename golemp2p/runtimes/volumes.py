"""Files in a payload's volumes, reached so that neither a path nor a symlink leads out of them.

The payload writes in these directories, also while we work, so a check before use proves nothing: every step opens one
component relative to the directory before it, without following links; links are followed by hand, inside only.
All functions block; call them from a worker thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from golemp2p import limits
from golemp2p.errors import UsageError

_MAX_LINKS: Final = 40  # as the kernel has it
_DIR: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class GuestPathError(UsageError):
    """A ``container:`` path that does not lead to what was asked for."""

    code = "guest_path"


def split_guest_path(volumes: Mapping[str, Path], guest_path: str) -> tuple[Path, list[str]]:
    """The host directory of the longest volume that holds ``guest_path``, and the components below it."""
    if not guest_path.startswith("/"):
        raise GuestPathError(f"container path {guest_path!r} is not absolute")
    parts = [part for part in guest_path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise GuestPathError(f"container path {guest_path!r} has '..': paths may not climb")
    if not all(map(_is_name, parts)):
        raise GuestPathError(f"container path {guest_path[:80]!r} is no file name")
    best: tuple[int, Path] | None = None
    for guest, host in volumes.items():
        prefix = [part for part in guest.split("/") if part]
        if parts[: len(prefix)] == prefix and (best is None or len(prefix) > best[0]):
            best = len(prefix), host
    if best is None:
        known = ", ".join(sorted(volumes)) or "none"
        raise GuestPathError(f"container path {guest_path!r} is in no volume", hint=f"volumes: {known}")
    return best[1], parts[best[0] :]


def _is_name(part: str) -> bool:
    try:
        return "\0" not in part and len(os.fsencode(part)) <= 255
    except UnicodeEncodeError:
        return False


def open_file(volumes: Mapping[str, Path], guest_path: str) -> int:
    """A descriptor of an existing regular file, for reading; the caller closes it. Raises GuestPathError."""
    root, parts = split_guest_path(volumes, guest_path)
    with contextlib.ExitStack() as stack:
        parent, name = _walk(stack, root, parts, guest_path, create=False, follow_last=True)
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        except OSError as exc:
            raise _missing(guest_path, exc) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise GuestPathError(f"{guest_path!r} is no regular file", hint="a directory needs a format, such as tar")
    return descriptor


def put_file(volumes: Mapping[str, Path], guest_path: str, source: Path, *, mode: int = 0o644) -> None:
    """Copy ``source`` to ``guest_path``; makes missing directories; replaces a file (or link) of that name at once."""

    def write(parent: int, part: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(part, flags, mode, dir_fd=parent), "wb") as target, source.open("rb") as data:
            os.fchmod(target.fileno(), mode)  # whatever our umask is
            shutil.copyfileobj(data, target, 1024 * 1024)

    _put(volumes, guest_path, write)


def put_tree(volumes: Mapping[str, Path], guest_path: str, source: Path) -> None:
    """Copy the directory ``source`` into the directory ``guest_path``: files, directories and links, nothing else."""
    _make_directory(volumes, guest_path)
    for entry in sorted(os.scandir(source), key=lambda e: e.name):
        path = f"{guest_path.rstrip('/')}/{entry.name}"
        if entry.is_symlink():
            target = str(Path(entry.path).readlink())
            _put(volumes, path, partial(_write_link, target))
        elif entry.is_dir():
            put_tree(volumes, path, Path(entry.path))
        elif entry.is_file():
            mode = stat.S_IMODE(entry.stat().st_mode) & 0o777
            put_file(volumes, path, Path(entry.path), mode=mode)


def read_tree(volumes: Mapping[str, Path], guest_path: str, target: Path, *, max_bytes: int, max_files: int) -> None:
    """Copy the directory ``guest_path`` into the new directory ``target``. Links come as links, special files not.

    Raises GuestPathError; UsageError when there is more than the limits allow.
    """
    root, parts = split_guest_path(volumes, guest_path)
    with contextlib.ExitStack() as stack:
        parent, name = _walk(stack, root, parts, guest_path, create=False, follow_last=True)
        try:
            directory = os.open(name, _DIR, dir_fd=parent)
        except OSError as exc:
            raise _missing(guest_path, exc) from None
        try:
            _Copy(guest_path, max_bytes, max_files).directory(directory, target, depth=0)
        except OSError as exc:  # the payload exchanged something under our hands, or our disk is full
            raise GuestPathError(f"cannot copy {guest_path!r}: {exc.strerror}") from None


class _Copy:
    def __init__(self, what: str, max_bytes: int, max_files: int) -> None:
        self._what = what
        self._max_bytes, self._bytes = max_bytes, 0
        self._max_files, self._files = max_files, 0

    def directory(self, descriptor: int, target: Path, *, depth: int) -> None:
        """Closes ``descriptor``."""
        try:
            if depth > limits.MAX_ACTIVITY_DIR_DEPTH:
                raise UsageError(f"{self._what!r} is nested deeper than {limits.MAX_ACTIVITY_DIR_DEPTH} directories")
            target.mkdir(mode=0o700)
            for name in sorted(os.listdir(descriptor)):
                with contextlib.suppress(FileNotFoundError):  # the payload goes on working
                    self._entry(descriptor, name, target / name, depth)
        finally:
            os.close(descriptor)

    def _entry(self, parent: int, name: str, target: Path, depth: int) -> None:
        self._files += 1
        if self._files > self._max_files:
            raise UsageError(f"{self._what!r} holds more than {self._max_files} files")
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            target.symlink_to(os.readlink(name, dir_fd=parent))
        elif stat.S_ISDIR(info.st_mode):
            self.directory(os.open(name, _DIR, dir_fd=parent), target, depth=depth + 1)
        elif stat.S_ISREG(info.st_mode):
            self._file(parent, name, target, stat.S_IMODE(info.st_mode) & 0o777)

    def _file(self, parent: int, name: str, target: Path, mode: int) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        with os.fdopen(descriptor, "rb") as source, target.open("xb") as copy:
            while block := source.read(1024 * 1024):
                self._bytes += len(block)
                if self._bytes > self._max_bytes:
                    raise UsageError(f"{self._what!r} holds more than {self._max_bytes} bytes")
                copy.write(block)
            os.fchmod(copy.fileno(), mode | 0o600)


def _make_directory(volumes: Mapping[str, Path], guest_path: str) -> None:
    root, parts = split_guest_path(volumes, guest_path)
    with contextlib.ExitStack() as stack:
        # One component more, so that the walk makes the directory itself.
        _walk(stack, root, [*parts, "x"], guest_path, create=True, follow_last=False)


def _write_link(target: str, parent: int, part: str) -> None:
    os.symlink(target, part, dir_fd=parent)


def _put(volumes: Mapping[str, Path], guest_path: str, write: Callable[[int, str], None]) -> None:
    """``write`` (directory, name) makes the thing under another name; it then takes its place at once."""
    root, parts = split_guest_path(volumes, guest_path)
    if not parts or guest_path.endswith("/"):
        raise GuestPathError(f"{guest_path!r} names a directory, not a file")
    with contextlib.ExitStack() as stack:
        parent, name = _walk(stack, root, parts, guest_path, create=True, follow_last=False)
        part = f".{secrets.token_hex(8)}.part"
        try:
            write(parent, part)
            _hand_over(parent, part)
            os.rename(part, name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError as exc:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=parent)
            raise GuestPathError(f"cannot write {guest_path!r}: {exc.strerror}") from None


def _walk(
    stack: contextlib.ExitStack, root: Path, parts: list[str], guest_path: str, *, create: bool, follow_last: bool
) -> tuple[int, str]:
    """Descend to the directory of the last component. Directories on the way stay open for the way back up."""

    def opened(descriptor: int) -> int:
        stack.callback(os.close, descriptor)
        return descriptor

    directories = [opened(os.open(root, _DIR & ~os.O_NOFOLLOW))]
    todo = list(reversed(parts))
    links = 0
    while True:
        if not todo:
            return directories[-1], "."
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":  # only links bring these
            if len(directories) == 1:
                raise GuestPathError(f"{guest_path!r} leads out of its volume by a symbolic link")
            directories.pop()
            continue
        here = directories[-1]
        last = not todo
        target = _link(here, part) if follow_last or not last else None
        if target is not None:
            links += 1
            if target.startswith("/"):
                raise GuestPathError(f"{guest_path!r} leads out of its volume by a symbolic link")
            if links > _MAX_LINKS:
                raise GuestPathError(f"{guest_path!r} has too many symbolic links")
            todo.extend(reversed(target.split("/")))
            continue
        if last:
            return here, part
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here)
                    _hand_over(here, part)
            directories.append(opened(os.open(part, _DIR, dir_fd=here)))
        except OSError as exc:
            raise _missing(guest_path, exc) from None


def _hand_over(parent: int, name: str) -> None:
    """To the owner of the directory it is in, where we may: what is brought to a payload is its own."""
    owner, own = os.fstat(parent), os.stat(name, dir_fd=parent, follow_symlinks=False)
    if (owner.st_uid, owner.st_gid) != (own.st_uid, own.st_gid):
        with contextlib.suppress(PermissionError):
            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=parent, follow_symlinks=False)


def _link(directory: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


def _missing(guest_path: str, exc: OSError) -> GuestPathError:
    if isinstance(exc, FileNotFoundError):
        return GuestPathError(f"there is no file {guest_path!r}")
    return GuestPathError(f"cannot open {guest_path!r}: {exc.strerror}")
