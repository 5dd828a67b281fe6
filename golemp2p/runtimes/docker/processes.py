"""CPU time of a container's processes, from /proc: for containers without a control group of their own (gVisor)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_MOST: Final = 10_000  # processes that are looked at


def tree_cpu_s(pid: int, proc: Path = Path("/proc")) -> float:
    """User and system time of a process, its descendants, and those of them that were waited for. 0.0 when gone."""
    ticks, todo, seen = 0, [pid], 0
    while todo and seen < _MOST:
        one = todo.pop()
        seen += 1
        try:
            fields = (proc / str(one) / "stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
            for thread in (proc / str(one) / "task").iterdir():
                todo.extend(int(child) for child in (thread / "children").read_text().split())
        except (OSError, ValueError, IndexError):  # it has ended meanwhile
            continue
    return ticks / _TICKS_PER_S
