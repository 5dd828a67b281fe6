"""Golem: one session with a node, one budget, any number of jobs."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from decimal import Decimal
from functools import partial
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import anyio

from golemp2p import limits
from golemp2p.client import NodeClient, connect
from golemp2p.core.money import format_amount, parse_amount
from golemp2p.errors import GolemError, UsageError
from golemp2p.sdk.contracts import Attempt, Contract
from golemp2p.sdk.errors import BudgetError
from golemp2p.sdk.hiring import Terms, log_waiting
from golemp2p.sdk.job import Job, JobOptions, Worker
from golemp2p.sdk.log import get_logger
from golemp2p.sdk.offers import both
from golemp2p.sdk.payload import Payload
from golemp2p.sdk.payments import Payments
from golemp2p.sdk.report import ReportRow, rows
from golemp2p.sdk.task import TaskResult
from golemp2p.wire.rest.payment import Account, Payment

log = get_logger()

D = TypeVar("D")
R = TypeVar("R")

DEFAULT_API_URL: Final = "http://127.0.0.1:7465"
DEFAULT_JOB_S: Final = 3_600.0


class Results(AsyncIterator[TaskResult[D, R]], Generic[D, R]):
    """What ``execute_tasks`` gives: iterate over it. Leaving the loop early stops the job."""

    def __init__(self, job: Job[D, R]) -> None:
        self._job = job

    async def __anext__(self) -> TaskResult[D, R]:
        try:
            return await self._job.results.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._job.results.close()
            if self._job.error is not None:
                raise self._job.error from None
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """Stop the job and wait until its activities and agreements are ended."""
        self._job.stop()
        await self._job.ended.wait()

    def __del__(self) -> None:
        # `break` drops the last reference at once. Cleaning up goes on in the background, until Golem is left.
        if not self._job.ended.is_set():
            self._job.stop()


class Golem:
    """A session with the node at ``api_url``; ``budget`` in GLM is the most that all its jobs together may cost.

    What is not given comes from YAGNA_API_URL, YAGNA_APPKEY, YAGNA_SUBNET and YAGNA_PAYMENT_NETWORK (or
    PAYMENT_NETWORK). On leaving, jobs are stopped, and the last invoices are awaited for ``invoice_timeout_s`` and
    accepted. Raises BudgetError (the account has less than the budget), NetworkError, UsageError.
    """

    def __init__(
        self,
        *,
        budget: str | Decimal,
        api_url: str | None = None,
        app_key: str | None = None,
        subnet: str | None = None,
        payment_network: str | None = None,
        name: str = "golemp2p",
        invoice_timeout_s: float = limits.SDK_INVOICE_TIMEOUT_S,
    ) -> None:
        self._budget = parse_amount(budget, what="budget")
        self._api_url = api_url or os.environ.get("YAGNA_API_URL") or DEFAULT_API_URL
        self._app_key = app_key or os.environ.get("YAGNA_APPKEY") or ""
        self._subnet = subnet or os.environ.get("YAGNA_SUBNET") or ""
        environment = os.environ.get("YAGNA_PAYMENT_NETWORK") or os.environ.get("PAYMENT_NETWORK")
        self._payment_network = payment_network or environment or ""
        self._name = name
        self._invoice_timeout_s = invoice_timeout_s
        self._session_id = ""  # the allocation's id: the node then knows what budget our agreements have
        self._stack = AsyncExitStack()
        self._jobs: list[Job[object, object]] = []
        self._avoided: set[str] = set()
        self._contracts: dict[str, Contract] = {}
        self._attempts: list[Attempt] = []
        self._packages: dict[Payload, str] = {}
        self._settled: list[Payment] = []
        self._paying: list[anyio.CancelScope] = []
        if not self._app_key:
            raise UsageError("no app-key", hint="set YAGNA_APPKEY or give app_key=")

    # --- the session ---

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            with anyio.move_on_after(limits.SDK_CLOSE_TIMEOUT_S, shield=True):
                await self._stack.aclose()
            raise
        return self

    async def _open(self) -> None:
        self._client: NodeClient = await self._stack.enter_async_context(connect(self._api_url, self._app_key))
        self._subnet = self._subnet or (await self._client.node.status()).subnet
        account = self._account(await self._client.payment.accounts())
        self._platform = account.platform
        amount = format_amount(self._budget)
        try:
            allocation = await self._client.payment.create_allocation(amount, platform=account.platform)
        except UsageError as exc:
            raise BudgetError(f"a budget of {amount} GLM cannot be made: {exc.message}", hint=exc.hint) from exc
        self._allocation = self._session_id = allocation.allocation_id
        self._stack.push_async_callback(self._release)
        self._decoration = await self._client.payment.decorate_demand(self._allocation)
        self._payments = Payments(
            self._client,
            allocation_id=self._allocation,
            budget=self._budget,
            session_id=self._session_id,
            contracts=self._contracts,
            on_budget=self._stop_all,
        )
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        for part in (
            partial(self._payments.watch, "debitNote"),
            partial(self._payments.watch, "invoice"),
            self._payments.watch_budget,
        ):
            self._tasks.start_soon(self._pay, part)

    async def _pay(self, part: Callable[[], Awaitable[None]]) -> None:
        """Also while the caller is being cancelled: the last bills come after the work."""
        with anyio.CancelScope(shield=True) as scope:
            self._paying.append(scope)
            await part()

    def _account(self, accounts: Sequence[Account]) -> Account:
        wanted = self._payment_network
        for account in accounts:
            if wanted in ("", account.network, account.platform):
                return account
        known = ", ".join(sorted(a.network for a in accounts)) or "none"
        raise UsageError(f"the node pays on no network {wanted!r}", hint=f"payment_network: one of {known}")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            for job in self._jobs:
                job.stop()
            for job in self._jobs:
                await job.ended.wait()  # bounded: each job bounds its own cleaning up
            await self._payments.wait_invoices(self._invoice_timeout_s)
        for scope in self._paying:
            scope.cancel()
        self._tasks.cancel_scope.cancel()
        try:
            if isinstance(error, anyio.get_cancelled_exc_class()):
                await self._tasks.__aexit__(kind, error, trace)
            else:  # the group would wrap the caller's own error
                await self._tasks.__aexit__(None, None, None)
        finally:
            with anyio.move_on_after(limits.SDK_CLOSE_TIMEOUT_S, shield=True):
                await self._stack.aclose()

    async def _release(self) -> None:
        try:
            await self._client.payment.release_allocation(self._allocation)
        except GolemError as exc:
            log.warning("allocation_not_released", allocation=self._allocation, error=str(exc))

    def _stop_all(self, error: BudgetError) -> None:
        for job in self._jobs:
            job.fail(error)

    # --- jobs ---

    def execute_tasks(
        self,
        worker: Worker[D, R],
        tasks: Iterable[D] | AsyncIterable[D],
        *,
        payload: Payload,
        max_workers: int = 4,
        timeout_s: float = DEFAULT_JOB_S,
        task_timeout_s: float = 300.0,
        max_attempts: int = 3,
        max_price_per_hour: str | Decimal | None = None,
        offers_timeout_s: float = 10.0,
        on_waiting: Callable[[str], None] = log_waiting,
    ) -> Results[D, R]:
        """Run ``worker`` over all ``tasks`` at up to ``max_workers`` providers; results in the order they are done.

        A task that fails by its own fault is tried ``max_attempts`` times and then given as a result with an error; one
        whose provider fails goes to another, and the provider is not asked again in this session. Iterating raises
        NoOffersError (nobody could be hired for ``offers_timeout_s``), BudgetError, DeadlineError (``timeout_s``), and
        whatever the worker function raised that is no GolemError. ``max_price_per_hour``: GLM for an hour of one busy
        CPU, the start price included; dearer offers are passed over. ``on_waiting`` is told why nobody could be hired
        yet, after ten seconds and then every minute; without it that is logged.
        """
        if max_workers < 1 or max_attempts < 1 or not timeout_s > 0 or not task_timeout_s > 0:
            raise UsageError("max_workers, max_attempts, timeout_s and task_timeout_s must be more than 0")
        highest = None if max_price_per_hour is None else parse_amount(max_price_per_hour, what="max_price_per_hour")

        async def terms() -> Terms:
            package = self._packages.get(payload)
            if package is None:
                package = self._packages[payload] = await payload.publish(self._client)
            expires_at = time.time() + timeout_s + limits.SDK_DEMAND_SLACK_S
            return Terms(
                properties={
                    "golem.srv.comp.expiration": round(expires_at * 1000),
                    "golem.srv.caps.multi-activity": True,
                    "golem.srv.comp.task_package": package,
                    "golem.node.debug.subnet": self._subnet,
                    "golem.node.id.name": self._name,
                    # The provider's own stop, should ours not reach it.
                    "golem.!exp.golemp2p.limit.wall_sec": task_timeout_s + limits.PROVIDER_GONE_S,
                    **dict(payload.demand),
                    **{p.key: p.value for p in self._decoration.properties},
                },
                constraints=both(
                    [
                        f"(golem.runtime.name={payload.runtime})",
                        f"(golem.node.debug.subnet={self._subnet})",
                        *self._decoration.constraints,
                        *payload.constraints,
                    ]
                ),
                platform=self._platform,
                expires_at=expires_at,
                budget=self._budget,
                max_price_per_hour=highest,
                offers_timeout_s=offers_timeout_s,
                session_id=self._session_id,
            )

        job: Job[D, R] = Job(
            self._client,
            worker,
            tasks,
            payload,
            JobOptions(max_workers, timeout_s, task_timeout_s, max_attempts, on_waiting),
            payments=self._payments,
            terms=terms,
            avoided=self._avoided,
            attempts=self._attempts,
        )
        self._jobs.append(job)  # type: ignore[arg-type] # only stopped and awaited from here
        self._tasks.start_soon(job.run)
        return Results(job)

    # --- accounts ---

    async def finish(self, timeout_s: float | None = None) -> None:
        """Wait until no job runs and every invoice is answered, so that :meth:`report` has all prices."""
        for job in self._jobs:
            await job.ended.wait()
        await self._payments.wait_invoices(self._invoice_timeout_s if timeout_s is None else timeout_s)

    async def settled(self, timeout_s: float = 60.0) -> list[str]:
        """As :meth:`finish`, and then until every accepted invoice is paid; the transactions, each once.

        Raises DeadlineError.
        """
        started_s = anyio.current_time()
        await self.finish(min(timeout_s, self._invoice_timeout_s))
        left_s = timeout_s - (anyio.current_time() - started_s)
        self._settled = await self._payments.wait_settled(max(0.0, left_s))
        return list(dict.fromkeys(payment.transaction for payment in self._settled))

    def report(self) -> list[ReportRow]:
        """One row for each attempt at a task so far."""
        return rows(self._attempts, self._contracts, self._settled)

    @property
    def cost(self) -> Decimal:
        """GLM billed so far, without bills that were not accepted."""
        accepted = sum(c.billed for c in self._contracts.values() if not c.problem)
        return Decimal(format_amount(accepted))
