"""One RPC endpoint: asked in worker threads, with a memory of how it behaves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
import trio

from golemp2p import limits
from golemp2p.errors import DeadlineError, NetworkError
from golemp2p.payment.chain.errors import EndpointBusyError, EndpointError, RpcAnswerError
from golemp2p.payment.chain.parse import Block, parse_block, quantity
from golemp2p.payment.chain.transport import Question, Transport, load, loaded
from golemp2p.payment.endpoints import EndpointStatus

log = structlog.get_logger(__name__)
R = TypeVar("R")


class Endpoint:
    """``clock``: seconds since the epoch, to judge the age of a head."""

    def __init__(
        self, url: str, chain_id: int, *, max_head_age_s: float = 0.0, clock: Callable[[], float] = time.time
    ) -> None:
        parts = urlsplit(url)
        self.host = (parts.hostname or "?") + (f":{parts.port}" if parts.port else "")
        self.head: Block | None = None
        self.off = False  # another chain: for good
        self._url = url
        self._chain_id = chain_id
        self._max_head_age_s = max_head_age_s
        self._clock = clock
        self._limiter = trio.CapacityLimiter(limits.CHAIN_CALLS_AT_ONCE)
        self._loading = trio.Lock()
        self._transport: Transport | None = None
        self._takes_batches = True
        self._checked_at = -math.inf
        self._paused_until = -math.inf
        self._failures = 0  # in a row
        self._problem = ""
        self._latency_s = 0.0
        self._penalty = 0.0  # halves in CHAIN_PENALTY_HALF_S
        self._penalty_at = 0.0

    # --- how it is ----------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        return not self.off and trio.current_time() >= self._paused_until

    @property
    def problem(self) -> str:
        return self._problem

    def score(self, best_head: int) -> float:
        """The lower the better: seconds that an answer takes, and what mistakes and lag count as."""
        lag = max(0, best_head - self.head.number) if self.head is not None else 0
        return self._latency_s + self._penalty_now() + lag * 0.5

    def _penalty_now(self) -> float:
        age_s = trio.current_time() - self._penalty_at
        return self._penalty * math.exp2(-age_s / limits.CHAIN_PENALTY_HALF_S)

    def status(self) -> EndpointStatus:
        head = self.head.number if self.head is not None else 0
        healthy = not self.off and not self._problem
        return EndpointStatus(self.host, healthy, self._problem, round(self._latency_s * 1000, 1), head)

    def blame(self, problem: str, *, pause_s: float | None = None) -> None:
        """It failed: not asked for a while, ever longer. ``pause_s``: it said how long."""
        now = trio.current_time()
        self._failures += 1
        doubled = limits.CHAIN_BACKOFF_S * 2 ** min(self._failures - 1, 20)
        pause = min(limits.CHAIN_BACKOFF_MAX_S, pause_s or doubled)
        self._paused_until = max(self._paused_until, now + pause)
        self._penalty, self._penalty_at = self._penalty_now() + 1, now
        if problem != self._problem:
            log.warning("chain_endpoint_failed", host=self.host, problem=problem, pause_s=round(pause, 1))
        self._problem = problem

    def doubt(self) -> None:
        """It answered with an error that the others may not have: they come first for a while."""
        self._penalty, self._penalty_at = self._penalty_now() + 1, trio.current_time()

    def praise(self) -> None:
        """What it answered is a fact: its failures are forgotten."""
        if self._problem:
            log.info("chain_endpoint_recovered", host=self.host)
        self._problem, self._failures = "", 0

    def _took(self, seconds: float) -> None:
        self._latency_s = seconds if not self._latency_s else 0.8 * self._latency_s + 0.2 * seconds

    # --- asking -------------------------------------------------------------------------------------------------

    async def ask(self, method: str, params: Sequence[object], *, timeout_s: float) -> Any:
        """The result, as JSON has it. Raises RpcAnswerError (an answer, too), EndpointError, DeadlineError."""
        await self._check(timeout_s)
        return await self._one(method, params, timeout_s)

    async def ask_all(self, questions: Sequence[Question], *, timeout_s: float) -> list[Any]:
        """As :meth:`ask`, in one HTTP request where the endpoint takes that. An RpcAnswerError in a result's place."""
        await self._check(timeout_s)
        if self._takes_batches and len(questions) > 1:
            try:
                return await self._blocking(lambda t: t.ask_all(questions), timeout_s, blame=False)
            except (EndpointBusyError, DeadlineError) as exc:
                self.blame(exc.message, pause_s=exc.retry_after_s if isinstance(exc, EndpointBusyError) else None)
                raise
            except (RpcAnswerError, EndpointError):
                self._takes_batches = False  # or it is down, which the single calls find out
        results: list[Any] = []
        for method, params in questions:
            try:
                results.append(await self._one(method, params, timeout_s))
            except RpcAnswerError as exc:
                results.append(exc)
        return results

    async def _one(self, method: str, params: Sequence[object], timeout_s: float) -> Any:
        return await self._blocking(lambda transport: transport.ask(method, params), timeout_s)

    async def _check(self, timeout_s: float) -> None:
        """Chain id and age of the head, at the first use and every CHAIN_VERIFY_S of use."""
        if trio.current_time() - self._checked_at < limits.CHAIN_VERIFY_S:
            return
        async with self._loading:
            if not self.usable:  # it failed another task while this one waited
                raise EndpointError(self._problem)
            if trio.current_time() - self._checked_at < limits.CHAIN_VERIFY_S:  # another task did it meanwhile
                return
            found = quantity(await self._one("eth_chainId", (), timeout_s), self.host)
            if found != self._chain_id:
                self.off = True
                self._problem = f"{self.host} is chain {found}, not {self._chain_id}: it is not asked again"
                log.error("chain_endpoint_wrong_chain", host=self.host, found=found, expected=self._chain_id)
                raise EndpointError(self._problem)
            if self._max_head_age_s:
                self.note_head(await self._one("eth_getBlockByNumber", ("latest", False), timeout_s))
            self._checked_at = trio.current_time()

    def note_head(self, answer: Any) -> Block:
        """Its head, from an answer. Raises EndpointError when it is too old."""
        try:
            block = parse_block(answer, self.host)
        except EndpointError as exc:
            self.blame(exc.message)
            raise
        age_s = self._clock() - block.timestamp
        if self._max_head_age_s and age_s > self._max_head_age_s:
            problem = f"the head of {self.host} is {age_s:.0f} s old (at most {self._max_head_age_s:g} s)"
            self.blame(problem)
            raise EndpointError(problem)
        self.head = block
        self.praise()
        return block

    async def _blocking(self, use: Callable[[Transport], R], timeout_s: float, *, blame: bool = True) -> R:
        """In a worker thread, which ends by its own socket time-out a little after the deadline that abandons it."""
        await _load()
        if self._transport is None:
            self._transport = Transport(self._url, self.host)
        transport, started = self._transport, trio.current_time()
        try:
            with trio.fail_after(timeout_s):
                result = await trio.to_thread.run_sync(use, transport, limiter=self._limiter, abandon_on_cancel=True)
        except trio.TooSlowError:
            problem = f"{self.host} did not answer within {timeout_s:g} s"
            if blame:
                self.blame(problem)
            raise DeadlineError(problem) from None
        except RpcAnswerError:
            self._took(trio.current_time() - started)
            raise
        except EndpointBusyError as exc:
            if blame:
                self.blame(exc.message, pause_s=exc.retry_after_s)
            raise
        except NetworkError as exc:
            if blame:
                self.blame(exc.message)
            raise
        self._took(trio.current_time() - started)
        return result


async def _load() -> None:
    if not loaded():
        try:
            with trio.fail_after(limits.CHAIN_LOAD_TIMEOUT_S):
                await trio.to_thread.run_sync(load, abandon_on_cancel=True)
        except trio.TooSlowError:
            raise DeadlineError(f"web3 was not imported within {limits.CHAIN_LOAD_TIMEOUT_S:g} s") from None
