"""A Debian root file system as a .gvmi image in Golem's layout, made by debootstrap once and kept in the user's cache.

25 seconds the first time. What cannot be made fails the test that needs it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path

from golemp2p.locations import Locations

SUITE = "bookworm"
CONFIG = {"Env": ["LANG=C.UTF-8"], "Cmd": ["bash"], "WorkingDir": "/golem/work", "Volumes": {"/golem/work": {}}}
LEAVE_OUT = ("var/cache", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")


def debian_gvmi() -> Path:
    """The image. Raises AssertionError that says what is missing."""
    directory = Locations.find().cache / "tests"
    directory.mkdir(parents=True, exist_ok=True)
    image = directory / f"debian-{SUITE}.gvmi"
    with (directory / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            with tempfile.TemporaryDirectory(dir=directory) as temporary:
                part = Path(temporary) / "image"
                _make(Path(temporary) / "root", part)
                part.rename(image)
    return image


def _make(root: Path, image: Path) -> None:
    _run("debootstrap", "--variant=minbase", SUITE, str(root))
    for name in LEAVE_OUT:
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "var/cache/apt/archives/partial").mkdir(parents=True)
    _run("mksquashfs", str(root), str(image), "-comp", "zstd", "-no-progress", "-quiet")
    config = json.dumps(CONFIG).encode()
    with image.open("ab") as file:
        file.write(zlib.crc32(config).to_bytes(4, "little") + config + f"{len(config):08}".encode())


def _run(*command: str) -> None:
    program = shutil.which(command[0])
    assert program, f"there is no {command[0]} on this machine: run scripts/setup vm-dev"
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run([program, *command[1:]], check=False, capture_output=True, text=True, env=env)
    assert done.returncode == 0, f"{command[0]} failed: {(done.stdout + done.stderr)[-1500:]}"
