"""Locks between the processes of one user, on files."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

_POLL_S: Final = 0.05


@asynccontextmanager
async def locked(path: Path, *, timeout_s: float, otherwise: Exception) -> AsyncIterator[None]:
    """An flock, polled, since waiting for one blocks; the kernel frees it with its process. Raises ``otherwise``."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with trio.move_on_after(timeout_s) as scope:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await trio.sleep(_POLL_S)
        if scope.cancelled_caught:
            raise otherwise
        yield
    finally:
        os.close(descriptor)
