"""The numbered events of one batch: appended once, replayed from any number, bounded in bytes.

The head is dropped only when no reader needs it any more; while one does, ``append`` waits, and so do the follower, the
provider and at last the payload. The provider's log has one reader, the requestor's acknowledgements; the
requestor's log has one per open event stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from golemp2p.core.activity import RuntimeEvent


@dataclass
class Reader:
    """Holds the head of a log at ``position``, the number of the next event it needs. ``cut``: it was too slow."""

    log: EventLog
    position: int
    cut: bool = False

    def advance(self, position: int) -> None:
        """Everything before ``position`` is no longer needed. Going back has no effect."""
        if position > self.position:
            self.position = min(position, self.log.next)
            self.log.wake()

    async def next(self) -> list[tuple[int, RuntimeEvent]]:
        """All events from the position on, at least one; [] at the end. The position moves with the next call."""
        items = await self.log.read(self.position)
        return [] if self.cut else items


class EventLog:
    def __init__(self, max_bytes: int, *, stall_s: float | None = None) -> None:
        self._max_bytes = max_bytes
        self._stall_s = stall_s
        self._events: deque[RuntimeEvent] = deque()
        self._first = 0
        self._bytes = 0
        self._readers: list[Reader] = []
        self._changed = trio.Event()
        self.closed = False

    @property
    def first(self) -> int:
        """The number of the oldest event still here."""
        return self._first

    @property
    def next(self) -> int:
        """The number that the next event will get."""
        return self._first + len(self._events)

    @property
    def readers(self) -> int:
        """How many hold the head now."""
        return len(self._readers)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    async def append(self, event: RuntimeEvent) -> None:
        """Wait for room, then append. A reader that keeps us waiting longer than ``stall_s`` is cut off."""
        while not self._make_room(event.size_bytes):
            with trio.move_on_after(float("inf") if self._stall_s is None else self._stall_s) as patience:
                await self._changed.wait()
            if patience.cancelled_caught:
                for reader in [reader for reader in self._readers if reader.position <= self._first]:
                    reader.cut = True
                    self._readers.remove(reader)
        self.append_now(event)

    def append_now(self, event: RuntimeEvent) -> None:
        """Append whatever the size: for the last words of a batch. After close it does nothing."""
        if self.closed:
            return
        self._events.append(event)
        self._bytes += event.size_bytes
        self.wake()

    def close(self) -> None:
        """No event will follow."""
        self.closed = True
        self.wake()

    @contextmanager
    def reading(self, position: int = 0) -> Iterator[Reader]:
        """A reader from ``position`` (or the oldest event left, or the end) until the block ends."""
        reader = self.reader(position)
        try:
            yield reader
        finally:
            if reader in self._readers:
                self._readers.remove(reader)
            self.wake()

    def reader(self, position: int = 0) -> Reader:
        """As :meth:`reading`, for the life of the log."""
        reader = Reader(self, min(max(position, self._first), self.next))
        self._readers.append(reader)
        return reader

    async def read(self, position: int) -> list[tuple[int, RuntimeEvent]]:
        """All events from ``position`` on, waiting for the first; [] when there will be none."""
        await trio.lowlevel.checkpoint()
        while position >= self.next:
            if self.closed:
                return []
            await self._changed.wait()
        start = max(position, self._first)
        return [(start + i, self._events[start - self._first + i]) for i in range(self.next - start)]

    def trim(self) -> None:
        """Drop what no reader needs, at once."""
        needed = min((reader.position for reader in self._readers), default=self.next)
        while self._first < needed:
            self._drop_head()
        self.wake()

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _make_room(self, size_bytes: int) -> bool:
        needed = min((reader.position for reader in self._readers), default=self.next)
        while self._events and self._bytes + size_bytes > self._max_bytes:
            if self._first >= needed:
                return False
            self._drop_head()
        return True

    def _drop_head(self) -> None:
        self._bytes -= self._events.popleft().size_bytes
        self._first += 1
