"""A root file system of one static busybox, as directory, plain tar and squashfs, and the contract's programs in it.

Needs Debian's busybox-static (and squashfs-tools for the squashfs). What is missing is said by MissingToolError.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Final

BUSYBOX: Final = Path("/bin/busybox")

# Programs of the runtime contract (contract.Payloads), as /bin/NAME in the image.
SCRIPTS: Final = {
    "hello": "echo hello; echo oops >&2",
    "exit-3": "exit 3",
    "echo-all": 'for word in "$@"; do echo "$word"; done; env',
    "loop": "while :; do :; done",
    "tick-loop": "echo tick; while :; do :; done",
    "bomb": "exec awk 'BEGIN { text = \"x\"; while (1) text = text text }'",
    "flood": "exec yes xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "fork-bomb": "bomb() { bomb | bomb & bomb; }; bomb",
    # Its child holds the pipes; it is there when the parent ends.
    "leaver": "(sleep 1000; echo too late) & until ps | grep -q '[s]leep 1000'; do :; done; echo left",
}
ETC: Final = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
}


class MissingToolError(AssertionError):
    """This machine lacks what the test needs; a failure, not a skip."""


def make_rootfs(target: Path) -> Path:
    """Fill the new directory ``target``: busybox with links for its applets, SCRIPTS, /etc/passwd, /tmp, /root."""
    if not BUSYBOX.exists():
        raise MissingToolError(f"there is no {BUSYBOX}: apt-get install -y busybox-static")
    for directory in ("bin", "etc", "root", "tmp", "proc", "sys", "dev"):
        (target / directory).mkdir(parents=True)
    (target / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, target / "bin" / "busybox")
    applets = subprocess.run([str(BUSYBOX), "--list"], check=True, capture_output=True, text=True).stdout.split()
    for name in applets:
        if name != "busybox":
            (target / "bin" / name).symlink_to("busybox")
    for name, body in SCRIPTS.items():
        script = target / "bin" / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
    for name, text in ETC.items():
        (target / "etc" / name).write_text(text)
    return target


def make_tar(rootfs: Path) -> bytes:
    """An uncompressed tar of ``rootfs``: sorted, owner 0:0, time 0; what `docker import` takes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(rootfs.rglob("*")):
            archive.add(path, arcname=str(path.relative_to(rootfs)), recursive=False, filter=_anonymous)
    return buffer.getvalue()


def make_squashfs(rootfs: Path, target: Path) -> Path:
    """A squashfs of ``rootfs`` at ``target``, owned by root (a .gvmi without its trailer)."""
    if shutil.which("mksquashfs") is None:
        raise MissingToolError("there is no mksquashfs: apt-get install -y squashfs-tools")
    command = ["mksquashfs", str(rootfs), str(target), "-all-root", "-comp", "zstd", "-no-progress", "-quiet"]
    subprocess.run([*command, "-all-time", "0", "-mkfs-time", "0"], check=True, capture_output=True)
    return target


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    return info
