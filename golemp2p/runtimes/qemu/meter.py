"""CPU seconds of a virtual machine as they are billed: the host's for the whole process, without its idling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import trio

_IDLE_SHARE: Final = 0.05  # of one core: what the timer of an idle guest takes under TCG is about 2 %
_NOISE_S: Final = 0.02  # the kernel counts in steps of 0.01 s
_LOOK_S: Final = 1.0


class CpuMeter:
    """What a machine burns while it does nothing is not the payload's doing."""

    def __init__(self) -> None:
        self._counter: Callable[[], float] = _nothing
        self._billed_s = 0.0
        self._seen_s = 0.0
        self._seen_at = -math.inf

    def follow(self, counter: Callable[[], float]) -> None:
        """Count by ``counter``, a new process's, from now on. What another burnt and was not billed is forgotten."""
        self._counter, self._seen_s, self._seen_at = counter, 0.0, trio.current_time()

    def read(self) -> float:
        """Never decreases; stays where it is while the machine idles."""
        total, now = self._counter(), trio.current_time()
        grown, passed = total - self._seen_s, now - self._seen_at
        if grown > _NOISE_S + _IDLE_SHARE * passed:
            self.settle()
        elif passed > _LOOK_S:  # idle: forgiven
            self._seen_s, self._seen_at = total, now
        return self._billed_s

    def settle(self) -> None:
        """Bill everything up to now: a command has just ended."""
        total = self._counter()
        self._billed_s += max(0.0, total - self._seen_s)
        self._seen_s, self._seen_at = max(total, self._seen_s), trio.current_time()


def _nothing() -> float:
    return 0.0
