"""Running an executable runtime's commands: limits, both output streams, and an end when the process ends."""

from __future__ import annotations

import array
import fcntl
import json
import os
import sys
import termios
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import trio

from golemp2p import limits
from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.runtimes.process import PIPE_CHUNK_BYTES, Child, ChildExit, spawn

Sink = Callable[[bytes], Awaitable[None]]
_LAUNCHER: Final = str(Path(__file__).with_name("launcher.py"))
NO_LIMITS: Final[Mapping[str, int | None]] = {}


def start(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, bounds: Mapping[str, int | None]) -> Child:
    """Start ``argv`` (an absolute path first) under the limits. Raises RuntimeFailureError."""
    try:
        return spawn([sys.executable, "-I", "-S", _LAUNCHER, json.dumps(bounds), *argv], env=env, cwd=cwd)
    except (OSError, ValueError) as exc:
        raise RuntimeFailureError(f"cannot start {argv[0]}: {exc}") from exc


class Drain:
    """Hands a pipe's bytes on until its end, or until the process has ended and what it had written is delivered.

    Background processes may hold the pipe open for ever; what they write after that is lost.
    """

    def __init__(self, descriptor: int, sink: Sink) -> None:
        self._descriptor = descriptor
        self._sink = sink
        self._waiting = trio.CancelScope()
        self._ended = False

    def process_ended(self) -> None:
        self._ended = True
        self._waiting.cancel()

    async def run(self) -> None:
        async with trio.lowlevel.FdStream(os.dup(self._descriptor)) as stream:
            while not self._ended:
                chunk: bytes | bytearray | None = None
                with trio.CancelScope() as self._waiting:
                    chunk = await stream.receive_some(PIPE_CHUNK_BYTES)
                if chunk is None:
                    break
                if not chunk:
                    return
                await self._sink(bytes(chunk))
            left = _readable_bytes(self._descriptor)
            while left > 0:
                data = await stream.receive_some(min(left, PIPE_CHUNK_BYTES))
                if not data:
                    return
                left -= len(data)
                await self._sink(bytes(data))


def _readable_bytes(descriptor: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


async def pump(child: Child, stdout: Sink, stderr: Sink) -> ChildExit:
    """Until the process has ended and its output is delivered."""
    drains = [Drain(child.stdout_fd, stdout), Drain(child.stderr_fd, stderr)]
    async with trio.open_nursery() as nursery:
        for drain in drains:
            nursery.start_soon(drain.run)
        ended = await child.wait()
        for drain in drains:
            drain.process_ended()
    return ended


async def ask(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout_s: float) -> str:
    """stdout of a command that answers. Raises RuntimeFailureError with what it said when it fails."""
    child = start(argv, env=env, cwd=cwd, bounds=NO_LIMITS)
    said = {"out": bytearray(), "err": bytearray()}

    def keep(name: str) -> Sink:
        async def sink(data: bytes) -> None:
            room = limits.MAX_CUSTOM_ANSWER_BYTES - len(said[name])
            said[name].extend(data[:room])

        return sink

    try:
        with trio.fail_after(timeout_s):
            ended = await pump(child, keep("out"), keep("err"))
    except trio.TooSlowError:
        raise RuntimeFailureError(f"{argv[0]} {argv[-1]} did not end within {timeout_s:g} s") from None
    finally:
        await child.aclose()
    if ended.code != 0:
        words = (said["err"] or said["out"]).decode("utf-8", "replace").strip()[-500:]
        raise RuntimeFailureError(f"{argv[0]} failed with status {ended.code}: {words or 'it said nothing'}")
    return said["out"].decode("utf-8", "replace")
