"""Tasks as a worker sees them, results as the caller sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from golemp2p.errors import GolemError
from golemp2p.sdk.errors import TaskRejectedError, WorkerBugError
from golemp2p.sdk.script import Script

D = TypeVar("D")
R = TypeVar("R")


class Task(Generic[D, R]):
    """One piece of work. The worker answers it with ``accept`` or ``reject`` before it takes the next."""

    def __init__(self, index: int, data: D) -> None:
        self.index = index
        self.data = data
        self.failures = 0  # by the task's own fault
        self.losses = 0  # by the provider's
        self.tried: set[str] = set()
        self.answer: tuple[R] | GolemError | None = None
        self.retry = True

    @property
    def attempts(self) -> int:
        return self.failures + self.losses

    def accept(self, result: R) -> None:
        self._answer_with((result,))

    def reject(self, reason: str, *, retry: bool = True) -> None:
        """What came back is no good. With ``retry`` another attempt is made, at another provider if there is one."""
        self.retry = retry
        self._answer_with(TaskRejectedError(reason))

    def _answer_with(self, answer: tuple[R] | GolemError) -> None:
        if self.answer is not None:
            raise WorkerBugError(f"task {self.index} was answered twice")
        self.answer = answer


@dataclass(frozen=True)
class TaskResult(Generic[D, R]):
    """The end of one task. ``seconds`` is the wall time of the last attempt, ``provider`` where it was made."""

    index: int
    data: D
    error: GolemError | None
    attempts: int
    provider: str
    seconds: float
    _value: tuple[R] | None

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def value(self) -> R:
        """What the worker accepted. Raises the task's error when it failed."""
        if self._value is None:
            assert self.error is not None
            raise self.error
        return self._value[0]


@dataclass(frozen=True)
class WorkContext:
    """Where the worker works: one activity at one provider."""

    provider_id: str
    provider_name: str
    agreement_id: str
    activity_id: str

    def new_script(self) -> Script:
        return Script()
