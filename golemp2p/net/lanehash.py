"""Hashing a file while it grows: a thread per algorithm follows what is written.

The bytes are read again from the file (from the page cache, 20 GB/s), so the threads need no common buffers, nobody
waits for the slowest hash, and what is hashed is what is on the disk.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

from golemp2p import limits
from golemp2p.errors import InternalError
from golemp2p.storage.content import ALGORITHMS


class Written:
    """How far a file is written without a gap. ``end`` is the last word; without it nothing is made of the rest."""

    def __init__(self, written_bytes: int, *, ended: bool = False) -> None:
        self._changed = threading.Condition()
        self._bytes, self._ended, self._whole = written_bytes, ended, ended

    def advance(self, written_bytes: int) -> None:
        with self._changed:
            self._bytes = written_bytes
            self._changed.notify_all()

    def end(self, *, whole: bool) -> None:
        """Nothing more comes. ``whole``: the file is complete. The first call counts."""
        with self._changed:
            if not self._ended:
                self._ended, self._whole = True, whole
            self._changed.notify_all()

    def wait_beyond(self, done_bytes: int) -> int | None:
        """More than ``done_bytes``, or exactly so many when that is all; None when it broke off."""
        with self._changed:
            while not self._ended and self._bytes <= done_bytes:
                self._changed.wait()
            if self._ended and not self._whole:
                return None
            return self._bytes


def follow(path: Path, algorithm: str, written: Written) -> str | None:
    """The digest in hex of the whole file, None when it broke off. Blocking; for a thread of its own."""
    hasher, done = hashlib.new(ALGORITHMS[algorithm]), 0
    buffer = memoryview(bytearray(limits.LANE_BLOCK_BYTES))
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while (there := written.wait_beyond(done)) is not None:
            if there == done:
                return hasher.hexdigest()
            size = os.preadv(file, [buffer[: there - done]], done)
            if not size:
                raise InternalError(f"{path.name} is shorter than what was written to it")
            hasher.update(buffer[:size])
            done += size
    finally:
        os.close(file)
    return None
