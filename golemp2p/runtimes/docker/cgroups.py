"""What a container used, as the kernel counts it: cgroup v1 and v2. The payload cannot write what we read here.

Files, v1: cpuacct.usage (ns), memory.max_usage_in_bytes, memory.oom_control (oom_kill). v2: cpu.stat (usage_usec),
memory.peak (Linux 5.19+, else memory.current), memory.events (oom_kill).
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Counters:
    cpu_s: float
    memory_peak_bytes: int
    oom_kills: int


class Cgroup:
    """The groups of one process, found when it is alive; they can be read until its container is gone."""

    def __init__(self, groups: dict[str, Path]) -> None:
        self._groups = groups
        self._last = Counters(0.0, 0, 0)

    @property
    def readable(self) -> bool:
        return bool(self._groups)

    def processes(self) -> list[int]:
        """Pids, as this host has them."""
        for group in self._groups.values():
            with contextlib.suppress(OSError):
                return [int(line) for line in (group / "cgroup.procs").read_text().split()]
        return []

    def counters(self) -> Counters:
        """Never lower than before; the last ones when the group is gone."""
        groups, last = self._groups, self._last
        if (one := groups.get("")) is not None:
            cpu_s = _field(one / "cpu.stat", "usage_usec") / 1e6
            peak = _number(one / "memory.peak") or _number(one / "memory.current")
            kills = _field(one / "memory.events", "oom_kill")
        else:
            cpu_s = _number(groups["cpuacct"] / "cpuacct.usage") / 1e9 if "cpuacct" in groups else 0.0
            memory = groups.get("memory")
            peak = _number(memory / "memory.max_usage_in_bytes") if memory else 0
            kills = _field(memory / "memory.oom_control", "oom_kill") if memory else 0
        self._last = Counters(max(cpu_s, last.cpu_s), max(peak, last.memory_peak_bytes), max(kills, last.oom_kills))
        return self._last


def cgroup_of(pid: int, container: str, root: Path = ROOT, proc: Path = Path("/proc")) -> Cgroup:
    """The cgroups of a container, by its main process; without counters when they cannot be read (another machine).

    A group that does not carry the container's id is not its own (gVisor without cgroups sits in the engine's): what
    others use must not be billed.
    """
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return Cgroup({})
    groups: dict[str, Path] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if container not in path:
            continue
        if not controllers:
            place = root / path.lstrip("/")
            if (place / "cpu.stat").exists() and (place / "memory.events").exists():
                return Cgroup({"": place})
            continue
        for name in controllers.split(","):
            place = root / name / path.lstrip("/")
            if name in ("cpuacct", "memory") and place.is_dir():
                groups[name] = place
    return Cgroup(groups)


def _number(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0


def _field(path: Path, name: str) -> int:
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
        if found:
            return int(found[1])
    return 0
