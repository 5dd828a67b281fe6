"""Runtime "vm", backend qemu."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog
import trio

from golemp2p import __version__, limits
from golemp2p.images import ImageCache, ImageError
from golemp2p.runtimes.base import Deployment, Probe, RuntimeFailureError
from golemp2p.runtimes.docker.trial import trial_image
from golemp2p.runtimes.guest.build import agent_binary
from golemp2p.runtimes.probing import probe_with_network
from golemp2p.runtimes.qemu.accel import find_accel
from golemp2p.runtimes.qemu.instance import QemuInstance
from golemp2p.runtimes.qemu.leftovers import Leftovers
from golemp2p.runtimes.qemu.machine import INSTALL, PROGRAM, MachinePlan
from golemp2p.runtimes.qemu.prepare import Boot, prepare

log = structlog.get_logger(__name__)

_TOOLS: Final = (PROGRAM, "mke2fs", "mksquashfs", "setpriv", "prlimit")


class QemuRuntime:
    """``cache_dir`` is shared by the user's nodes; ``kernel`` a vmlinuz instead of Debian's for clouds."""

    def __init__(self, cache_dir: Path, *, accel: str = "auto", kernel: str | None = None) -> None:
        self._cache_dir = cache_dir / "qemu"
        self._agent_dir = cache_dir
        self._wanted_accel = accel
        self._kernel = kernel
        self._images: ImageCache | None = None
        self._leftovers = Leftovers(self._cache_dir / "running")
        self._ready: tuple[Boot, str] | None = None
        self._readying = trio.Lock()
        self._networks: list[str] = []  # capabilities that a trial has found

    @property
    def id(self) -> str:
        return "vm/qemu"

    @property
    def name(self) -> str:
        return "vm"

    @property
    def version(self) -> str:
        return __version__

    def offer_properties(self) -> Mapping[str, str | float | bool | list[str]]:
        return {
            "golem.runtime.name": self.name,
            "golem.runtime.version": self.version,
            "golem.runtime.capabilities": ["oci", "gvmi", "connect", "manifest-support", *self._networks],
            "golem.!exp.golemp2p.backend": "qemu",
            "golem.!exp.golemp2p.isolation": "microvm",
        }

    async def probe(self) -> Probe:
        """Boot a machine whose image holds nothing but our agent."""
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            return Probe(False, f"not installed: {', '.join(missing)}", INSTALL)
        try:
            _, accel = await self._prepared()
            agent = await trio.to_thread.run_sync(agent_binary, self._agent_dir)
        except RuntimeFailureError as exc:
            return Probe(False, exc.message, exc.hint or INSTALL)
        image = await trio.to_thread.run_sync(trial_image, agent)
        found, self._networks = await probe_with_network(self, image, "/program", "score")
        return Probe(found.works, found.reason, found.hint, {**found.measured, "kvm": float(accel == "kvm")})

    async def clean_up(self) -> None:
        """Machines of nodes that were killed. Their disks go with the work directories."""
        try:
            await trio.to_thread.run_sync(self._leftovers.kill_orphans)
        except OSError as exc:
            log.warning("leftovers_not_cleaned", error=str(exc))

    async def deploy(self, deployment: Deployment) -> QemuInstance:
        if deployment.deterministic:
            raise RuntimeFailureError("a virtual machine's results are not repeatable", hint="use runtime wasmtime")
        boot, accel = await self._prepared()
        if self._images is None:
            self._images = ImageCache(self._cache_dir / "images")
        if deployment.progress is not None:
            await deployment.progress("preparing the image", 0, None, "")
        try:
            image, config = await self._images.get(deployment.package, deployment.package_sha256, "squashfs")
        except ImageError as exc:
            raise RuntimeFailureError(exc.message, hint=exc.hint) from None
        # A name of our own: the cache may drop its one while the machine is not started yet.
        linked = deployment.work_dir / "image.squashfs"
        await trio.to_thread.run_sync(_link, image, linked)
        scratch = deployment.work_dir / "scratch.ext4"
        agreed = deployment.limits
        await trio.to_thread.run_sync(_make_disk, scratch, agreed.storage_bytes or limits.DEFAULT_ACTIVITY_DISK_BYTES)
        memory_bytes = (agreed.memory_bytes or limits.DEFAULT_GUEST_MEMORY_BYTES) + limits.VM_OVERHEAD_BYTES
        cpus = max(1, math.ceil(agreed.cpus or 1))
        plan = MachinePlan(deployment.activity_id, boot, linked, scratch, accel, memory_bytes, cpus)
        return QemuInstance(deployment, config, plan, self._leftovers)

    async def _prepared(self) -> tuple[Boot, str]:
        async with self._readying:
            if self._ready is None:
                boot = await trio.to_thread.run_sync(prepare, self._cache_dir, self._kernel)
                accel = self._wanted_accel
                if accel == "auto":
                    accel = await find_accel(self._cache_dir, boot)
                self._ready = boot, accel
            return self._ready


def _link(image: Path, target: Path) -> None:
    try:
        target.hardlink_to(image)
    except OSError:  # another file system
        shutil.copyfile(image, target)


def _make_disk(path: Path, storage_bytes: int) -> None:
    """An empty sparse ext4 file system: full inside before the activity's disk limit is reached outside."""
    size_bytes = max(storage_bytes - limits.VM_DISK_SLACK_BYTES, limits.VM_MIN_DISK_BYTES)
    with path.open("xb") as file:
        file.truncate(size_bytes)
    options = ["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal,^resize_inode", "-i", "16384"]
    command = ["mke2fs", *options, "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", str(path)]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=limits.VM_MAKE_DISK_S,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise RuntimeFailureError("there is no mke2fs on this machine", hint="apt-get install -y e2fsprogs") from None
    except subprocess.TimeoutExpired:
        raise RuntimeFailureError(f"making the scratch disk took longer than {limits.VM_MAKE_DISK_S:g} s") from None
    if done.returncode != 0:
        raise RuntimeFailureError(f"cannot make the scratch disk: {done.stderr.strip()[-300:]}")
