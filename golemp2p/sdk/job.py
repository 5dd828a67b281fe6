"""One ``execute_tasks``: feeds tasks to workers, a worker per agreement, until all have their result."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import anyio
import anyio.abc

from golemp2p import limits
from golemp2p.client import NodeClient
from golemp2p.errors import DeadlineError, GolemError
from golemp2p.sdk.activity import Activity
from golemp2p.sdk.contracts import Attempt, Contract
from golemp2p.sdk.errors import (
    ProviderLostError,
    SetupFailedError,
    WorkerBugError,
)
from golemp2p.sdk.hiring import Hiring, Terms
from golemp2p.sdk.log import get_logger
from golemp2p.sdk.news import News
from golemp2p.sdk.offers import LinearPrice, name_of, threads_of
from golemp2p.sdk.payload import Payload
from golemp2p.sdk.payments import Payments
from golemp2p.sdk.queue import TaskQueue
from golemp2p.sdk.script import Script
from golemp2p.sdk.task import Task, TaskResult, WorkContext
from golemp2p.wire.rest.market import Agreement

log = get_logger()

D = TypeVar("D")
R = TypeVar("R")

Worker = Callable[[WorkContext, AsyncIterator[Task[D, R]]], AsyncIterator[Script]]
REASON_OK: Final = {"message": "the job is done", "golem.requestor.code": "Success"}
REASON_LOST: Final = {"message": "the provider did not answer or failed", "golem.requestor.code": "Failed"}


@dataclass(frozen=True)
class JobOptions:
    """See ``Golem.execute_tasks``."""

    max_workers: int
    timeout_s: float
    task_timeout_s: float
    max_attempts: int
    on_waiting: Callable[[str], None]


class Job(Generic[D, R]):
    """``run`` never raises: what ends the job early goes to the reader of ``results``."""

    def __init__(
        self,
        client: NodeClient,
        worker: Worker[D, R],
        source: Iterable[D] | AsyncIterable[D],
        payload: Payload,
        options: JobOptions,
        *,
        payments: Payments,
        terms: Callable[[], Awaitable[Terms]],
        avoided: set[str],
        attempts: list[Attempt],
    ) -> None:
        self.ended = anyio.Event()
        self.error: Exception | None = None
        self._client = client
        self._worker = worker
        self._source = source
        self._payload = payload
        self._options = options
        self._payments = payments
        self._terms = terms
        self._avoided = avoided
        self._attempts = attempts
        self._news = News()
        self._working: dict[str, Contract] = {}  # by provider
        self._queue: TaskQueue[D, R] = TaskQueue(self._working.keys(), self._news)
        self._fed = 0
        self._setup_failures: list[SetupFailedError] = []
        self._somebody_started = False
        self._scope = anyio.CancelScope()
        self._send, self.results = anyio.create_memory_object_stream[TaskResult[D, R]](limits.SDK_RESULTS)

    # --- life ---

    async def run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as group:
                    self._group = group
                    for part in (self._feed, self._hire, self._limit_time):
                        group.start_soon(self._guarded, part)
                    await self._until_over()
                    self._send.close()
                    group.cancel_scope.cancel()
        finally:
            self._send.close()
            self.ended.set()

    def stop(self) -> None:
        """Cancel what runs; ``ended`` tells when all is cleaned up."""
        self._send.close()
        self.results.close()
        self._scope.cancel()

    def fail(self, error: Exception) -> None:
        """The first error counts. Results that are there already are still delivered before it."""
        if self.error is None and not self.ended.is_set():
            self.error = error
            log.info("job_failed", error=str(error))
        self._send.close()
        self._scope.cancel()

    async def _guarded(self, part: Callable[..., Awaitable[None]], *args: Any) -> None:
        try:
            await part(*args)
        except Exception as exc:  # noqa: BLE001 - it belongs to the reader of the results, not to our task group
            self.fail(_first(exc))

    async def _until_over(self) -> None:
        while not self._queue.over:
            await self._news.next().wait()

    async def _limit_time(self) -> None:
        await anyio.sleep(self._options.timeout_s)
        raise DeadlineError(f"the job took longer than {self._options.timeout_s:g} s", hint="allow more with timeout_s")

    async def _feed(self) -> None:
        """A few tasks ahead of the workers, so that a long or slow source is read only as it is needed."""
        source = self._source
        if isinstance(source, AsyncIterable):
            iterator = aiter(source)
            try:
                async for data in iterator:
                    await self._put(data)
            finally:
                if isinstance(iterator, AsyncGenerator):
                    await iterator.aclose()
        else:
            for data in source:
                await self._put(data)
        self._queue.fed = True
        self._news.tell()

    async def _put(self, data: D) -> None:
        self._queue.put(Task(self._fed, data))
        self._fed += 1
        while self._queue.waiting > self._options.max_workers:
            await self._news.next().wait()

    async def _hire(self) -> None:
        hiring = Hiring(
            self._client,
            await self._terms(),
            working=lambda: len(self._working),
            wanted=lambda: min(self._options.max_workers, self._queue.unfinished),
            hire=self._take_on,
            room=lambda: self._payments.room,
            avoided=self._avoided,
            news=self._news,
            on_waiting=self._options.on_waiting,
        )
        try:
            await hiring.run()
        except* GolemError as group:
            # Nobody is left: what the payload did to the others explains it better.
            raise (self._setup_failures[-1] if self._setup_failures else _first(group)) from None

    # --- one worker ---

    def _take_on(self, agreement: Agreement, price: LinearPrice) -> None:
        offer = agreement.offer
        contract = Contract(
            agreement.agreement_id,
            offer.provider_id,
            name_of(offer.properties, offer.provider_id),
            price,
            threads_of(offer.properties),
            anyio.current_time(),
        )
        self._payments.contracts[contract.agreement_id] = contract
        self._working[contract.provider_id] = contract
        self._group.start_soon(self._guarded, self._work, contract)

    async def _work(self, contract: Contract) -> None:
        activity: Activity | None = None
        try:
            while await self._queue.ready(contract.provider_id):
                if activity is None:
                    activity = await Activity.create(self._client, contract.agreement_id, self._payload)
                    self._payments.begin(contract, activity.id)
                await self._drive(activity, contract)
                if activity.broken:
                    await activity.destroy(limits.SDK_DESTROY_TIMEOUT_S)
                    activity = None
        except ProviderLostError as exc:
            contract.lost = True
            self._avoided.add(contract.provider_id)
            log.warning("provider_lost", provider=contract.provider_name, error=str(exc))
        except SetupFailedError as exc:
            self._avoided.add(contract.provider_id)
            self._setup_failures.append(exc)
            log.warning("setup_failed", provider=contract.provider_name, error=str(exc))
            if not self._somebody_started and len(self._setup_failures) >= limits.SDK_MAX_SETUP_FAILURES:
                raise
        finally:
            # Not before all is cleaned up: the provider is busy with us until then.
            await self._dismiss(contract, activity)
            self._working.pop(contract.provider_id, None)
            self._news.tell()

    async def _dismiss(self, contract: Contract, activity: Activity | None) -> None:
        destroy_s = limits.SDK_DESTROY_LOST_S if contract.lost else limits.SDK_DESTROY_TIMEOUT_S
        with anyio.move_on_after(destroy_s + limits.SDK_CLOSE_TIMEOUT_S, shield=True):
            if activity is not None:
                await activity.destroy(destroy_s)
            try:
                reason = REASON_LOST if contract.lost else REASON_OK
                await self._client.market.terminate(contract.agreement_id, reason)
            except GolemError as exc:
                log.info("agreement_not_terminated", agreement=contract.agreement_id, error=str(exc))
        contract.ended = True
        self._payments.changed()

    async def _drive(self, activity: Activity, contract: Contract) -> None:
        """Run the worker function until it ends. Raises ProviderLostError, SetupFailedError, WorkerBugError."""
        context = WorkContext(contract.provider_id, contract.provider_name, contract.agreement_id, activity.id)
        tasks = _Tasks(self, contract)
        generator = self._worker(context, tasks)
        if not isinstance(generator, AsyncGenerator):
            raise WorkerBugError(
                "the worker is no async generator", hint="async def worker(ctx, tasks): … yield script"
            )
        try:
            await self._run_scripts(activity, generator, tasks)
        except WorkerBugError:
            raise
        except (ProviderLostError, SetupFailedError) as exc:
            tasks.lose(exc)
            raise
        except GolemError as exc:
            await tasks.fail(exc)
        else:
            await tasks.settle()
            if not tasks.taken:
                raise WorkerBugError("the worker ended without taking a task", hint="async for task in tasks: …")
        finally:
            tasks.abandon()
            await generator.aclose()

    async def _run_scripts(
        self, activity: Activity, generator: AsyncGenerator[Script, None], tasks: _Tasks[D, R]
    ) -> None:
        try:
            script = await anext(generator)
            while True:
                if not isinstance(script, Script):
                    raise WorkerBugError(f"the worker yielded {script!r:.80}, not a script")
                try:
                    await activity.execute(script, timeout_s=tasks.left_s)
                except GolemError as exc:
                    script = await generator.athrow(exc)
                else:
                    self._somebody_started = True
                    script = await generator.asend(None)
        except StopAsyncIteration:
            return

    # --- the end of an attempt ---

    async def take(self, contract: Contract) -> Task[D, R] | None:
        return await self._queue.take(contract.provider_id)

    @property
    def task_timeout_s(self) -> float:
        return self._options.task_timeout_s

    def record(self, task: Task[D, R], contract: Contract, began_s: float, outcome: str) -> float:
        seconds = anyio.current_time() - began_s
        self._attempts.append(Attempt(task.index, contract.agreement_id, seconds, outcome))
        return seconds

    async def finish(self, task: Task[D, R], contract: Contract, began_s: float) -> None:
        """The task was answered, by acceptance or with an error: deliver it or try again."""
        answer = task.answer
        assert answer is not None
        error = answer if isinstance(answer, GolemError) else None
        seconds = self.record(task, contract, began_s, "done" if error is None else "failed")
        if error is not None:
            task.failures += 1
            task.tried.add(contract.provider_id)
            log.info("task_failed", task=task.index, provider=contract.provider_name, error=str(error))
            if task.retry and task.failures < self._options.max_attempts:
                self._queue.give_back(task)
                return
        value = None if isinstance(answer, GolemError) else answer
        attempts = task.attempts + (error is None)
        await self._deliver(TaskResult(task.index, task.data, error, attempts, contract.provider_name, seconds, value))

    def lose(self, task: Task[D, R], contract: Contract, began_s: float, error: GolemError) -> None:
        """The provider failed the task, not the task itself."""
        self.record(task, contract, began_s, "lost")
        task.losses += 1
        task.tried.add(contract.provider_id)
        if task.losses < limits.SDK_MAX_LOSSES:
            self._queue.give_back(task)
        else:
            self.fail(error)

    async def _deliver(self, result: TaskResult[D, R]) -> None:
        try:
            await self._send.send(result)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):  # the caller has gone
            self._scope.cancel()
        self._queue.finish()


class _Tasks(AsyncIterator[Task[D, R]]):
    """What the worker function iterates over; knows the task in hand."""

    def __init__(self, job: Job[D, R], contract: Contract) -> None:
        self.taken = 0
        self._job = job
        self._contract = contract
        self._current: Task[D, R] | None = None
        self._began_s = 0.0

    @property
    def left_s(self) -> float:
        """Of the time for the task in hand; all of it while there is none."""
        if self._current is None:
            return self._job.task_timeout_s
        return self._began_s + self._job.task_timeout_s - anyio.current_time()

    async def __anext__(self) -> Task[D, R]:
        await self.settle()
        task = await self._job.take(self._contract)
        if task is None:
            self.taken += 1  # it asked, there was nothing
            raise StopAsyncIteration
        self.taken += 1
        self._current, self._began_s = task, anyio.current_time()
        return task

    async def settle(self) -> None:
        """The task in hand has been answered."""
        task, self._current = self._current, None
        if task is None:
            return
        if task.answer is None:
            raise WorkerBugError(
                f"the worker left task {task.index} without an answer", hint="call task.accept(…) or task.reject(…)"
            )
        await self._job.finish(task, self._contract, self._began_s)

    async def fail(self, error: GolemError) -> None:
        task, self._current = self._current, None
        if task is None:
            raise error
        if task.answer is None:
            task.answer = error
        await self._job.finish(task, self._contract, self._began_s)

    def lose(self, error: GolemError) -> None:
        task, self._current = self._current, None
        if task is not None:
            self._job.lose(task, self._contract, self._began_s, error)

    def abandon(self) -> None:
        """Cancelled in the middle: for the accounts only."""
        task, self._current = self._current, None
        if task is not None:
            self._job.record(task, self._contract, self._began_s, "cancelled")


def _first(error: BaseException) -> Exception:
    """The cause inside exception groups: ours before others'."""
    while isinstance(error, BaseExceptionGroup):
        ours = [e for e in error.exceptions if isinstance(e, GolemError | BaseExceptionGroup)]
        error = (ours or list(error.exceptions))[0]
    assert isinstance(error, Exception)
    return error
