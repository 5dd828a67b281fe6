"""Virtual time: when everybody waits, it is at once as late as the next of them wants it to be."""

from __future__ import annotations

import math
from typing import Final

import trio

_PATIENCE: Final = 10_000  # passes of the scheduler


class VirtualClock(trio.abc.Clock):
    """As trio.testing.MockClock with autojump, in one pass of the scheduler per step instead of two.

    Nothing in a simulation may wait for the real world: with no deadline left it would wait for ever.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._idle = 0

    def start_clock(self) -> None:
        return

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Asked by the scheduler when no task can run."""
        if deadline == math.inf:
            self._idle += 1  # at the beginning and the end trio itself waits for its own wake-up
            if self._idle > _PATIENCE:
                raise RuntimeError("every task of the simulation waits, and none for a time")
            return 0.0
        self._idle = 0
        self._now = max(self._now, deadline)
        return 0.0
