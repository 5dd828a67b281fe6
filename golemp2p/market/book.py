"""The order book: every live market record that this node knows, its own and others'. In memory, bounded."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from enum import Enum

from golemp2p import limits
from golemp2p.core.ids import PeerId, SubscriptionId
from golemp2p.core.records import MarketRecord, RecordKind


class Applied(Enum):
    """What a record changed."""

    NEW = "new"
    RENEWED = "renewed"
    WITHDRAWN = "withdrawn"
    NOTHING = "nothing"  # known already, or older than what we have
    REFUSED = "refused"  # a limit


class OrderBook:
    def __init__(self) -> None:
        self._records: dict[SubscriptionId, MarketRecord] = {}
        self._by_issuer: dict[PeerId, set[SubscriptionId]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._records)

    def apply(self, record: MarketRecord) -> Applied:
        """Take a verified record. A record may only be changed by its first issuer."""
        known = self._records.get(record.id)
        if known is not None:
            if known.issuer != record.issuer:
                return Applied.REFUSED
            if known.sequence >= record.sequence or known.kind is RecordKind.WITHDRAWAL:
                return Applied.NOTHING
            self._records[record.id] = record
            return Applied.WITHDRAWN if record.kind is RecordKind.WITHDRAWAL else Applied.RENEWED
        if (
            len(self._records) >= limits.MAX_RECORDS
            or len(self._by_issuer[record.issuer]) >= limits.MAX_RECORDS_PER_ISSUER
        ):
            return Applied.REFUSED
        self._records[record.id] = record
        self._by_issuer[record.issuer].add(record.id)
        return Applied.WITHDRAWN if record.kind is RecordKind.WITHDRAWAL else Applied.NEW

    def is_news(self, record: MarketRecord) -> bool:
        """Whether ``record`` would change anything; cheap, before the signature is looked at."""
        known = self._records.get(record.id)
        return known is None or (
            known.issuer == record.issuer
            and known.sequence < record.sequence
            and known.kind is not RecordKind.WITHDRAWAL
        )

    def get(self, record_id: SubscriptionId, now: float) -> MarketRecord | None:
        """The live offer or demand of this id."""
        record = self._records.get(record_id)
        if record is None or record.kind is RecordKind.WITHDRAWAL or record.expires_at <= now:
            return None
        return record

    def live(self, kind: RecordKind, now: float, *, subnet: str | None = None) -> Iterator[MarketRecord]:
        for record in list(self._records.values()):
            if record.kind is kind and record.expires_at > now and subnet in (None, record.subnet):
                yield record

    def all_records(self, now: float) -> list[MarketRecord]:
        """Everything worth telling a neighbour, withdrawals included, in a stable order."""
        return sorted((r for r in self._records.values() if r.expires_at > now), key=lambda r: r.id)

    def digest(self, now: float) -> bytes:
        """Equal on two nodes when they know the same; 16 bytes."""
        state = hashlib.blake2b(digest_size=16)
        for record in self.all_records(now):
            state.update(f"{record.id}:{record.sequence}\n".encode())
        return state.digest()

    def remove_expired(self, now: float) -> list[MarketRecord]:
        gone = [r for r in self._records.values() if r.expires_at <= now]
        for record in gone:
            self.forget(record.id)
        return gone

    def forget(self, record_id: SubscriptionId) -> None:
        record = self._records.pop(record_id, None)
        if record is not None:
            ids = self._by_issuer[record.issuer]
            ids.discard(record_id)
            if not ids:
                del self._by_issuer[record.issuer]
