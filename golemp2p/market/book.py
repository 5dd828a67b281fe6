"""The order book: every live market record that this node knows, its own and others'. In memory, bounded.

The bounds are per issuer and for all. Withdrawals have a bound of their own: an agent that makes and withdraws one
demand per job must not lock itself out for an hour. Our own records are always taken.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
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


@dataclass
class _Issuer:
    live: set[SubscriptionId] = field(default_factory=set)
    withdrawn: set[SubscriptionId] = field(default_factory=set)


@dataclass(frozen=True)
class _Snapshot:
    """The book in order of ids; good until it changes or a record in it expires. Sorting 50,000 takes 40 ms."""

    records: list[MarketRecord]
    ids: list[SubscriptionId]
    digest: bytes
    good_until: float


class OrderBook:
    def __init__(self, me: PeerId | None = None) -> None:
        self._me = me
        self._records: dict[SubscriptionId, MarketRecord] = {}
        self._issuers: dict[PeerId, _Issuer] = {}
        self._snapshot: _Snapshot | None = None

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
            self._put(record)
            return Applied.WITHDRAWN if record.kind is RecordKind.WITHDRAWAL else Applied.RENEWED
        if record.issuer != self._me and self._is_full(record):
            return Applied.REFUSED
        self._put(record)
        return Applied.WITHDRAWN if record.kind is RecordKind.WITHDRAWAL else Applied.NEW

    def _is_full(self, record: MarketRecord) -> bool:
        if len(self._records) >= limits.MAX_RECORDS:
            return True
        issuer = self._issuers.get(record.issuer)
        return (
            record.kind is not RecordKind.WITHDRAWAL
            and issuer is not None
            and len(issuer.live) >= limits.MAX_RECORDS_PER_ISSUER
        )

    def _put(self, record: MarketRecord) -> None:
        self._records[record.id] = record
        self._snapshot = None
        issuer = self._issuers.setdefault(record.issuer, _Issuer())
        if record.kind is not RecordKind.WITHDRAWAL:
            issuer.live.add(record.id)
            return
        issuer.live.discard(record.id)
        issuer.withdrawn.add(record.id)
        if len(issuer.withdrawn) > limits.MAX_WITHDRAWALS_PER_ISSUER:
            self.forget(min(issuer.withdrawn, key=lambda i: self._records[i].expires_at))

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

    def all_records(self, now: float, *, after: str = "") -> list[MarketRecord]:
        """Everything worth telling a neighbour, withdrawals included, in the order of ids, from ``after`` on."""
        snapshot = self._sorted(now)
        return snapshot.records[bisect_right(snapshot.ids, after) :]

    def digest(self, now: float) -> bytes:
        """Equal on two nodes when they know the same; 16 bytes."""
        return self._sorted(now).digest

    def _sorted(self, now: float) -> _Snapshot:
        if self._snapshot is None or self._snapshot.good_until <= now:
            records = sorted((r for r in self._records.values() if r.expires_at > now), key=lambda r: r.id)
            state = hashlib.blake2b(digest_size=16)
            for record in records:
                state.update(f"{record.id}:{record.sequence}\n".encode())
            good_until = min((r.expires_at for r in records), default=float("inf"))
            self._snapshot = _Snapshot(records, [r.id for r in records], state.digest(), good_until)
        return self._snapshot

    def remove_expired(self, now: float) -> list[MarketRecord]:
        gone = [r for r in self._records.values() if r.expires_at <= now]
        for record in gone:
            self.forget(record.id)
        return gone

    def forget(self, record_id: SubscriptionId) -> None:
        record = self._records.pop(record_id, None)
        if record is None:
            return
        self._snapshot = None
        issuer = self._issuers[record.issuer]
        issuer.live.discard(record_id)
        issuer.withdrawn.discard(record_id)
        if not issuer.live and not issuer.withdrawn:
            del self._issuers[record.issuer]
