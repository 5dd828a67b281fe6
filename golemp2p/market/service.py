"""The market service of a node: builds the parts, serves the protocol, runs the tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import trio

from golemp2p import limits
from golemp2p.core.constraints import Ternary, match
from golemp2p.core.eip712 import Domain
from golemp2p.core.ids import SubscriptionId
from golemp2p.core.properties import Properties
from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.errors import GolemError
from golemp2p.identity import Signer
from golemp2p.market.agreements import Agreements
from golemp2p.market.book import Applied, OrderBook
from golemp2p.market.delivery import Delivery
from golemp2p.market.negotiation import Negotiation
from golemp2p.market.rendezvous import Rendezvous, Spread
from golemp2p.market.scans import Scans
from golemp2p.market.selftest import SelfTest
from golemp2p.market.subscriptions import Subscription, Subscriptions
from golemp2p.market.sync import RecordSync
from golemp2p.net.port import Network
from golemp2p.net.rpc import Rpc
from golemp2p.storage import Storage
from golemp2p.wire.p2p.market import PROTOCOL

PUSHES: Final = 256  # direct answers to demands that wait at once
PUSH_OFFERS: Final = 16  # of ours to one demand; a pull has the rest


class MarketService:
    """``book`` what is known, ``subscriptions`` our own, ``negotiation`` proposals, ``agreements`` contracts."""

    def __init__(
        self,
        *,
        storage: Storage,
        signer: Signer,
        domain: Domain,
        network: Network,
        rpc: Rpc,
        clock: Callable[[], float],
        spread: Spread = Spread.AUTO,
        allows: Callable[[str], bool] = lambda _subnet: True,
    ) -> None:
        """``allows``: whether the network allows that subnet."""
        self._clock = clock
        self._network = network
        self.me = signer.peer_id
        self.book = OrderBook(self.me)
        self.scans = Scans(self.book, clock)
        self.sync = RecordSync(self.book, network, rpc, domain, clock, self._on_record, allows)
        self.subscriptions = Subscriptions(storage, signer, domain, self.sync, clock)
        self.sync.on_joined = self.subscriptions.publish_again
        self.negotiation = Negotiation(self.book, self.subscriptions, self.sync, rpc, self.me, clock)
        self.delivery = Delivery(storage, rpc, clock)
        self.agreements = Agreements(
            storage, signer, domain, rpc, self.negotiation, self.subscriptions, self.delivery, clock
        )
        self.rendezvous = Rendezvous(
            spread,
            self.subscriptions,
            self.sync,
            network,
            rpc,
            self.me,
            known=self.book.count_offers,
            matched=self.negotiation.count_matched,
        )
        self.sync.quiet = lambda: self.rendezvous.active
        self.selftest = SelfTest(self.book, self.me, network, rpc, clock)
        self._push, self._pushes = trio.open_memory_channel[MarketRecord](PUSHES)
        rpc.serve(
            PROTOCOL,
            {
                **self.sync.handlers(),
                "holds": self.selftest.on_holds,
                "offers": self.rendezvous.on_offers,
                "counter": self.negotiation.on_counter,
                "reject": self.negotiation.on_reject,
                "agree": self.agreements.on_agree,
                "approve": self.agreements.on_approve,
                "reject_agreement": self.agreements.on_reject,
                "cancel": self.agreements.on_cancel,
                "terminate": self.agreements.on_terminate,
            },
        )

    async def run(self, subnet: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self.agreements.load()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.sync.run, subnet)
            await self.subscriptions.withdraw_leftovers()
            self._network.add_peer_listener(lambda peer, up: self.delivery.peer_is_back(peer) if up else None)
            nursery.start_soon(self.subscriptions.run)
            nursery.start_soon(self.rendezvous.run)
            nursery.start_soon(self.agreements.run)
            nursery.start_soon(self.delivery.run)
            nursery.start_soon(self._answer_demands)
            nursery.start_soon(self._expire_records)
            task_status.started()

    async def subscribe(self, kind: RecordKind, properties: Properties, constraints: str, owner: str) -> SubscriptionId:
        """Publish an own offer or demand. Raises UsageError, PolicyError."""
        subscription: Subscription = await self.subscriptions.add(kind, properties, constraints, owner)
        if kind is RecordKind.DEMAND:
            self.negotiation.match_demand(subscription)
        self.rendezvous.wake()
        return subscription.id

    async def unsubscribe(self, kind: RecordKind, subscription_id: SubscriptionId) -> None:
        """Raises GoneError, NotFoundError."""
        await self.subscriptions.remove(subscription_id, kind)
        self.negotiation.forget_subscription(subscription_id)

    def _on_record(self, record: MarketRecord, applied: Applied) -> None:
        if applied is Applied.WITHDRAWN:
            self.negotiation.forget_offer(record.id)
        elif applied is Applied.NEW and record.kind is RecordKind.OFFER:
            self.negotiation.match_offer(record)
            self.scans.add(record)
            self.rendezvous.heard()
        elif applied is Applied.NEW and record.issuer != self.me:
            try:
                self._push.send_nowait(record)
            except trio.WouldBlock:
                return  # gossip and pulls still carry our offers

    async def _answer_demands(self) -> None:
        """A demand that our offer fits: hand the offer to its issuer directly, gossip may not have reached it."""
        limiter = trio.CapacityLimiter(limits.PUSHES_AT_ONCE)

        async def push(demand: MarketRecord, offers: list[MarketRecord]) -> None:
            async with limiter:
                with contextlib.suppress(GolemError):
                    await self.sync.push(demand.issuer, offers)

        async with trio.open_nursery() as nursery:
            async for demand in self._pushes:
                offers = [
                    s.record
                    for s in self.subscriptions.all(RecordKind.OFFER)
                    if s.record.subnet == demand.subnet and match(demand.terms, s.record.terms) is Ternary.TRUE
                ][:PUSH_OFFERS]
                if offers and len(nursery.child_tasks) < PUSHES:
                    nursery.start_soon(push, demand, offers)

    async def _expire_records(self) -> None:
        while True:
            await trio.sleep(limits.RECORD_REPUBLISH_S / 30)
            now = self._clock()
            for record in self.book.remove_expired(now):
                if record.kind is RecordKind.OFFER:
                    self.negotiation.forget_offer(record.id)
            self.negotiation.forget_old(now)
            self.scans.forget_idle()
