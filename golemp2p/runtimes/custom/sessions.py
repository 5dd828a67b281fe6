"""Processes of an instance, found by a mark in their environment: also those that left session and parent."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

# The instance's work directory. A process may hide by changing its environment; then only its user can be asked.
MARK: Final = "GOLEMP2P_WORK_DIR"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_MOST_LOOKS: Final = 200
_EMPTY_LOOKS: Final = 2
_BETWEEN_LOOKS_S: Final = 0.005
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def marked(directory: Path, *, below: bool = False) -> Iterator[int]:
    """Pids of processes marked with ``directory`` (``below``: with anything in it). Blocks for a few ms."""
    wanted = f"{MARK}={directory}".encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        try:
            variables = Path(entry.path, "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or not ours
            continue
        if any(v == wanted or (below and v.startswith(wanted + b"/")) for v in variables):
            yield int(entry.name)


def kill_marked(directory: Path, *, below: bool = False) -> int:
    """SIGKILL to all of them, until there are none, since they may be making more. How many were found.

    In the middle of an exec a process has no environment for a moment, so one empty look proves nothing.
    """
    killed = empty = 0
    for _ in range(_MOST_LOOKS):
        living = kill_all(marked(directory, below=below))
        killed += living
        empty = 0 if living else empty + 1
        if empty == _EMPTY_LOOKS:
            break
        time.sleep(_BETWEEN_LOOKS_S)
    return killed


def kill_all(pids: Iterable[int]) -> int:
    """SIGKILL; how many were alive."""
    return sum(_kill(pid) for pid in pids)


def _kill(pid: int) -> bool:
    """Whether it was alive: a zombie has an empty environment and is not found."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def measure(pids: Iterable[int]) -> tuple[float, int]:
    """(CPU seconds with those of reaped children, resident bytes) of these processes together."""
    cpu_ticks = resident_pages = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu_ticks += sum(map(int, fields[11:15]))
            resident_pages += int(fields[21])
    return cpu_ticks / _TICKS_PER_S, resident_pages * _PAGE_BYTES
