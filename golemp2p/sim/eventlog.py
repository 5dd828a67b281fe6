"""What happened, in order: the digest of a run, and what the pictures and the summary are made of."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from typing import IO, Final

import trio

_KEPT: Final = 400  # latest lines, shown with a failure


class EventLog:
    """Lines ``time node event details``; ``digest`` is over all of them."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self._hash = hashlib.sha256()
        self._file = file
        self._listeners: list[Callable[[float, int, str, tuple[object, ...]], None]] = []
        self.counts: Counter[str] = Counter()
        self.latest: deque[str] = deque(maxlen=_KEPT)

    def add_listener(self, listener: Callable[[float, int, str, tuple[object, ...]], None]) -> None:
        self._listeners.append(listener)

    def add(self, node: int, event: str, *details: object) -> None:
        """``node`` -1: the world. Details must look alike in every run: no addresses, no floats of wall time."""
        now = trio.current_time()
        self.counts[event] += 1
        line = f"{now:.6f} {node} {event} {' '.join(map(str, details))}\n"
        self._hash.update(line.encode())
        self.latest.append(line.rstrip())
        if self._file is not None:
            self._file.write(line)
        for listener in self._listeners:
            listener(now, node, event, details)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()
