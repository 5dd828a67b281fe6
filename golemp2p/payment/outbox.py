"""Durable delivery: what was stored is sent until the peer acknowledges it, in order for each peer, over restarts."""

from __future__ import annotations

from functools import partial
from typing import Final, NoReturn

import msgpack
import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError, LocalProtocolError, PolicyError, RemoteError, RemoteProtocolError, UsageError
from golemp2p.payment.ports import Context, Rpc
from golemp2p.storage import payment as repo
from golemp2p.storage.payment import OutboxMessage
from golemp2p.wire.p2p.payment import PROTOCOL, Message

log = structlog.get_logger(__name__)


# Families that the RPC does not bring back as themselves; a peer's state machine says the second.
_REFUSALS: Final = frozenset({RemoteProtocolError.code, LocalProtocolError.code})


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

        What was acknowledged is struck off in groups: after a crash some is sent again, which is harmless.
        """
        storage = self._context.storage
        try:
            queue = await storage.run(partial(repo.waiting_messages, peer=peer, limit=limits.OUTBOX_GROUP))
            sent: list[int] = []
            for message in queue:
                async with self._limiter:  # for each message anew: a slow peer takes its turn like the others
                    go_on = await self._send(message, sent)
                if not go_on:
                    break
            await storage.run(partial(repo.remove_messages, seqs=sent))
        finally:
            self._busy.discard(peer)
            self._context.outbox.tell()

    async def _send(self, message: OutboxMessage, sent: list[int]) -> bool:
        """Whether to go on with the next one."""
        context = self._context
        try:
            body = msgpack.unpackb(message.body)
            await self._rpc.call(message.peer, PROTOCOL, message.method, body, timeout_s=limits.PAYMENT_RPC_TIMEOUT_S)
        except GolemError as exc:
            refused = _is_refusal(exc)
            pause_s = min(limits.OUTBOX_RETRY_MAX_S, limits.OUTBOX_RETRY_S * 2 ** min(message.attempts, 20))
            # A peer that refuses may still be starting; one that always does will not change its mind.
            dead = refused and message.refusals + 1 >= limits.OUTBOX_MAX_REFUSALS
            next_at, error = context.clock() + pause_s, str(exc)
            log.info(
                "payment_message_not_delivered",
                peer=message.peer,
                method=message.method,
                attempt=message.attempts + 1,
                retry_in_s=None if dead else pause_s,
                error=error,
            )
            await context.storage.run(
                lambda c: repo.postpone_message(c, message, next_at=next_at, error=error, refused=refused, dead=dead)
            )
            return dead
        sent.append(message.seq)
        return True


def _is_refusal(error: GolemError) -> bool:
    """Whether the peer heard the message and does not agree. A busy or troubled one did not judge it."""
    if isinstance(error, RemoteError):
        return error.code in _REFUSALS
    return isinstance(error, UsageError | PolicyError | RemoteProtocolError)
