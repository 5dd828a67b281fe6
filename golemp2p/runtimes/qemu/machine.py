"""One qemu process: its command line, its life, what it says on its console.

It gets files as descriptors, so that it needs no right to any directory, and, when we are root, a user id of its own.
It has no network card, no monitor, qemu's own seccomp filter, and dies with us.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import trio

from golemp2p import limits
from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.runtimes.process import Child, spawn
from golemp2p.runtimes.qemu.prepare import Boot

log = structlog.get_logger(__name__)

PROGRAM: Final = "qemu-system-x86_64"
INSTALL: Final = (
    "apt-get install -y --no-install-recommends qemu-system-x86 squashfs-tools e2fsprogs lz4 musl-tools gcc"
)
_NAME: Final = "golemp2p-"  # of the machine, in its arguments
_TELLING: Final = ("Kernel panic", "agent:", "Out of memory", PROGRAM)  # in lines of the console
_FIRST_UID: Final = 800_000_000  # beyond what systems and their sub-uid ranges give away
_UIDS: Final = 100_000_000
_NOBODY: Final = 65534
_NO_CAPABILITIES: Final = ("--bounding-set=-all", "--inh-caps=-all")
KVM_DEVICE: Final = Path("/dev/kvm")
# no_timer_check: on a busy host the kernel's trial of its timer can fail under TCG, and the boot with it.
_APPEND: Final = (
    "console=ttyS0 quiet panic=-1 reboot=t mitigations=off random.trust_cpu=on audit=0 apparmor=0 "
    "cryptomgr.notests no_timer_check"
)
# TCG: no AVX-512 and the like; "max" has what x86-64-v3 images need. KVM: what the host has.
_CPU: Final = {"tcg": "max,la57=off", "kvm": "host"}
_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class MachinePlan:
    """What to start. ``scratch`` is the writable disk's file."""

    activity_id: str
    boot: Boot
    image: Path
    scratch: Path | None
    accel: str
    memory_bytes: int
    cpus: int


