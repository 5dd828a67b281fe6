"""Words that must reach a peer (termination, rejection, cancellation, approval): stored, sent until acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgpack
import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.ids import AgreementId, PeerId
from golemp2p.errors import GolemError, UsageError
from golemp2p.net.rpc import Rpc
from golemp2p.storage import Storage
from golemp2p.storage import market as rows
from golemp2p.wire.p2p.market import PROTOCOL

log = structlog.get_logger("golemp2p.market.delivery")

RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 120.0
GIVE_UP_S: Final = 7 * 24 * 3600.0
PEERS_AT_ONCE: Final = 16


class Delivery:
    def __init__(self, storage: Storage, rpc: Rpc, clock: Callable[[], float]) -> None:
        self._storage = storage
        self._rpc = rpc
        self._clock = clock
        self._wake = trio.Event()
        self._busy: set[PeerId] = set()
        self._not_before: dict[PeerId, tuple[float, float]] = {}  # peer -> (moment, wait)

    def add(
        self,
        connection: Connection,
        peer: PeerId,
        method: str,
        agreement_id: AgreementId,
        body: Mapping[str, Any],
        now: float,
    ) -> None:
        """Part of the transaction that makes the word true. Call :meth:`kick` after it."""
        packed: bytes = msgpack.packb(dict(body))
        rows.add_undelivered(connection, peer, method, agreement_id, packed, now)

    def kick(self) -> None:
        """There is something to send."""
        self._wake.set()

    def peer_is_back(self, peer: PeerId) -> None:
        if self._not_before.pop(peer, None):
            self.kick()

    async def run(self) -> None:
        self.kick()  # what a former life left
        async with trio.open_nursery() as nursery:
            limiter = trio.CapacityLimiter(PEERS_AT_ONCE)
            while True:
                wait_s = await self._round(nursery, limiter)
                with trio.move_on_after(wait_s):
                    await self._wake.wait()
                self._wake = trio.Event()

    async def _round(self, nursery: trio.Nursery, limiter: trio.CapacityLimiter) -> float:
        """Start sending what is due, each peer in a task of its own; the seconds until the next is."""
        pending: dict[PeerId, list[rows.Undelivered]] = {}
        for row in await self._storage.run(rows.undelivered):
            pending.setdefault(row.peer, []).append(row)
        self._not_before = {peer: due for peer, due in self._not_before.items() if peer in pending}
        now = self._clock()
        waits = [float("inf")]
        for peer, words in pending.items():
            due = self._not_before.get(peer, (0.0, 0.0))[0]
            if peer in self._busy:
                continue  # its task kicks when it is done
            if due <= now:
                self._busy.add(peer)
                nursery.start_soon(self._send_all, peer, words, limiter)
            else:
                waits.append(due - now)
        return max(0.1, min(waits))

    async def _send_all(self, peer: PeerId, words: list[rows.Undelivered], limiter: trio.CapacityLimiter) -> None:
        try:
            async with limiter:
                for word in words:
                    if not await self._send(peer, word):
                        return
                    await self._storage.run(partial(rows.remove_undelivered, row_id=word.id))
        finally:
            self._busy.discard(peer)
            self.kick()

    async def _send(self, peer: PeerId, word: rows.Undelivered) -> bool:
        """Whether the word is done with."""
        try:
            await self._rpc.call(
                peer, PROTOCOL, word.method, msgpack.unpackb(word.body), timeout_s=limits.MARKET_RPC_TIMEOUT_S
            )
        except UsageError as exc:  # the peer heard it and does not agree: saying it again changes nothing
            log.info("word_refused", peer=peer, method=word.method, agreement=word.agreement_id, error=str(exc))
        except GolemError as exc:  # unreachable, busy, in trouble
            if self._clock() - word.created_at < GIVE_UP_S:
                wait_s = min(2 * self._not_before.get(peer, (0.0, RETRY_FIRST_S / 2))[1], RETRY_MAX_S)
                self._not_before[peer] = (self._clock() + wait_s, wait_s)
                return False
            log.warning("undeliverable", peer=peer, method=word.method, error=exc.message)
        self._not_before.pop(peer, None)
        return True
