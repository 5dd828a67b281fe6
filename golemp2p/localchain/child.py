"""A child process that never outlives its parent, however that dies.

The kernel sends PR_SET_PDEATHSIG when the *thread* that forked ends, so the child is started from the caller's own
thread (trio.open_process would fork in a worker thread, which ends after ten idle seconds). A small launcher sets it
and then becomes the command: a ``preexec_fn`` in a process with threads may deadlock.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import trio

from golemp2p import limits

_LAUNCHER: Final = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # 1: PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)  # the parent died before that took effect
os.execv(sys.argv[2], sys.argv[2:])
"""


def launcher(command: Sequence[str]) -> list[str]:
    """``command`` (its first word an absolute path), to be started by the calling process and to die with it."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


@dataclass(frozen=True)
class Child:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def ended(self) -> bool:
        return self.process.poll() is not None

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        self.errors.seek(0)
        return self.errors.read()[-2_000:].decode(errors="replace").strip()


@asynccontextmanager
async def open_child(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, log: Path | None = None
) -> AsyncIterator[Child]:
    """Start ``command`` (its first word an absolute path); SIGTERM at the end, SIGKILL if that does not help.

    ``log``: the file that its stderr is appended to, instead of one that is thrown away.
    """
    with tempfile.TemporaryFile() if log is None else log.open("ab+") as errors:
        process = subprocess.Popen(  # noqa: ASYNC220 - on purpose, see above; it takes 2 ms
            launcher(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=None if env is None else dict(env),
            start_new_session=True,  # Ctrl-C is for us; we end it in our own order
        )
        try:
            yield Child(process, errors)
        finally:
            with trio.CancelScope(shield=True):
                process.terminate()
                with trio.move_on_after(limits.LOCAL_CHAIN_STOP_S):
                    while process.poll() is None:  # noqa: ASYNC110 - a process gives no event
                        await trio.sleep(0.01)
                if process.poll() is None:
                    process.kill()
                process.wait()
