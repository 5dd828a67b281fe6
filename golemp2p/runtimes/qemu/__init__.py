"""Runtime "vm" by qemu: every activity is a virtual machine of its own, with its own kernel and no network card.

``prepare`` gets kernel and initramfs, ``machine`` starts one qemu, ``accel`` finds out whether KVM really works,
``instance`` and ``runtime`` are the port's.
"""

from golemp2p.runtimes.qemu.runtime import QemuRuntime

__all__ = ["QemuRuntime"]
