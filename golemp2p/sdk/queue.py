"""The tasks of one job: which wait, which are being worked on, who may take which."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Generic, TypeVar

from golemp2p.sdk.news import News
from golemp2p.sdk.task import Task

D = TypeVar("D")
R = TypeVar("R")


class TaskQueue(Generic[D, R]):
    """``workers``: the providers that work now. A task goes first to providers that have not failed it."""

    def __init__(self, workers: Collection[str], news: News) -> None:
        self.fed = False  # no more tasks will come from the caller
        self._workers = workers
        self._news = news
        self._waiting: deque[Task[D, R]] = deque()
        self._in_work = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def unfinished(self) -> int:
        return len(self._waiting) + self._in_work

    @property
    def over(self) -> bool:
        return self.fed and not self.unfinished

    def put(self, task: Task[D, R]) -> None:
        self._waiting.append(task)
        self._news.tell()

    async def ready(self, provider: str) -> bool:
        """Wait until there is something for this provider; False when there will be nothing any more."""
        while True:
            news = self._news.next()
            if self._fitting(provider) is not None:
                return True
            if self.over:
                return False
            await news.wait()

    async def take(self, provider: str) -> Task[D, R] | None:
        if not await self.ready(provider):
            return None
        task = self._fitting(provider)
        assert task is not None  # no wait since ready() saw it
        self._waiting.remove(task)
        self._in_work += 1
        self._news.tell()
        return task

    def give_back(self, task: Task[D, R]) -> None:
        """For another attempt, before tasks that nobody has seen: results of old ones are awaited longer."""
        self._in_work -= 1
        task.answer = None
        self._waiting.appendleft(task)
        self._news.tell()

    def finish(self) -> None:
        self._in_work -= 1
        self._news.tell()

    def _fitting(self, provider: str) -> Task[D, R] | None:
        for task in self._waiting:
            if provider not in task.tried or all(worker in task.tried for worker in self._workers):
                return task
        return None
