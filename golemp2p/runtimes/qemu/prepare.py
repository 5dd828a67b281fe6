"""The machine's kernel and initramfs, made once and kept.

By hand: ``python -m golemp2p.runtimes.qemu.prepare CACHE_DIR [KERNEL]``.

The kernel is Debian's for clouds, fetched by apt-get and only unpacked, never installed; or the file that the setting
``vm.kernel`` names, with its modules beside it (PREFIX/boot/vmlinuz-V and PREFIX/lib/modules/V, as packages have them).
The initramfs holds our agent as /init and the few modules it needs.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from golemp2p import limits
from golemp2p.locations import Locations
from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.runtimes.guest.build import agent_binary

META_PACKAGE: Final = "linux-image-cloud-amd64"
MODULES: Final = (
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "ext4",
    "squashfs",
    "overlay",
    "tun",
)
_VERSION: Final = "v2"  # of what unpacking makes
_DEPENDS: Final = re.compile(rb"\0depends=([^\0]*)\0")
_LZ4_LEGACY: Final = b"\x02\x21\x4c\x18"


@dataclass(frozen=True)
class Boot:
    """What qemu boots."""

    kernel: Path
    initramfs: Path


def prepare(cache_dir: Path, kernel: str | None = None) -> Boot:
    """Kernel and initramfs in ``cache_dir``; blocks, the first time for seconds. Raises RuntimeFailureError."""
    if platform.machine() != "x86_64":
        raise RuntimeFailureError(f"the qemu backend is for x86_64, this machine is {platform.machine()}")
    cache_dir.mkdir(parents=True, exist_ok=True)
    with (cache_dir / "prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unpacked = _own_kernel(cache_dir, Path(kernel)) if kernel else _debian_kernel(cache_dir)
        agent = agent_binary(cache_dir)
        modules = sorted((unpacked / "modules").iterdir())
        digest = hashlib.sha256(b"\0".join([agent.read_bytes(), *(m.name.encode() + m.read_bytes() for m in modules)]))
        initramfs = cache_dir / f"initramfs-{digest.hexdigest()[:16]}.cpio"
        if not initramfs.exists():
            files = {"init": agent.read_bytes()}
            files |= {f"modules/{m.name}": m.read_bytes() for m in modules}
            part = initramfs.with_suffix(".part")
            part.write_bytes(cpio(files))
            part.replace(initramfs)
    return Boot(unpacked / "vmlinux", initramfs)


def cpio(files: Mapping[str, bytes]) -> bytes:
    """A newc archive of executable ``files``, their directories, and the console's device node."""
    out = bytearray()

    def add(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        number = len(out)  # any number that differs
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        out.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0")
        out.extend(bytes(-len(out) % 4) + data)
        out.extend(bytes(-len(out) % 4))

    for directory in sorted({"dev", *(name.rpartition("/")[0] for name in files if "/" in name)}):
        add(directory, 0o040755)
    add("dev/console", 0o020600, device=(5, 1))
    for name in sorted(files):
        add(name, 0o100755, files[name])
    add("TRAILER!!!", 0)
    return bytes(out)


def _debian_kernel(cache_dir: Path) -> Path:
    """The newest one in the cache, else fetched. One that is there is not replaced: providers choose when to update."""
    known = sorted(cache_dir.glob(f"kernel-*-{_VERSION}"), key=lambda path: path.stat().st_mtime)
    if known:
        return known[-1]
    hint = f"try apt-get update; without apt, name the vmlinuz of an unpacked {META_PACKAGE} in vm.kernel"
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeFailureError("there is no kernel for virtual machines, and no apt-get to fetch one", hint=hint)
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".kernel-") as scratch:
        here = Path(scratch)
        depends = _run(["apt-cache", "depends", META_PACKAGE], here, hint)
        match = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", depends)
        if match is None:
            raise RuntimeFailureError(f"apt knows no {META_PACKAGE}", hint=hint)
        _run(["apt-get", "download", match[1]], here, hint)
        (package,) = here.glob("*.deb")
        _run(["dpkg-deb", "-x", str(package), str(here / "root")], here, hint)
        (image,) = (here / "root" / "boot").glob("vmlinuz-*")
        return _unpack(image, cache_dir)


