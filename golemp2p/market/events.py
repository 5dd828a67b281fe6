"""Waiting for news: a notifier and the consuming event queue of one subscription."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio

from golemp2p import limits
from golemp2p.errors import NotFoundError

T = TypeVar("T")


class Notifier:
    """Wakes everybody who waits; costs nothing while nobody does."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._empty: dict[Hashable, float] = {}  # questions without an answer since the last news, and when

    def notify(self) -> None:
        self._event.set()
        self._event = trio.Event()
        self._empty.clear()

    async def poll(
        self, fetch: Callable[[], Awaitable[list[T]]], timeout_s: float, question: Hashable = None
    ) -> list[T]:
        """What ``fetch`` gives as soon as it is not empty, else [] at the deadline.

        ``question``: polls with the same one ask the same; agents renew theirs every few seconds, and a look into the
        database costs more than the rest of a poll.
        """
        deadline = trio.current_time() + min(timeout_s, limits.MAX_LONG_POLL_S)
        while True:
            event = self._event  # before the look, so that news in between is not missed
            if question is None or trio.current_time() - self._empty.get(question, -math.inf) > limits.POLL_LOOK_S:
                if found := await fetch():  # outside the deadline: also a poll without patience looks once
                    return found
                if question is not None and event is self._event and len(self._empty) < limits.MAX_POLL_QUESTIONS:
                    self._empty[question] = trio.current_time()
            with trio.move_on_at(deadline):
                await event.wait()
            if not event.is_set():
                return []


class EventQueue(Generic[T]):
    """Events of one subscription; each is handed out once. Beyond the bound the oldest goes."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._events: deque[T] = deque(maxlen=limits.MAX_QUEUED_EVENTS)
        self._notifier = Notifier()
        self._closed = False

    def put(self, event: T) -> None:
        self._events.append(event)
        self._notifier.notify()

    def close(self) -> None:
        """Everybody who waits, or comes later, is told that the subscription is gone."""
        self._closed = True
        self._notifier.notify()

    async def take(self, timeout_s: float, max_events: int) -> list[T]:
        """Raises NotFoundError once closed."""

        async def fetch() -> list[T]:
            if self._closed:
                raise NotFoundError(f"{self._what} is no longer subscribed")
            return [self._events.popleft() for _ in range(min(max_events, len(self._events)))]

        return await self._notifier.poll(fetch, timeout_s)
