"""What the host's /proc tells of a container's processes: their CPU time, for containers without a control group of
their own (gVisor), and the files that they deleted and hold open.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from golemp2p import limits

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


class TooManyOpenFilesError(Exception):
    """More than we are ready to look at once a second."""


def deleted_bytes(pids: Sequence[int], main: int, proc: Path = Path("/proc")) -> int:
    """Space of files without a name on the root file system of the process ``main`` that ``pids`` hold open.

    Files in memory are none of these. Blocks; call it in a worker thread. Raises TooManyOpenFilesError.
    """
    try:
        device = (proc / str(main) / "root").stat().st_dev
    except OSError:
        return 0
    found: dict[int, int] = {}
    looked = 0
    for pid in pids:
        with contextlib.suppress(OSError), os.scandir(proc / str(pid) / "fd") as entries:
            for entry in entries:
                looked += 1
                if looked > limits.MAX_ACTIVITY_FILES:
                    raise TooManyOpenFilesError(f"more than {limits.MAX_ACTIVITY_FILES} files open")
                with contextlib.suppress(OSError):
                    facts = entry.stat()
                    if facts.st_nlink == 0 and facts.st_dev == device and stat.S_ISREG(facts.st_mode):
                        found[facts.st_ino] = facts.st_blocks * 512
    return sum(found.values())
