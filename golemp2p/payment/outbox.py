"""Durable delivery: what was stored is sent until the peer acknowledges it, in order for each peer, over restarts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NoReturn

import msgpack
import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import (
    ConflictError,
    GolemError,
    GoneError,
    LocalProtocolError,
    NotFoundError,
    PolicyError,
    RemoteError,
    RemoteProtocolError,
    UsageError,
)
from golemp2p.payment.messages import parse
from golemp2p.payment.ports import Context, Rpc
from golemp2p.storage import payment as repo
from golemp2p.storage.payment import OutboxMessage
from golemp2p.wire.p2p.payment import BATCH, PROTOCOL, BatchAnswer, Message

log = structlog.get_logger(__name__)


# Of families that the RPC does not bring back as themselves, and of all that a batch's answer names by their codes.
_REFUSALS: Final = frozenset(
    family.code
    for family in (
        RemoteProtocolError,
        LocalProtocolError,
        UsageError,
        NotFoundError,
        GoneError,
        ConflictError,
        PolicyError,
    )
)


def post(connection: Connection, peer: PeerId, method: str, message: Message, *, now: float) -> None:
    """Part of the transaction that makes the message true. Tell ``context.outbox`` after it."""
    repo.add_message(connection, peer, method, msgpack.packb(message.model_dump()), now=now)


class Outbox:
    """One task for each peer that has messages, so that a dead or slow one holds up nobody else."""

    def __init__(self, context: Context, rpc: Rpc) -> None:
        self._context = context
        self._rpc = rpc
        self._back: set[PeerId] = set()
        self._busy: set[PeerId] = set()
        self._limiter = trio.CapacityLimiter(limits.OUTBOX_PEERS_AT_ONCE)

    def peer_is_back(self, peer: PeerId) -> None:
        """A connection came up: what waits for this peer is sent now, not at the end of its pause."""
        self._back.add(peer)
        self._context.outbox.tell()

    async def run(self) -> NoReturn:
        """One look at the queue per change or due retry; idle otherwise."""
        context = self._context
        async with trio.open_nursery() as nursery:
            while True:
                news = context.outbox.next()
                waiting = await context.storage.run(repo.waiting_peers)
                now = context.clock()
                self._back &= waiting.keys()
                pauses = [float("inf")]
                for peer, next_at in waiting.items():
                    if peer in self._busy:
                        continue  # its task tells when it is done
                    if next_at <= now or peer in self._back:
                        self._back.discard(peer)
                        self._busy.add(peer)
                        nursery.start_soon(self._deliver, peer)
                    else:
                        pauses.append(next_at - now)
                with trio.move_on_after(min(pauses)):
                    await news.wait()
        raise AssertionError("the nursery does not end")  # pragma: no cover

    async def _deliver(self, peer: PeerId) -> None:
        """The oldest messages to one peer, in order; stops at the first that cannot be delivered.

        Many go in one call, and what was acknowledged is struck off together: after a crash some is sent again, which
        is harmless.
        """
        storage = self._context.storage
        try:
            group = await storage.run(lambda c: repo.waiting_messages(c, peer, limit=limits.OUTBOX_GROUP))
            while group:
                group = _fitting(group)
                async with self._limiter:  # for each call anew: a slow peer takes its turn like the others
                    sent, problem = await self._send(peer, group)
                group = await storage.run(partial(self._note, peer=peer, group=group, sent=sent, problem=problem))
        finally:
            self._busy.discard(peer)
            self._context.outbox.tell()

    async def _send(self, peer: PeerId, group: Sequence[OutboxMessage]) -> tuple[int, GolemError | None]:
        """How many the peer has taken, and why not the one after them."""
        bodies = [msgpack.unpackb(message.body) for message in group]
        method, body = group[0].method, bodies[0]
        if len(group) > 1:
            method, body = BATCH, {"messages": [[m.method, b] for m, b in zip(group, bodies, strict=True)]}
        try:
            answer = await self._rpc.call(peer, PROTOCOL, method, body, timeout_s=limits.PAYMENT_RPC_TIMEOUT_S)
            return (1, None) if len(group) == 1 else _judge(answer, len(group))
        except GolemError as exc:
            return 0, exc

    def _note(
        self,
        connection: Connection,
        *,
        peer: PeerId,
        group: Sequence[OutboxMessage],
        sent: int,
        problem: GolemError | None,
    ) -> list[OutboxMessage]:
        """What is to be sent next; nothing after a problem, but what follows a message that was given up."""
        repo.remove_messages(connection, [message.seq for message in group[:sent]])
        if problem is not None:
            message, refused = group[sent], _is_refusal(problem)
            pause_s = min(limits.OUTBOX_RETRY_MAX_S, limits.OUTBOX_RETRY_S * 2 ** min(message.attempts, 20))
            # A peer that refuses may still be starting; one that always does will not change its mind.
            dead = refused and message.refusals + 1 >= limits.OUTBOX_MAX_REFUSALS
            next_at, error = self._context.clock() + pause_s, str(problem)
            log.info(
                "payment_message_not_delivered",
                peer=peer,
                method=message.method,
                attempt=message.attempts + 1,
                retry_in_s=None if dead else pause_s,
                error=error,
            )
            repo.postpone_message(connection, message, next_at=next_at, error=error, refused=refused, dead=dead)
            if not dead:
                return []
        return repo.waiting_messages(connection, peer, limit=limits.OUTBOX_GROUP)


def _fitting(group: Sequence[OutboxMessage]) -> list[OutboxMessage]:
    """As many from the beginning as one call carries, and at least one."""
    size, count = 0, 0
    for message in group[: limits.MAX_BATCH_MESSAGES]:
        size += len(message.body)
        if count and size > limits.OUTBOX_BATCH_BYTES:
            break
        count += 1
    return list(group[:count])


def _judge(answer: object, count: int) -> tuple[int, GolemError | None]:
    """Of a batch of ``count``. Raises RemoteProtocolError."""
    found = parse(BatchAnswer, answer if isinstance(answer, Mapping) else {})
    if found.done > count or (found.done == count) is not (found.code == ""):
        raise RemoteProtocolError(f"the peer did {found.done} of {count} messages and says {found.code!r}")
    if not found.code:
        return count, None
    return found.done, RemoteError(found.message, code=found.code, hint=found.hint)


def _is_refusal(error: GolemError) -> bool:
    """Whether the peer heard the message and does not agree. A busy or troubled one did not judge it."""
    if isinstance(error, RemoteError):
        return error.code in _REFUSALS
    return isinstance(error, UsageError | PolicyError | RemoteProtocolError)
