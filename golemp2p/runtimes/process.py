"""A child process under our thumb: own session, killable as a group, waited for by pidfd, CPU seconds by wait4.

subprocess.Popen starts it (vfork and exec, about 2 ms); trio.Process would lose the resource usage when reaping.
Linux only, as are pidfd and /proc.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import trio

from golemp2p.errors import InternalError

PIPE_CHUNK_BYTES: Final = 64 * 1024  # a Linux pipe's default capacity
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ChildExit:
    """``code`` is negative when a signal ended the process; ``cpu_s`` is user + system time of its whole life."""

    code: int
    cpu_s: float


class Child:
    """A started process. ``aclose`` (always call it) kills what is left of it and reaps it."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._waiting = trio.Lock()
        self._exit: ChildExit | None = None

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def stdout_fd(self) -> int:
        """Our end of the pipe, open until ``aclose``."""
        return _fileno(self._popen.stdout)

    @property
    def stderr_fd(self) -> int:
        return _fileno(self._popen.stderr)

    def has_ended(self) -> bool:
        """Whether the process has exited, reaped or not."""
        return self._exit is not None or bool(os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT))

    async def wait(self) -> ChildExit:
        """Until the process itself exits, whoever still holds its pipes."""
        async with self._waiting:
            if self._exit is None:
                await trio.lowlevel.wait_readable(self._pidfd)
                _, status, used = os.wait4(self.pid, 0)  # noqa: ASYNC222 - it has ended: this does not block
                self._popen.returncode = os.waitstatus_to_exitcode(status)  # Popen must not wait once more
                self._exit = ChildExit(self._popen.returncode, used.ru_utime + used.ru_stime)
                os.close(self._pidfd)
        return self._exit

    def cpu_s(self) -> float:
        """User + system seconds so far."""
        if self._exit is not None:
            return self._exit.cpu_s
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def kill(self) -> None:
        """SIGKILL to the whole process group. Harmless when it has ended."""
        if self._exit is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def pump(self, pipe: IO[bytes] | None, sink: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand everything that arrives on ``pipe`` to ``sink`` until its end; the sink's pace is the writer's pace."""
        async with trio.lowlevel.FdStream(os.dup(_fileno(pipe))) as stream:
            while chunk := await stream.receive_some(PIPE_CHUNK_BYTES):
                await sink(bytes(chunk))

    async def pump_stdout(self, sink: Callable[[bytes], Awaitable[None]]) -> None:
        await self.pump(self._popen.stdout, sink)

    async def pump_stderr(self, sink: Callable[[bytes], Awaitable[None]]) -> None:
        await self.pump(self._popen.stderr, sink)

    async def aclose(self) -> ChildExit:
        """Kill, reap, close. Never raises; shielded, since a process that outlives us would be an orphan."""
        with trio.CancelScope(shield=True):
            self.kill()
            ended = await self.wait()
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()
        return ended


def _fileno(pipe: IO[bytes] | None) -> int:
    if pipe is None:
        raise InternalError("the child was started without this pipe")
    return pipe.fileno()


def spawn(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, pass_fds: Sequence[int] = ()) -> Child:
    """Start ``argv`` with stdin empty and stdout and stderr piped. Raises OSError."""
    return Child(
        subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    )
