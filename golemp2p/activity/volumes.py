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
from collections.abc import Mapping
from pathlib import Path
from typing import Final

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
    if any("\0" in part or len(part.encode()) > 255 for part in parts):
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
        raise GuestPathError(f"{guest_path!r} is not a regular file", hint="directories are not transferred yet")
    return descriptor


def put_file(volumes: Mapping[str, Path], guest_path: str, source: Path) -> None:
    """Copy ``source`` to ``guest_path``; makes missing directories; replaces a file (or link) of that name at once."""
    root, parts = split_guest_path(volumes, guest_path)
    if not parts or guest_path.endswith("/"):
        raise GuestPathError(f"{guest_path!r} names a directory, not a file")
    with contextlib.ExitStack() as stack:
        parent, name = _walk(stack, root, parts, guest_path, create=True, follow_last=False)
        part = f".{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(part, flags, 0o644, dir_fd=parent), "wb") as target, source.open("rb") as data:
                shutil.copyfileobj(data, target, 1024 * 1024)
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
            directories.append(opened(os.open(part, _DIR, dir_fd=here)))
        except OSError as exc:
            raise _missing(guest_path, exc) from None


def _link(directory: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


def _missing(guest_path: str, exc: OSError) -> GuestPathError:
    if isinstance(exc, FileNotFoundError):
        return GuestPathError(f"there is no file {guest_path!r}")
    return GuestPathError(f"cannot open {guest_path!r}: {exc.strerror}")