class Machine:
    """A started qemu. ``aclose`` (always call it) kills and reaps it. ``stream`` is the agent's port."""

    def __init__(self, child: Child, stream: trio.SocketStream) -> None:
        self.child = child
        self.stream = stream
        self._said = bytearray()
        self._peak_bytes = 0
        self.heard = trio.Event()  # everything that it said before it ended

    async def listen(self) -> None:
        """Read the console and qemu's own words until it ends, keeping the last of them."""

        async def keep(chunk: bytes) -> None:
            self._said.extend(chunk)  # a serial port may bring one byte at a time
            del self._said[: -limits.CONSOLE_BYTES]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.child.pump_stdout, keep)
            nursery.start_soon(self.child.pump_stderr, keep)
        self.heard.set()

    def last_words(self) -> str:
        """What the console says last, for people: of a kernel panic its reason, else the last two lines."""
        text = self._said.decode(errors="replace")
        lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.splitlines()]
        telling = [line for line in lines if any(word in line for word in _TELLING)]
        return " / ".join((telling or [line for line in lines if line])[-2:])[-400:]

    def memory_peak_bytes(self) -> int:
        """Of the process on the host: the guest's memory and qemu's own."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self._peak_bytes = max(self._peak_bytes, int(line.split()[1]) * 1024)
        return self._peak_bytes

    async def aclose(self) -> None:
        self.memory_peak_bytes()
        await self.child.aclose()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self.stream)


def start_machine(plan: MachinePlan, cwd: Path) -> Machine:
    """Start qemu; the agent answers on ``stream`` when the kernel is up. Raises RuntimeFailureError."""
    if shutil.which(PROGRAM) is None:
        raise RuntimeFailureError(f"there is no {PROGRAM} on this machine", hint=INSTALL)
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        stack.callback(theirs.close)
        fds = [theirs.fileno()]

        def opened(path: Path, flags: int) -> int:
            descriptor = os.open(path, flags | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            fds.append(descriptor)
            return descriptor

        try:
            command = _command(plan, theirs.fileno(), opened)
            child = spawn(command, env={"PATH": os.defpath, "LC_ALL": "C"}, cwd=cwd, pass_fds=fds)
        except OSError as exc:
            ours.close()
            raise RuntimeFailureError(f"cannot start {PROGRAM}: {exc}") from exc
    return Machine(child, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))


def _command(plan: MachinePlan, port: int, opened: Callable[[Path, int], int]) -> list[str]:
    kernel, initramfs = opened(plan.boot.kernel, os.O_RDONLY), opened(plan.boot.initramfs, os.O_RDONLY)
    image = opened(plan.image, os.O_RDONLY)
    command = [*_fences(plan), PROGRAM, "-name", f"{_NAME}{plan.activity_id}"]
    command += ["-M", "q35,usb=off,vmport=off", "-accel", _accel(plan.accel), "-cpu", _CPU[plan.accel]]
    command += ["-m", str(math.ceil(plan.memory_bytes / limits.MIB)), "-smp", str(plan.cpus)]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", _SANDBOX]
    command += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    command += ["-kernel", f"/proc/self/fd/{kernel}", "-initrd", f"/proc/self/fd/{initramfs}", "-append", _APPEND]
    command += ["-add-fd", f"fd={image},set=1"]
    command += [
        "-drive",
        "id=image,file=/dev/fdset/1,format=raw,if=none,readonly=on",
        "-device",
        "virtio-blk-pci,drive=image",
    ]
    if plan.scratch is not None:
        # qemu opens a disk for reading first, and takes the descriptor whose mode fits.
        for flags in (os.O_RDONLY, os.O_RDWR):
            command += ["-add-fd", f"fd={opened(plan.scratch, flags)},set=2"]
        # Nothing on it outlives the machine, so no flush needs to reach the disk; what is deleted gives its space back.
        command += ["-drive", "id=scratch,file=/dev/fdset/2,format=raw,if=none,cache=unsafe,discard=unmap"]
        command += ["-device", "virtio-blk-pci,drive=scratch"]
    command += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={port}"]
    command += ["-device", "virtserialport,chardev=agent,name=agent", "-device", "virtio-rng-pci"]
    return command


def _accel(accel: str) -> str:
    return f"tcg,tb-size={limits.TCG_CACHE_BYTES // limits.MIB}" if accel == "tcg" else accel


def _fences(plan: MachinePlan) -> list[str]:
    """prlimit and setpriv of util-linux: no core dump, bounded files, death with us, a user of its own."""
    file_bytes = max((path.stat().st_size for path in (plan.image, plan.scratch) if path), default=0)
    uid = _FIRST_UID + int(plan.activity_id[:8], 16) % _UIDS
    return [
        "prlimit",
        "--core=0",
        f"--fsize={file_bytes}",
        "setpriv",
        "--pdeathsig=KILL",
        "--no-new-privs",
        *_user_options(uid, plan.accel),
        "--",
    ]


def _user_options(uid: int, accel: str) -> Sequence[str]:
    """For setpriv: another user and no capability. KVM's device may be its group's; if not, we stay who we are."""
    if os.geteuid() != 0:
        return ()
    group = None
    if accel == "kvm":
        facts = KVM_DEVICE.stat()
        group = facts.st_gid
        if facts.st_mode & 0o006 != 0o006 and facts.st_mode & 0o060 != 0o060:
            return _NO_CAPABILITIES
    for candidate in (uid, _NOBODY):
        if _may_become(candidate):
            return _as_user(candidate, group)
    log.warning("qemu_runs_as_root", hint="this system maps neither high user ids nor nobody")
    return _NO_CAPABILITIES


def _as_user(uid: int, group: int | None = None) -> tuple[str, ...]:
    return f"--reuid={uid}", f"--regid={uid if group is None else group}", "--clear-groups", *_NO_CAPABILITIES


@functools.cache
def _range_works() -> bool:
    """Whether ids like ours can be taken at all (not in a user namespace with a small map)."""
    return _tried(_FIRST_UID)


@functools.cache
def _nobody_works() -> bool:
    return _tried(_NOBODY)


def _may_become(uid: int) -> bool:
    return _range_works() if uid >= _FIRST_UID else _nobody_works()


def _tried(uid: int) -> bool:
    try:
        done = subprocess.run(["setpriv", *_as_user(uid), "--", "true"], check=False, capture_output=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