def _own_kernel(cache_dir: Path, image: Path) -> Path:
    if not image.is_file():
        raise RuntimeFailureError(f"vm.kernel names {image}, which is no file")
    return _unpack(image, cache_dir)


def _unpack(image: Path, cache_dir: Path) -> Path:
    """The kernel as ELF (saves 0.4 s of each boot) and plain modules, in a directory named by its content."""
    data = image.read_bytes()
    target = cache_dir / f"kernel-{hashlib.sha256(data).hexdigest()[:16]}-{_VERSION}"
    if target.exists():
        return target
    version = image.name.partition("-")[2]
    roots = (image.parent.parent / "lib" / "modules" / version, Path("/lib/modules") / version)
    root = next((root for root in roots if root.is_dir()), None)
    if root is None:
        raise RuntimeFailureError(
            f"there are no modules of kernel {image}", hint=f"they are looked for in {' and '.join(map(str, roots))}"
        )
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".kernel-") as scratch:
        made = Path(scratch) / "made"
        (made / "modules").mkdir(parents=True)
        (made / "vmlinux").write_bytes(_decompressed(data))
        order = _collect(root, made / "modules")
        (made / "modules" / "list").write_text("".join(f"{name}\n" for name in order))
        for path in (made, *made.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)  # qemu runs as nobody
        made.replace(target)
    return target


def _collect(root: Path, target: Path) -> list[str]:
    """Copy MODULES and what they depend on; their file names in the order of loading. Built-in ones are left out."""
    files = {_plain_name(path): path for path in root.rglob("*.ko*")}
    built_in = (root / "modules.builtin").read_text() if (root / "modules.builtin").exists() else ""
    builtins = {_plain_name(Path(line)) for line in built_in.split()}
    order: list[str] = []

    def visit(name: str) -> None:
        if f"{name}.ko" in order or name in builtins:
            return
        if name not in files:
            raise RuntimeFailureError(f"the kernel in {root} has no module {name}", hint=f"take {META_PACKAGE}'s")
        data = _read_module(files[name])
        found = _DEPENDS.search(data)
        for needed in (found[1].decode() if found else "").split(","):
            if needed:
                visit(needed.replace("-", "_"))
        (target / f"{name}.ko").write_bytes(data)
        order.append(f"{name}.ko")

    for name in MODULES:
        visit(name)
    return order


def _plain_name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def _read_module(path: Path) -> bytes:
    match path.suffix:
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".gz":
            return gzip.decompress(path.read_bytes())
        case ".zst":
            return subprocess.run(["zstd", "-dcq", str(path)], check=True, capture_output=True).stdout
    return path.read_bytes()


def _decompressed(bz_image: bytes) -> bytes:
    """The ELF in a vmlinuz when it is packed by LZ4 or something of Python's; else the vmlinuz, which boots as well."""
    if bz_image[0x202:0x206] == b"" or bz_image[0x1FE:0x200] != b"\x55\xaa":
        return bz_image
    start = ((bz_image[0x1F1] or 4) + 1) * 512 + int.from_bytes(bz_image[0x248:0x24C], "little")
    packed = bz_image[start : start + int.from_bytes(bz_image[0x24C:0x250], "little") - 4]  # the unpacked size follows
    if packed.startswith(_LZ4_LEGACY) and shutil.which("lz4"):
        done = subprocess.run(["lz4", "-dcq"], input=packed, capture_output=True, check=False)
        unpacked = done.stdout if done.returncode == 0 else b""
    elif packed.startswith(b"\x1f\x8b"):
        unpacked = gzip.decompress(packed)
    elif packed.startswith(b"\xfd7zXZ"):
        unpacked = lzma.decompress(packed)
    else:
        unpacked = b""
    return unpacked if unpacked.startswith(b"\x7fELF") else bz_image


def _run(command: list[str], cwd: Path, hint: str) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limits.KERNEL_FETCH_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailureError(f"{command[0]} took longer than {limits.KERNEL_FETCH_S:g} s", hint=hint) from None
    if done.returncode != 0:
        raise RuntimeFailureError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-300:]}", hint=hint)
    return done.stdout


def main() -> None:
    """For scripts: [DIRECTORY [KERNEL]], by default where the node looks."""
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Locations.find().guests / "qemu"
    print(prepare(place, sys.argv[2] if len(sys.argv) > 2 else None))
