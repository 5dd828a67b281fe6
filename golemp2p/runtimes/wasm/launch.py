"""The node's end of a worker: start it, give it its one order, read its one outcome."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from golemp2p import limits
from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.runtimes.process import Child, ChildExit, spawn


class Worker:
    """A started worker that waits for its order (and dies when this object's socket closes)."""

    def __init__(self, child: Child, control: socket.socket) -> None:
        self.child = child
        self._control = trio.SocketStream(trio.socket.from_stdlib_socket(control))

    async def send(self, order: Mapping[str, object]) -> None:
        """Hand over the order. A worker that is dead already is noticed by ``child.wait``."""
        try:
            await self._control.send_all(json.dumps(order).encode() + b"\n")
        except trio.BrokenResourceError:
            return

    async def outcome(self) -> dict[str, Any] | None:
        """What the worker wrote before it ended, or None when it died first. Call it after ``child.wait``."""
        data = bytearray()
        try:
            while len(data) < limits.MAX_WORKER_OUTCOME_BYTES and (chunk := await self._control.receive_some(65_536)):
                data += chunk
        except trio.BrokenResourceError:
            return None
        if not data.endswith(b"\n"):
            return None
        answer = json.loads(data)
        return answer if isinstance(answer, dict) else None

    async def aclose(self) -> ChildExit:
        """Kill and reap. Never raises."""
        ended = await self.child.aclose()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._control)
        return ended


def start_worker(cwd: Path) -> Worker:
    """Start an idle worker. Raises RuntimeFailureError."""
    ours, theirs = socket.socketpair()
    try:
        child = spawn(
            [sys.executable, "-I", "-m", "golemp2p.runtimes.wasm.worker", str(theirs.fileno())],
            env={"LC_ALL": "C.UTF-8"},  # nothing of the node's environment: it may hold secrets
            cwd=cwd,
            pass_fds=[theirs.fileno()],
        )
    except OSError as exc:
        ours.close()
        raise RuntimeFailureError(f"cannot start a worker process: {exc}") from exc
    finally:
        theirs.close()
    return Worker(child, ours)
