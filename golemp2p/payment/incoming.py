"""Messages of other nodes: one by one, or many in one call, in order and in one transaction.

A handler does in two parts what it does: first what needs no database (form, signature, the agreement), then a job
inside a transaction. So the jobs of a batch run one after the other and share one commit. A job that fails ends the
batch: what comes after it is not done, and the sender hears how far it got.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError, RemoteError
from golemp2p.payment.messages import parse
from golemp2p.payment.ports import Context, Handler
from golemp2p.wire.p2p import payment as wire


@dataclass(frozen=True)
class Step:
    """What a message is to do. ``job`` raises GolemError to refuse it; ``tell`` comes after the commit."""

    job: Callable[[Connection], object]
    tell: Callable[[], None]


Prepare = Callable[[PeerId, Mapping[str, object]], Awaitable[Step]]


class Incoming:
    """``prepared``: by method; ``plain``: methods that do their own transactions."""

    def __init__(self, context: Context, prepared: Mapping[str, Prepare], plain: Mapping[str, Handler]) -> None:
        self._context = context
        self._prepared = prepared
        self._plain = plain

    def handlers(self) -> dict[str, Handler]:
        singles = {method: self._single(prepare) for method, prepare in self._prepared.items()}
        return {**singles, **self._plain, wire.BATCH: self._batch}

    def _single(self, prepare: Prepare) -> Handler:
        async def handle(peer: PeerId, body: Mapping[str, object]) -> object:
            step = await prepare(peer, body)
            await self._context.storage.run(step.job)
            step.tell()
            return {}

        return handle

    async def _batch(self, peer: PeerId, body: Mapping[str, object]) -> object:
        message = parse(wire.BatchMessage, body)
        done, steps = 0, list[Step]()
        problem: GolemError | None = None
        for method, inner in message.messages:
            try:
                if method in self._prepared:
                    steps.append(await self._prepared[method](peer, inner))
                    continue
                done += await self._run(steps)
                steps = []
                await self._plain.get(method, _unknown)(peer, inner)
                done += 1
            except _Stopped as exc:
                done, steps, problem = done + exc.done, [], exc.problem
                break
            except GolemError as exc:  # of this message; those before it are still to be done
                problem = exc
                break
        try:
            done += await self._run(steps)
        except _Stopped as exc:
            done, problem = done + exc.done, exc.problem
        answer = wire.BatchAnswer(done=done)
        if problem is not None:
            most = limits.MAX_ERROR_CHARS
            answer = wire.BatchAnswer(
                done=done, code=problem.code, message=problem.message[:most], hint=problem.hint[:most]
            )
        return answer.model_dump()

    async def _run(self, steps: Sequence[Step]) -> int:
        """All in one transaction, each in its savepoint. Raises _Stopped at the first that is refused."""
        if not steps:
            return 0

        def job(connection: Connection) -> tuple[int, GolemError | None]:
            for done, step in enumerate(steps):
                try:
                    with connection.begin_nested():
                        step.job(connection)
                except GolemError as exc:
                    return done, exc
            return len(steps), None

        done, problem = await self._context.storage.run(job)
        for step in steps[:done]:
            step.tell()
        if problem is not None:
            raise _Stopped(done, problem)
        return done


class _Stopped(Exception):
    """Never leaves this module."""

    def __init__(self, done: int, problem: GolemError) -> None:
        super().__init__(done)
        self.done = done
        self.problem = problem


async def _unknown(peer: PeerId, body: Mapping[str, object]) -> NoReturn:
    raise RemoteError("this node has no such method of payments", code="unknown_method")
