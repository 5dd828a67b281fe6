"""A directory of the owner's machine as a reproducible tar."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

from golemp2p import limits
from golemp2p.images.model import ImageError
from golemp2p.images.tarstream import END, EntryKind, TarEntry, copy_bytes, padding, path_parts, write_header


def write_directory(root: Path, out: IO[bytes], warn: Callable[[str], None]) -> int:
    """Everything below ``root``, sorted, times 0, owners 0:0; how many entries.

    Left out, with a warning: devices, sockets and pipes, and what is mounted from another file system. Raises
    ImageError (too much, not readable).
    """
    device = root.stat().st_dev
    count, total_bytes = 0, 0
    linked: dict[int, str] = {}
    stack = [""]
    while stack:
        path = stack.pop()
        at = root / path
        try:
            facts = at.lstat()
            if path:
                path_parts(path)
                count += 1
                if count > limits.MAX_IMAGE_FILES:
                    raise ImageError(f"{root} holds too many files", hint=f"at most {limits.MAX_IMAGE_FILES}")
            mode = stat.S_IMODE(facts.st_mode)
            if facts.st_dev != device:
                warn(f"left out: {path} is on another file system")
            elif stat.S_ISDIR(facts.st_mode):
                write_header(out, TarEntry(f"{path}/" if path else "./", EntryKind.DIR, mode))
                prefix = f"{path}/" if path else ""
                stack.extend(sorted((prefix + below.name for below in at.iterdir()), reverse=True))
            elif stat.S_ISLNK(facts.st_mode):
                link = os.readlink(at)  # noqa: PTH115 - a Path would lose the text as it is
                write_header(out, TarEntry(path, EntryKind.SYMLINK, 0o777, link=link))
            elif stat.S_ISREG(facts.st_mode):
                if facts.st_ino in linked:
                    write_header(out, TarEntry(path, EntryKind.HARDLINK, mode, link=linked[facts.st_ino]))
                    continue
                if facts.st_nlink > 1:
                    linked[facts.st_ino] = path
                total_bytes += facts.st_size
                if total_bytes > limits.MAX_IMAGE_BYTES:
                    raise ImageError(f"{root} is too large", hint=f"at most {limits.MAX_IMAGE_BYTES} bytes")
                write_header(out, TarEntry(path, EntryKind.FILE, mode, size_bytes=facts.st_size))
                with at.open("rb") as file:
                    copy_bytes(file, 0, facts.st_size, out)
                out.write(padding(facts.st_size))
            else:
                warn(f"left out: {path} is a device, socket or pipe")
        except OSError as exc:
            raise ImageError(f"{at} cannot be read: {exc.strerror}") from exc
    out.write(END)
    return count
