"""Scans: an agent looks through the offers that this node knows, those to come included, without a demand.

A scan holds the ids of offers that it has not looked at yet; an offer is looked at when somebody asks. So a scan costs
little until it is read, and an offer that is gone by then is not told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from golemp2p import limits
from golemp2p.core.constraints import Expression, Ternary, evaluate, parse
from golemp2p.core.ids import SubscriptionId
from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.errors import GoneError, NotFoundError, PolicyError
from golemp2p.market.book import OrderBook
from golemp2p.market.events import Notifier

LOOKED_AT_ONCE = 100  # offers between two moments for other tasks; a look takes about 20 microseconds


@dataclass
class Scan:
    """``idle_s``: it ends when nobody asked for so long."""

    id: str
    constraints: Expression
    idle_s: float
    asked_s: float
    waiting: int = 0  # who asks now
    ended: bool = False
    unseen: dict[SubscriptionId, None] = field(default_factory=dict)
    told_of_peer: set[SubscriptionId] = field(default_factory=set)
    news: Notifier = field(default_factory=Notifier)


class Scans:
    def __init__(self, book: OrderBook, clock: Callable[[], float]) -> None:
        self._book = book
        self._clock = clock
        self._scans: dict[str, Scan] = {}
        self._made = 0

    def __len__(self) -> int:
        return len(self._scans)

    def begin(self, constraints: str, idle_s: float) -> str:
        """A new scan's id, decimal as yagna's. Raises UsageError (constraints), PolicyError (too many)."""
        parsed = parse(constraints)
        self.forget_idle()
        if len(self._scans) >= limits.MAX_SCANS:
            raise PolicyError(f"{len(self._scans)} scans are open", hint="end some of them first")
        self._made += 1
        scan = Scan(str(self._made), parsed, min(max(idle_s, 1.0), limits.MAX_SCAN_IDLE_S), trio.current_time())
        scan.unseen = dict.fromkeys(o.id for o in self._book.live(RecordKind.OFFER, self._clock()))
        self._scans[scan.id] = scan
        return scan.id

    def end(self, scan_id: str) -> None:
        """Who waits is told. Raises NotFoundError."""
        self._close(self._find(scan_id))

    def _close(self, scan: Scan) -> None:
        del self._scans[scan.id]
        scan.ended = True
        scan.news.notify()

    def add(self, offer: MarketRecord) -> None:
        """An offer that the book has not had before."""
        for scan in self._scans.values():
            scan.unseen[offer.id] = None
            if len(scan.unseen) > limits.MAX_RECORDS:
                del scan.unseen[next(iter(scan.unseen))]
            scan.news.notify()

    async def take(self, scan_id: str, timeout_s: float, max_offers: int) -> list[MarketRecord]:
        """The next matching offers, each once, the first heard of first; waits for one.

        Raises NotFoundError, GoneError (ended meanwhile).
        """
        scan = self._find(scan_id)

        async def fetch() -> list[MarketRecord]:
            return await self._look(scan, max_offers)

        scan.waiting += 1
        try:
            return await scan.news.poll(fetch, timeout_s)
        finally:
            scan.waiting -= 1
            scan.asked_s = trio.current_time()

    async def take_of_peer(self, scan_id: str, address: str, max_offers: int) -> list[MarketRecord]:
        """As :meth:`take`, of one provider, without waiting; what was told here may come in :meth:`take` again."""
        scan = self._find(scan_id)
        scan.asked_s = trio.current_time()
        found: list[MarketRecord] = []
        for number, offer in enumerate(self._book.live(RecordKind.OFFER, self._clock()), 1):
            if number % LOOKED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            if offer.address == address and offer.id not in scan.told_of_peer and self._fits(scan, offer):
                scan.told_of_peer.add(offer.id)
                found.append(offer)
                if len(found) >= max_offers:
                    break
        if len(scan.told_of_peer) > limits.MAX_RECORDS:
            scan.told_of_peer.clear()
        return found

    def forget_idle(self) -> None:
        now_s = trio.current_time()
        for scan in list(self._scans.values()):
            if not scan.waiting and now_s - scan.asked_s > scan.idle_s:
                self._close(scan)

    def _find(self, scan_id: str) -> Scan:
        self.forget_idle()
        scan = self._scans.get(scan_id)
        if scan is None:
            raise NotFoundError(f"scan {scan_id[:40]} is unknown", hint="scans that nobody reads end by themselves")
        return scan

    async def _look(self, scan: Scan, max_offers: int) -> list[MarketRecord]:
        found: list[MarketRecord] = []
        looked = 0
        while scan.unseen and len(found) < max_offers:
            offer_id = next(iter(scan.unseen))
            del scan.unseen[offer_id]
            offer = self._book.get(offer_id, self._clock())
            if offer is not None and self._fits(scan, offer):
                found.append(offer)
            looked += 1
            if looked % LOOKED_AT_ONCE == 0:
                if found:  # it must not be lost to a cancellation at the checkpoint
                    break
                await trio.lowlevel.checkpoint()
        if scan.ended and not found:
            raise GoneError(f"scan {scan.id} has ended")
        return found

    def _fits(self, scan: Scan, offer: MarketRecord) -> bool:
        return evaluate(scan.constraints, offer.properties) is Ternary.TRUE
