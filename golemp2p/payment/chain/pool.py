"""Several endpoints of one network as one source: the best one is asked, others step in, and several must agree where
money depends on it.

Theory of operation. Plain reads go to the endpoint with the lowest score (latency, recent mistakes, lag of its head);
one that fails is paused, ever longer, and the next is asked. A read that moves money goes to so many endpoints as must
agree (the quorum), to more only when those differ or fail; answers are compared as typed facts, not as text. With one
endpoint configured the quorum is one. Nothing is asked that nobody wants to know: an idle pool makes no calls.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import structlog
import trio

from golemp2p import limits
from golemp2p.errors import DeadlineError, NetworkError
from golemp2p.payment.chain.endpoint import Endpoint
from golemp2p.payment.chain.errors import DisagreementError, EndpointError, RpcAnswerError
from golemp2p.payment.chain.parse import Block
from golemp2p.payment.chain.transport import Question
from golemp2p.payment.chain.votes import Reverted, most, shown
from golemp2p.payment.endpoints import EndpointStatus
from golemp2p.payment.networks import PaymentNetwork

log = structlog.get_logger(__name__)
T = TypeVar("T")
Parse = Callable[[Any, str], T]  # (JSON, host) -> fact; raises EndpointError for garbage
Ask = Callable[[Endpoint, float], Awaitable[T]]  # (whom, within how many seconds)
_LATEST: Final[Question] = ("eth_getBlockByNumber", ("latest", False))


class EndpointPool:
    """``clock``: seconds since the epoch."""

    def __init__(self, network: PaymentNetwork, *, clock: Callable[[], float] = time.time) -> None:
        self._network = network
        self._endpoints = [
            Endpoint(url, network.chain_id, max_head_age_s=network.max_head_age_s, clock=clock)
            for url in network.rpc_urls
        ]
        self._head: tuple[float, Block] | None = None
        self._head_lock = trio.Lock()

    @property
    def quorum(self) -> int:
        return max(1, min(self._network.quorum, len(self._endpoints)))

    def status(self) -> list[EndpointStatus]:
        """From memory."""
        return [endpoint.status() for endpoint in self._endpoints]

    def _ranked(self) -> list[Endpoint]:
        """Those that may be asked now, the best first. Raises NetworkError with the reasons when there are none."""
        best_head = max((e.head.number for e in self._endpoints if e.head is not None), default=0)
        usable = sorted((e for e in self._endpoints if e.usable), key=lambda e: e.score(best_head))
        if not usable:
            raise NetworkError(
                f"network {self._network.name} cannot be reached: "
                + "; ".join(dict.fromkeys(e.problem for e in self._endpoints)),
                hint="are its rpc_urls right?",
            )
        return usable

    # --- plain reads --------------------------------------------------------------------------------------------

    async def read(self, method: str, params: Sequence[object], parse: Parse[T]) -> T:
        """The best endpoint's answer. Raises RpcAnswerError when contracts or rules refuse, NetworkError."""
        return await self._first(lambda e, timeout_s: self._fact(e, method, params, parse, timeout_s))

    async def _first(self, ask: Ask[T]) -> T:
        problems: list[str] = []
        ranked = self._ranked()
        for number, endpoint in enumerate(ranked):
            last = number == len(ranked) - 1
            try:
                return await ask(endpoint, limits.CHAIN_CALL_TIMEOUT_S if last else limits.CHAIN_FAILOVER_S)
            except RpcAnswerError as exc:
                if exc.about_call or last:
                    raise
                endpoint.doubt()
                problems.append(exc.message)
            except NetworkError as exc:
                problems.append(exc.message)
        raise NetworkError(
            f"network {self._network.name} cannot be reached: {'; '.join(dict.fromkeys(problems))}",
            hint="are its rpc_urls right?",
        )

    async def _fact(
        self, endpoint: Endpoint, method: str, params: Sequence[object], parse: Parse[T], timeout_s: float
    ) -> T:
        answer = await endpoint.ask(method, params, timeout_s=timeout_s)
        try:
            fact = parse(answer, endpoint.host)
        except EndpointError as exc:
            endpoint.blame(exc.message)
            raise
        endpoint.praise()
        return fact

    async def _facts(
        self, endpoint: Endpoint, questions: Sequence[Question], parse: Parse[T]
    ) -> tuple[T | Reverted, ...]:
        """In one HTTP request, where the endpoint takes that."""
        facts: list[T | Reverted] = []
        for answer in await endpoint.ask_all(questions, timeout_s=limits.CHAIN_CALL_TIMEOUT_S):
            if isinstance(answer, RpcAnswerError):
                if not answer.reverted:
                    raise answer
                facts.append(Reverted(answer))
                continue
            try:
                facts.append(parse(answer, endpoint.host))
            except EndpointError as exc:
                endpoint.blame(exc.message)
                raise
        endpoint.praise()
        return tuple(facts)

    async def head(self, *, at_least: int = 0) -> Block:
        """Shared by all who ask within half a poll. ``at_least``: a block that is known to be there."""
        async with self._head_lock:
            now = trio.current_time()
            fresh = self._head is not None and now - self._head[0] < self._network.poll_s / 2
            if fresh and self._head is not None and self._head[1].number >= at_least:
                return self._head[1]
            block = await self._first(self._head_of)
            self._head = (now, block)
            return block

    async def _head_of(self, endpoint: Endpoint, timeout_s: float) -> Block:
        return endpoint.note_head(await endpoint.ask(*_LATEST, timeout_s=timeout_s))

    # --- reads that move money ----------------------------------------------------------------------------------

    async def agreed_head(self, *, at_least: int = 0) -> int:
        """A block number that as many endpoints as the quorum have reached. ``at_least``: as of :meth:`head`."""
        if self.quorum == 1:
            return (await self.head(at_least=at_least)).number
        return min(block.number for block in await self._several(self._head_of))

    async def sample(
        self, method: str, params: Sequence[object], parse: Parse[T], *, refused: T | None = None
    ) -> list[T]:
        """The answers of as many endpoints as the quorum, alike or not. ``refused``: in the place of an RPC error."""

        async def ask(endpoint: Endpoint, timeout_s: float) -> T:
            try:
                return await self._fact(endpoint, method, params, parse, timeout_s)
            except RpcAnswerError:
                if refused is None:
                    raise
                return refused

        return await self._several(ask)

    async def _several(self, ask: Ask[T]) -> list[T]:
        found: list[T] = []
        problems: list[str] = []

        async def one(endpoint: Endpoint) -> None:
            try:
                found.append(await ask(endpoint, limits.CHAIN_CALL_TIMEOUT_S))
            except NetworkError as exc:
                problems.append(exc.message)

        waiting = self._ranked()
        while waiting and len(found) < self.quorum:
            missing = self.quorum - len(found)
            async with trio.open_nursery() as nursery:
                for endpoint in waiting[:missing]:
                    nursery.start_soon(one, endpoint)
            waiting = waiting[missing:]
        if len(found) < self.quorum:
            raise self._too_few(len(found), problems)
        return found

    async def agree(self, method: str, params: Sequence[object], parse: Parse[T]) -> T | Reverted:
        """What as many endpoints as the quorum say alike; a contract's refusal is an answer, too.

        None is "not that I know": an endpoint that lags says so honestly. It is the answer when there are too few
        others. Raises DisagreementError naming who says what, NetworkError when too few answer.
        """
        return await self._agree(method, lambda e: self._fact(e, method, params, parse, limits.CHAIN_CALL_TIMEOUT_S))

    async def agree_all(self, what: str, questions: Sequence[Question], parse: Parse[T]) -> tuple[T | Reverted, ...]:
        """As :meth:`agree`, of several questions at once; ``what`` they are about."""
        found = await self._agree(what, lambda e: self._facts(e, questions, parse))
        assert not isinstance(found, Reverted), "a refusal is in a place of the answer"
        return found

    async def _agree(self, method: str, ask: Callable[[Endpoint], Awaitable[T]]) -> T | Reverted:
        answers: list[tuple[str, T | Reverted]] = []
        ignorant: list[T] = []  # Nones
        problems: list[str] = []

        async def one(endpoint: Endpoint) -> None:
            try:
                fact: T | Reverted = await ask(endpoint)
            except RpcAnswerError as exc:
                if not exc.reverted:
                    problems.append(exc.message)
                    return
                fact = Reverted(exc)
            except NetworkError as exc:
                problems.append(exc.message)
                return
            if fact is None:
                ignorant.append(fact)
            else:
                answers.append((endpoint.host, fact))

        waiting = self._ranked()
        while waiting:
            best = most(answers)
            missing = self.quorum - (best[1] if best is not None else 0)
            if missing <= 0:
                break
            async with trio.open_nursery() as nursery:
                for endpoint in waiting[:missing]:
                    nursery.start_soon(one, endpoint)
            waiting = waiting[missing:]
        best = most(answers)
        if best is not None and best[1] >= self.quorum:
            self._tell_dissenters(method, answers, best[0])
            return best[0]
        if len(answers) < self.quorum:
            if len(answers) + len(ignorant) >= self.quorum:
                return ignorant[0]
            raise self._too_few(len(answers), problems)
        told = "; ".join(f"{host} says {shown(fact)}" for host, fact in answers)
        raise DisagreementError(
            f"the endpoints of network {self._network.name} do not agree on {method}: {told};"
            f" {self.quorum} equal answers are needed",
            hint="no money moves on that; remove the endpoint that is wrong from rpc_urls",
        )

    def _tell_dissenters(self, method: str, answers: Sequence[tuple[str, object]], agreed: object) -> None:
        for endpoint in self._endpoints:
            said = [fact for host, fact in answers if host == endpoint.host]
            if said and said[0] != agreed:
                endpoint.blame(f"{endpoint.host} says otherwise than the others on {method}")

    def _too_few(self, count: int, problems: Sequence[str]) -> NetworkError:
        why = "; ".join(dict.fromkeys([*problems, *(e.problem for e in self._endpoints if e.problem)]))
        return NetworkError(
            f"network {self._network.name}: {count} of the {self.quorum} endpoints that must agree answer: {why}",
            hint="more rpc_urls, or a smaller quorum, in the network's settings",
        )

    # --- broadcast ----------------------------------------------------------------------------------------------

    async def broadcast(self, raw: bytes, *, is_taken: Callable[[RpcAnswerError], bool]) -> None:
        """To all endpoints that may be asked; fine when one takes it, or says what ``is_taken`` knows as such.

        Raises the RpcAnswerError of the best one when those that answer refuse, NetworkError when none answers.
        """
        refusals: list[RpcAnswerError] = []
        problems: list[NetworkError] = []
        taken = trio.Event()
        params = ("0x" + raw.hex(),)

        async def one(endpoint: Endpoint) -> None:
            try:
                await endpoint.ask("eth_sendRawTransaction", params, timeout_s=limits.CHAIN_CALL_TIMEOUT_S)
            except RpcAnswerError as exc:
                if not is_taken(exc):
                    refusals.append(exc)
                    return
            except (EndpointError, DeadlineError) as exc:
                problems.append(exc)
                return
            taken.set()

        ranked = self._ranked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_grace, taken, nursery.cancel_scope)
            async with trio.open_nursery() as senders:
                for endpoint in ranked:
                    senders.start_soon(one, endpoint)
            nursery.cancel_scope.cancel()
        if taken.is_set():
            return
        if refusals:
            raise refusals[0]
        raise NetworkError(f"network {self._network.name} cannot be reached: {'; '.join(p.message for p in problems)}")


async def _grace(taken: trio.Event, scope: trio.CancelScope) -> None:
    """One has it: the slow ones do not hold up the payment."""
    await taken.wait()
    await trio.sleep(limits.CHAIN_BROADCAST_GRACE_S)
    scope.cancel()
