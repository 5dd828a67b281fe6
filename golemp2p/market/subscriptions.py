"""Our own offers and demands: made, signed, announced, renewed before they expire, withdrawn; each with its events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import structlog
import trio

from golemp2p import limits
from golemp2p.core.agreement import Agreement
from golemp2p.core.eip712 import Domain
from golemp2p.core.ids import ProposalId, SubscriptionId
from golemp2p.core.properties import Properties
from golemp2p.core.proposal import Proposal
from golemp2p.core.records import MarketRecord, RecordKind, make_record, new_subscription_id
from golemp2p.errors import GoneError, NotFoundError, PolicyError
from golemp2p.identity import Signer
from golemp2p.market.events import EventQueue
from golemp2p.market.sync import RecordSync
from golemp2p.storage import Storage
from golemp2p.storage import market as rows

log = structlog.get_logger("golemp2p.market")

ENDED_REMEMBERED: Final = 1_000  # withdrawn ids that still answer "gone" instead of "unknown"


@dataclass(frozen=True)
class ProposalReceived:
    proposal: Proposal
    moment: float


@dataclass(frozen=True)
class ProposalRejected:
    proposal_id: ProposalId
    reason: dict[str, object]
    moment: float


@dataclass(frozen=True)
class AgreementReceived:
    agreement: Agreement
    moment: float


MarketEvent = ProposalReceived | ProposalRejected | AgreementReceived


@dataclass
class Subscription:
    """An own live record; ``owner`` is the app-key that made it."""

    record: MarketRecord
    owner: str
    events: EventQueue[MarketEvent] = field(init=False)
    created_at: float = field(init=False)  # the record is renewed

    def __post_init__(self) -> None:
        self.created_at = self.record.issued_at
        self.events = EventQueue(f"{self.record.kind.value} {self.record.id}")

    @property
    def id(self) -> SubscriptionId:
        return self.record.id


class Subscriptions:
    def __init__(
        self, storage: Storage, signer: Signer, domain: Domain, sync: RecordSync, clock: Callable[[], float]
    ) -> None:
        self._storage = storage
        self._signer = signer
        self._domain = domain
        self._sync = sync
        self._clock = clock
        self._own: dict[SubscriptionId, Subscription] = {}
        self._ended: dict[SubscriptionId, None] = {}
        self._sequence = 0

    def all(self, kind: RecordKind, owner: str | None = None) -> list[Subscription]:
        return [s for s in self._own.values() if s.record.kind is kind and owner in (None, s.owner)]

    def get(self, subscription_id: SubscriptionId, kind: RecordKind) -> Subscription:
        """Raises NotFoundError (unknown, ended, expired)."""
        subscription = self._own.get(subscription_id)
        if subscription is None or subscription.record.kind is not kind:
            raise NotFoundError(f"{kind.value} {subscription_id} is not subscribed", hint="it may have been withdrawn")
        return subscription

    def find(self, subscription_id: SubscriptionId) -> Subscription | None:
        return self._own.get(subscription_id)

    async def add(self, kind: RecordKind, properties: Properties, constraints: str, owner: str) -> Subscription:
        """Sign, store, announce. Raises UsageError (malformed), PolicyError (too many)."""
        if len(self._own) >= limits.MAX_OWN_SUBSCRIPTIONS:
            raise PolicyError(f"this node has {len(self._own)} offers and demands", hint="withdraw some first")
        record = self._sign(
            make_record(
                kind,
                new_subscription_id(self._signer.peer_id),
                self._signer.peer_id,
                properties,
                constraints,
                now=self._clock(),
                sequence=self._next_sequence(),
            )
        )
        n_bytes = sum(len(r.content) + limits.RECORD_OVERHEAD_BYTES for r in [record, *self._records()])
        if n_bytes > limits.MAX_RECORD_BYTES_PER_ISSUER:
            raise PolicyError(f"the offers and demands of this node have {n_bytes} bytes", hint="withdraw some first")
        await self._storage.run(lambda c: rows.put_own_record(c, record))
        await self._sync.join(record.subnet)
        subscription = self._own[record.id] = Subscription(record, owner)
        self._sync.take(record)
        self._sync.announce(record)
        log.info("subscribed", kind=kind.value, id=record.id, subnet=record.subnet)
        return subscription

    def _records(self) -> list[MarketRecord]:
        return [s.record for s in self._own.values()]

    async def remove(self, subscription_id: SubscriptionId, kind: RecordKind) -> None:
        """Withdraw. Raises GoneError when it was withdrawn before, NotFoundError when it never was."""
        if subscription_id in self._ended:
            raise GoneError(f"{kind.value} {subscription_id} is withdrawn already")
        subscription = self.get(subscription_id, kind)
        await self._withdraw(subscription.record)
        self._end(subscription)

    async def withdraw_leftovers(self) -> None:
        """Records that a killed node left behind: nobody will answer them, so take them back."""
        for record in await self._storage.run(rows.own_record_rows):
            self._next_sequence(record.sequence)
            await self._withdraw(record)

    async def renew_due(self) -> None:
        """Publish again what has lived for RECORD_REPUBLISH_S."""
        now = self._clock()
        for subscription in list(self._own.values()):
            if now - subscription.record.issued_at >= limits.RECORD_REPUBLISH_S:
                await self._renew(subscription, renewal=True)

    async def publish_again(self) -> None:
        """All of it, as new versions: those who had the old ones would not pass them on."""
        for subscription in list(self._own.values()):
            await self._renew(subscription, renewal=False)

    async def _renew(self, subscription: Subscription, *, renewal: bool) -> None:
        """``renewal``: those who read it have the content."""
        now = self._clock()
        renewed = self._sign(
            subscription.record.renewed(now=now, ttl_s=limits.RECORD_TTL_S, sequence=self._next_sequence())
        )
        await self._storage.run(partial(rows.put_own_record, record=renewed))
        if subscription.id in self._own:
            subscription.record = renewed
            self._sync.take(renewed)
            self._sync.announce(renewed, renewal=renewal)

    async def withdraw_all(self) -> None:
        """On a clean stop: nobody should negotiate with a node that is gone."""
        for subscription in list(self._own.values()):
            await self._withdraw(subscription.record)
            self._end(subscription)

    def _end(self, subscription: Subscription) -> None:
        self._own.pop(subscription.id, None)
        self._ended[subscription.id] = None
        while len(self._ended) > ENDED_REMEMBERED:
            del self._ended[next(iter(self._ended))]
        subscription.events.close()

    async def _withdraw(self, record: MarketRecord) -> None:
        now = self._clock()
        await self._storage.run(lambda c: rows.remove_own_record(c, record.id))
        if record.expires_at > now + 1:
            withdrawal = self._sign(record.withdrawn(now=now, sequence=self._next_sequence()))
            await self._sync.join(record.subnet)
            self._sync.take(withdrawal)
            self._sync.announce(withdrawal)

    def _sign(self, record: MarketRecord) -> MarketRecord:
        return replace(record, signature=self._signer.sign(record.digest(self._domain)))

    def _next_sequence(self, at_least: int = 0) -> int:
        """Milliseconds keep it growing over restarts without storing a counter."""
        self._sequence = max(self._sequence + 1, round(self._clock() * 1000), at_least + 1)
        return self._sequence

    async def run(self) -> None:
        while True:
            await trio.sleep(limits.RECORD_REPUBLISH_S / 10)
            await self.renew_due()
