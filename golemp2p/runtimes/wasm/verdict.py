"""How a run ended, in words.

Exit codes. The guest's own are 0-125 (wasmtime refuses others). Ends that are not the guest's choice:
134 trap, 137 out of memory or killed, 152 out of fuel or CPU time, 124 wall-clock limit; the reason tells them apart.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from golemp2p.limits import MIB
from golemp2p.runtimes.base import EndReason, ExitStatus, Limits
from golemp2p.runtimes.exits import CODE_BUDGET, CODE_KILLED, CODE_TRAP, cpu_limit, killed_from_outside, wall_limit
from golemp2p.runtimes.process import ChildExit


def judge(ended: ChildExit, outcome: Mapping[str, Any] | None, agreed: Limits, memory_bytes: int) -> ExitStatus:
    """``outcome``: what the worker said before it left, if it did."""
    if outcome is None:
        return judge_death(ended, agreed.cpu_s)
    trap, message = outcome["trap"], str(outcome["message"])
    if trap is None:
        return ExitStatus(int(outcome["code"]))
    if trap == "OUT_OF_FUEL":
        return ExitStatus(CODE_BUDGET, EndReason.OUT_OF_FUEL, f"used up its {agreed.fuel} units of fuel")
    if trap == "INTERRUPT" and agreed.wall_s is not None:
        return wall_limit(agreed.wall_s)
    # A guest only sees memory.grow fail and traps by its own decision, hence the "likely": with dlmalloc's
    # doubling it gives up between half of the limit and the whole.
    if "memory limits" in message or (trap == "UNREACHABLE" and outcome["linear_bytes"] * 2 >= memory_bytes):
        return ExitStatus(
            CODE_KILLED,
            EndReason.OUT_OF_MEMORY,
            f"likely out of memory: it had {outcome['linear_bytes'] // MIB} MiB of at most "
            f"{memory_bytes // MIB} MiB and stopped ({message})",
        )
    return ExitStatus(CODE_TRAP, EndReason.TRAP, f"trap: {message}")


def judge_death(ended: ChildExit, cpu_limit_s: float | None) -> ExitStatus:
    """A worker that left without a word."""
    if ended.code == -signal.SIGXCPU and cpu_limit_s is not None:
        return cpu_limit(cpu_limit_s)
    if ended.code == -signal.SIGKILL:
        return killed_from_outside()
    if ended.code < 0:
        return ExitStatus(128 - ended.code, EndReason.TRAP, f"the worker died of {signal.Signals(-ended.code).name}")
    return ExitStatus(CODE_TRAP, EndReason.TRAP, f"the worker failed with status {ended.code}")
