"""Ends that are not the program's own choice: code, reason and words, the same everywhere (protocols/activity.md)."""

from __future__ import annotations

from typing import Final

from golemp2p import limits
from golemp2p.runtimes.base import EndReason, ExitStatus, Limits, RuntimeFailureError

CODE_WALL: Final = 124
CODE_TRAP: Final = 134
CODE_KILLED: Final = 137
CODE_BUDGET: Final = 152  # of fuel or CPU time


def cpu_limit(cpu_s: float) -> ExitStatus:
    return ExitStatus(CODE_BUDGET, EndReason.CPU_LIMIT, f"used up its {cpu_s:g} CPU seconds")


def wall_limit(wall_s: float) -> ExitStatus:
    return ExitStatus(CODE_WALL, EndReason.WALL_LIMIT, f"stopped after {wall_s:g} s, the limit of one command")


def killed_from_outside() -> ExitStatus:
    return ExitStatus(CODE_KILLED, EndReason.KILLED, "killed from outside (the host may be short of memory)")


def judge_guest(code: int | None, signal: int | None, agreed: Limits, *, out_of_memory: bool) -> ExitStatus:
    """Of a command in a container or machine: as its agent tells it, and whether its kernel killed it for memory.

    Raises RuntimeFailureError when the agent tells nothing.
    """
    if signal:
        code = 128 + signal
    if code is None:
        raise RuntimeFailureError("the guest agent does not say how the command ended")
    if code == CODE_KILLED and out_of_memory:
        mib = (agreed.memory_bytes or limits.DEFAULT_GUEST_MEMORY_BYTES) // limits.MIB
        return ExitStatus(code, EndReason.OUT_OF_MEMORY, f"killed for using more than its {mib} MiB of memory")
    if signal:
        return ExitStatus(code, EndReason.KILLED, f"killed by signal {signal}")
    return ExitStatus(code)
