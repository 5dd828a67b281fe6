"""Durable delivery: what was stored is sent until the peer acknowledges it, in order for each peer, over restarts."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import NoReturn

import msgpack
import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError, NetworkError
from golemp2p.payment.ports import Context, Rpc
from golemp2p.storage import payment as repo
from golemp2p.storage.payment import OutboxMessage
from golemp2p.wire.p2p.payment import PROTOCOL, Message

log = structlog.get_logger(__name__)


def post(connection: Connection, peer: PeerId, method: str, message: Message, *, now: float) -> None:
    """Part of the transaction that makes the message true. Tell ``context.outbox`` after it."""
    repo.add_message(connection, peer, method, msgpack.packb(message.model_dump()), now=now)


class Outbox:
    def __init__(self, context: Context, rpc: Rpc) -> None:
        self._context = context
        self._rpc = rpc
        self._back: set[PeerId] = set()
        self._limiter = trio.CapacityLimiter(limits.OUTBOX_PEERS_AT_ONCE)

    def peer_is_back(self, peer: PeerId) -> None:
        """A connection came up: what waits for this peer is sent now, not at the end of its pause."""
        self._back.add(peer)
        self._context.outbox.tell()

    async def run(self) -> NoReturn:
        """One look at the queue per change or due retry; idle otherwise."""
        context = self._context
        while True:
            news = context.outbox.next()
            waiting = await context.storage.run(lambda c: repo.waiting_messages(c, limit=limits.DB_QUEUE))
            queues: dict[PeerId, list[OutboxMessage]] = defaultdict(list)
            for message in waiting:
                queues[message.peer].append(message)
            now = context.clock()
            back, self._back = self._back, set()
            due = [queue for peer, queue in queues.items() if peer in back or queue[0].next_at <= now]
            if due:
                async with trio.open_nursery() as nursery:
                    for queue in due:
                        nursery.start_soon(self._deliver, queue)
                continue
            pause = min((queue[0].next_at for queue in queues.values()), default=None)
            with trio.move_on_after(float("inf") if pause is None else max(0.0, pause - now)):
                await news.wait()

    async def _deliver(self, queue: list[OutboxMessage]) -> None:
        """Everything to one peer, oldest first; stops at the first that cannot be delivered.

        What was acknowledged is struck off in groups: after a crash some is sent again, which is harmless.
        """
        async with self._limiter:
            for start in range(0, len(queue), limits.OUTBOX_GROUP):
                sent: list[int] = []
                go_on = True
                for message in queue[start : start + limits.OUTBOX_GROUP]:
                    go_on = await self._send(message, sent)
                    if not go_on:
                        break
                await self._context.storage.run(partial(repo.remove_messages, seqs=sent))
                if not go_on:
                    return

    async def _send(self, message: OutboxMessage, sent: list[int]) -> bool:
        """Whether to go on with the next one."""
        context = self._context
        try:
            body = msgpack.unpackb(message.body)
            await self._rpc.call(message.peer, PROTOCOL, message.method, body, timeout_s=limits.PAYMENT_RPC_TIMEOUT_S)
        except GolemError as exc:
            refused = not isinstance(exc, NetworkError)
            pause_s = min(limits.OUTBOX_RETRY_MAX_S, limits.OUTBOX_RETRY_S * 2 ** min(message.attempts, 20))
            # A peer that answers with an error may still be starting; one that always does will not change its mind.
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
