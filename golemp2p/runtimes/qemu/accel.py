"""Which accelerator this machine has: KVM only if a kernel really boots with it, TCG else.

A device file proves nothing: there are hosts whose KVM answers every ioctl and runs no stock kernel (measured: an
"internal error" after half a minute). The verdict is kept until the next boot of the host.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog
import trio

from golemp2p import limits
from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.runtimes.guest.session import open_session
from golemp2p.runtimes.qemu.machine import KVM_DEVICE, Machine, MachinePlan, start_machine
from golemp2p.runtimes.qemu.prepare import Boot

log = structlog.get_logger(__name__)

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


async def find_accel(cache_dir: Path, boot: Boot) -> str:
    """``kvm`` or ``tcg``; takes limits.KVM_TRIAL_S at most, once per boot of the host."""
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return "tcg"
    kept = cache_dir / f"accel-{_boot_id()}"
    if kept.exists() and (known := kept.read_text()) in ("kvm", "tcg"):
        return known
    works, why = await _boots(boot, cache_dir)
    accel = "kvm" if works else "tcg"
    log.info("accelerator_tried", accel=accel, kvm_failed=why)
    await trio.to_thread.run_sync(_keep, kept, accel)
    return accel


def _keep(kept: Path, accel: str) -> None:
    for old in kept.parent.glob("accel-*"):
        old.unlink(missing_ok=True)
    kept.write_text(accel)


async def _boots(boot: Boot, cwd: Path) -> tuple[bool, str]:
    """Whether the agent answers under KVM in time, and why not. The initramfs serves as the disk that nobody reads."""
    plan = MachinePlan(os.urandom(16).hex(), boot, boot.initramfs, None, "kvm", limits.VM_OVERHEAD_BYTES * 2, 1)
    try:
        machine = start_machine(plan, cwd)
    except RuntimeFailureError as exc:
        return False, exc.message
    verdict = False, "qemu ended at once"
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_dead, machine, nursery.cancel_scope)
            try:
                await open_session(machine.stream, nursery, hello_timeout_s=limits.KVM_TRIAL_S)
                verdict = True, ""
            except RuntimeFailureError as exc:
                verdict = False, exc.message
            nursery.cancel_scope.cancel()
    finally:
        await machine.aclose()
    works, why = verdict
    return works, why if works else f"{why}; {machine.last_words()}"


async def _until_dead(machine: Machine, scope: trio.CancelScope) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.listen)
        await machine.child.wait()
        scope.cancel()


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"
