"""Machines that a killed node left running: found by files that name them and their owner, by pid and start time.

qemu is told to die with us, so there should be none; a kernel that does not deliver, or a change of user in between,
must not leave a machine that nobody pays for.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


class Leftovers:
    """``directory`` is shared by all nodes of a user; each file is one running machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def note(self, pid: int) -> None:
        """This process started machine ``pid``."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = os.getpid()
        facts = {"pid": pid, "started": _started(pid), "owner": owner, "owner_started": _started(owner)}
        (self._directory / f"{pid}.json").write_text(json.dumps(facts))

    def forget(self, pid: int) -> None:
        (self._directory / f"{pid}.json").unlink(missing_ok=True)

    def kill_orphans(self) -> int:
        """Kill the machines whose node is dead; how many there were."""
        killed = 0
        for file in self._directory.glob("*.json"):
            try:
                facts = json.loads(file.read_text())
                pid, started = int(facts["pid"]), int(facts["started"])
                owner, owner_started = int(facts["owner"]), int(facts["owner_started"])
            except (OSError, ValueError, KeyError, TypeError):
                file.unlink(missing_ok=True)
                continue
            if _started(owner) == owner_started:
                continue
            if _started(pid) == started:
                log.warning("machine_left_behind", pid=pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            file.unlink(missing_ok=True)
        return killed


def _started(pid: int) -> int:
    """When the process started, in ticks since boot; 0 when there is none (a zombie is none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
