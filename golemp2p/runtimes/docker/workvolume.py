"""Volumes of a limited size: directories on an ext4 image of their own, mounted by a loop device.

Only where we may mount (root). Elsewhere plain directories, whose sum the supervisor's disk watch bounds.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import structlog

from golemp2p import limits
from golemp2p.runtimes.base import RuntimeFailureError

log = structlog.get_logger(__name__)

IMAGE: Final = "volumes.ext4"
MOUNT: Final = "volumes"


def make_volume(work_dir: Path, size_bytes: int) -> Path:
    """A mounted, empty directory of ``size_bytes`` below ``work_dir``; blocks. Raises RuntimeFailureError."""
    image, mount = work_dir / IMAGE, work_dir / MOUNT
    mount.mkdir(mode=0o700)
    size_bytes = max(size_bytes, limits.MIN_VOLUME_BYTES)
    options = ["-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", "-i", "16384"]
    try:
        with image.open("xb") as file:
            file.truncate(size_bytes)
        _run("mkfs.ext4", *options, str(image))
        _run("mount", "-o", "loop,nosuid,nodev", str(image), str(mount))
        (mount / "lost+found").rmdir()
    except (RuntimeFailureError, OSError) as exc:
        drop_volume(work_dir)
        image.unlink(missing_ok=True)  # what is there is taken for mounted, and its directory is not watched
        raise RuntimeFailureError(str(exc)) from None
    return mount


def drop_volume(work_dir: Path) -> None:
    """Unmount; harmless where nothing is mounted. Lazily: a file that is still open must not keep the activity."""
    mount = work_dir / MOUNT
    if mount.is_mount():
        _unmount(str(mount))


def drop_all(root: Path) -> None:
    """What a killed node left mounted below ``root``."""
    prefix = f"{root.resolve()}/"
    for line in reversed(Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()):
        # The kernel escapes white space and backslashes only.
        place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[1])
        if place.startswith(prefix):
            log.warning("mount_left_behind", place=place)
            _unmount(place)


def _unmount(place: str) -> None:
    """Never raises: what does not go now goes when the node starts again."""
    try:
        done = subprocess.run(
            ["umount", "-l", place], check=False, capture_output=True, text=True, timeout=limits.MOUNT_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as exc:
        log.warning("mount_not_dropped", place=place, error=str(exc))
        return
    if done.returncode != 0:
        log.warning("mount_not_dropped", place=place, error=done.stderr.strip()[-300:])


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=limits.MOUNT_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise RuntimeFailureError(f"{command[0]} failed: {exc}") from None
    if done.returncode != 0:
        raise RuntimeFailureError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
