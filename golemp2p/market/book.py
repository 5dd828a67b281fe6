"""The order book: every live market record that this node knows, its own and others'. In memory, bounded.

The bounds, in records and in bytes, are per issuer and for all. Withdrawals have a bound of their own: an agent that
makes and withdraws one demand per job must not lock itself out for an hour. In a full book the issuer with the
largest share gives way to those with smaller ones, its soonest expiring record first. Our own records are always
taken and never give way.
"""

from __future__ import annotations

import hashlib
import heapq
import sys
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Final

from golemp2p import limits
from golemp2p.core.ids import PeerId, SubscriptionId
from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.market.matching import OfferIndex

BUCKETS: Final = 256  # by the first byte of a record's key
KEY_BYTES: Final = 16


class Applied(Enum):
    """What a record changed."""

    NEW = "new"
    RENEWED = "renewed"
    WITHDRAWN = "withdrawn"
    NOTHING = "nothing"  # known already, or older than what we have
    REFUSED = "refused"  # a limit


@dataclass
class _Issuer:
    n_bytes: int = 0
    share: int = 0  # bytes, where a small record counts RECORD_MIN_SHARE_BYTES
    live: set[SubscriptionId] = field(default_factory=set)
    withdrawn: set[SubscriptionId] = field(default_factory=set)


@dataclass(frozen=True)
class _Snapshot:
    """The book in order of ids; good until it changes or a record in it expires. Sorting 50,000 takes 40 ms."""

    records: list[MarketRecord]
    ids: list[SubscriptionId]
    good_until: float


class OrderBook:
    def __init__(self, me: PeerId | None = None) -> None:
        self._me = me
        self._records: dict[SubscriptionId, MarketRecord] = {}
        self._index: OfferIndex | None = None
        self._issuers: dict[PeerId, _Issuer] = {}
        self._snapshot: _Snapshot | None = None
        self._n_offers = 0
        self._heard: dict[SubscriptionId, float] = {}
        self._gone: dict[PeerId, tuple[MarketRecord, float]] = {}  # withdrawn offers, the newest of each issuer
        self._keys: dict[bytes, SubscriptionId] = {}  # what neighbours compare by
        self._buckets = array("Q", bytes(8 * BUCKETS))
        self._n_bytes = 0
        self._shares: list[tuple[int, PeerId]] = []  # heap of (-share, issuer); true entries and outdated ones

    @property
    def n_bytes(self) -> int:
        """What the records hold: an estimate, without what Python adds."""
        return self._n_bytes

    def __len__(self) -> int:
        return len(self._records)

    def heard_at(self, record_id: SubscriptionId) -> float:
        """When the first version of the record came, seconds since the epoch; 0 when it is not here."""
        return self._heard.get(record_id, 0.0)

    def apply(self, record: MarketRecord, now: float = 0.0) -> Applied:
        """Take a verified record. A record may only be changed by its first issuer."""
        known = self._records.get(record.id)
        if known is not None:
            if known.issuer != record.issuer:
                return Applied.REFUSED
            if known.sequence >= record.sequence or known.kind is RecordKind.WITHDRAWAL:
                return Applied.NOTHING
        if record.issuer != self._me and not (self._fits_issuer(record, known) and self._make_room(record, known)):
            return Applied.REFUSED
        self._put(record)
        if record.kind is RecordKind.WITHDRAWAL and known is not None and known.kind is RecordKind.OFFER:
            self._gone.pop(record.issuer, None)
            self._gone[record.issuer] = known, now
            if len(self._gone) > limits.MAX_GONE_OFFERS:
                del self._gone[next(iter(self._gone))]
        self._heard.setdefault(record.id, now)
        if record.kind is RecordKind.WITHDRAWAL:
            return Applied.WITHDRAWN
        return Applied.NEW if known is None else Applied.RENEWED

    def _fits_issuer(self, record: MarketRecord, known: MarketRecord | None) -> bool:
        issuer = self._issuers.get(record.issuer)
        if issuer is None or record.kind is RecordKind.WITHDRAWAL:
            return True
        if known is None and len(issuer.live) >= limits.MAX_RECORDS_PER_ISSUER:
            return False
        grows = _size(record) - _size(known)
        return grows <= 0 or issuer.n_bytes + grows <= limits.MAX_RECORD_BYTES_PER_ISSUER

    def _make_room(self, record: MarketRecord, known: MarketRecord | None) -> bool:
        """Whether there is room, after larger issuers gave some up."""
        grows = _size(record) - _size(known)
        more = 0 if known is not None else 1
        issuer = self._issuers.get(record.issuer)
        share = (issuer.share if issuer is not None else 0) + _share(record) - _share(known)
        while len(self._records) + more > limits.MAX_RECORDS or (
            grows > 0 and self._n_bytes + grows > limits.MAX_BOOK_BYTES
        ):
            largest = self._largest()
            if largest is None or self._issuers[largest].share <= share:
                return False
            theirs = self._issuers[largest]
            self.forget(min(theirs.live | theirs.withdrawn, key=lambda i: self._records[i].expires_at))
        return True

    def _largest(self) -> PeerId | None:
        """The issuer with the largest share, but for us."""
        while self._shares:
            share, peer = self._shares[0]
            issuer = self._issuers.get(peer)
            if issuer is not None and issuer.share == -share and peer != self._me:
                return peer
            heapq.heappop(self._shares)
        return None

    def knows(self, issuer: PeerId) -> bool:
        """Whether a record of ``issuer`` is here."""
        return issuer in self._issuers

    def count_offers(self) -> int:
        return self._n_offers

    def _count(self, issuer_id: PeerId, issuer: _Issuer, record: MarketRecord, sign: int) -> None:
        self._n_offers += sign * (record.kind is RecordKind.OFFER)
        self._n_bytes += sign * _size(record)
        issuer.n_bytes += sign * _size(record)
        issuer.share += sign * _share(record)
        heapq.heappush(self._shares, (-issuer.share, issuer_id))
        if len(self._shares) > 2 * len(self._issuers) + 1_000:
            self._shares = [(-i.share, peer) for peer, i in self._issuers.items()]
            heapq.heapify(self._shares)

    def _put(self, record: MarketRecord) -> None:
        self._snapshot = None
        issuer = self._issuers.setdefault(record.issuer, _Issuer())
        known = self._records.get(record.id)
        if known is not None:
            self._count(record.issuer, issuer, known, -1)
            self._mark(known)
        self._records[record.id] = record
        self._keys[self._mark(record)] = record.id
        if self._index is not None and record.kind is RecordKind.OFFER:
            self._index.on_added(record)
        elif self._index is not None and known is not None:
            self._index.on_removed(known)
        self._count(record.issuer, issuer, record, 1)
        if record.kind is not RecordKind.WITHDRAWAL:
            issuer.live.add(record.id)
            return
        issuer.live.discard(record.id)
        issuer.withdrawn.add(record.id)
        if len(issuer.withdrawn) > limits.MAX_WITHDRAWALS_PER_ISSUER:
            self.forget(min(issuer.withdrawn, key=lambda i: self._records[i].expires_at))

    def _mark(self, record: MarketRecord) -> bytes:
        """Into its bucket, or out again; its key."""
        key = record_key(record.id)
        state = hashlib.blake2b(key + record.sequence.to_bytes(8, "big"), digest_size=8).digest()
        self._buckets[key[0]] ^= int.from_bytes(state, "little")
        return key

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

    def gone(self, now: float, *, subnet: str) -> Iterator[tuple[MarketRecord, float]]:
        """Of each issuer without a live offer, the one that it withdrew last, and when; forgotten after a while."""
        for peer, (offer, at_s) in list(self._gone.items()):
            issuer = self._issuers.get(peer)
            has_others = issuer is not None and any(self._records[i].kind is RecordKind.OFFER for i in issuer.live)
            if not has_others and now - at_s < limits.OUTCOME_KEEP_S and offer.subnet == subnet:
                yield offer, at_s

    def live(self, kind: RecordKind, now: float, *, subnet: str | None = None) -> Iterator[MarketRecord]:
        for record in list(self._records.values()):
            if record.kind is kind and record.expires_at > now and subnet in (None, record.subnet):
                yield record

    @property
    def offers(self) -> OfferIndex:
        """The offers of all subnets, some just expired, to be matched. Kept from when it is first asked for: a node
        without demands needs none."""
        if self._index is None:
            self._index = OfferIndex()
            for record in self._records.values():
                if record.kind is RecordKind.OFFER:
                    self._index.on_added(record)
        return self._index

    def all_records(self, now: float, *, after: str = "") -> list[MarketRecord]:
        """Everything worth telling a neighbour, withdrawals included, in the order of ids, from ``after`` on."""
        snapshot = self._sorted(now)
        return snapshot.records[bisect_right(snapshot.ids, after) :]

    def digest(self) -> bytes:
        """Equal on two nodes that know the same; 16 bytes."""
        return hashlib.blake2b(self.buckets(), digest_size=16).digest()

    def buckets(self) -> bytes:
        """The state of each of the BUCKETS, 8 bytes: the XOR over its records of blake2b(key, sequence)."""
        if sys.byteorder == "big":
            swapped = array("Q", self._buckets)
            swapped.byteswap()
            return swapped.tobytes()
        return self._buckets.tobytes()

    def entries(self, buckets: Collection[int], most: int) -> list[tuple[bytes, int]]:
        """Keys and sequences of the records in ``buckets``, at most so many."""
        found = ((key, self._records[name].sequence) for key, name in self._keys.items() if key[0] in buckets)
        return list(islice(found, most))

    def lacks(self, key: bytes, sequence: int) -> bool:
        """Whether a record with that key and sequence would be news here."""
        record = self.by_key(key)
        return record is None or (record.sequence < sequence and record.kind is not RecordKind.WITHDRAWAL)

    def by_key(self, key: bytes) -> MarketRecord | None:
        name = self._keys.get(key)
        return None if name is None else self._records[name]

    def any(self, record_id: SubscriptionId) -> MarketRecord | None:
        """The record of this id, whatever its kind and end."""
        return self._records.get(record_id)

    def _sorted(self, now: float) -> _Snapshot:
        if self._snapshot is None or self._snapshot.good_until <= now:
            records = sorted((r for r in self._records.values() if r.expires_at > now), key=lambda r: r.id)
            good_until = min((r.expires_at for r in records), default=float("inf"))
            self._snapshot = _Snapshot(records, [r.id for r in records], good_until)
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
        if self._index is not None:
            self._index.on_removed(record)
        del self._keys[self._mark(record)]
        del self._heard[record_id]
        issuer = self._issuers[record.issuer]
        issuer.live.discard(record_id)
        issuer.withdrawn.discard(record_id)
        self._count(record.issuer, issuer, record, -1)
        if not issuer.live and not issuer.withdrawn:
            del self._issuers[record.issuer]


def record_key(record_id: SubscriptionId) -> bytes:
    """16 bytes by which neighbours name a record to each other; nobody finds two ids with one key."""
    return hashlib.blake2b(record_id.encode(), digest_size=KEY_BYTES).digest()


def _size(record: MarketRecord | None) -> int:
    return 0 if record is None else len(record.content) + limits.RECORD_OVERHEAD_BYTES


def _share(record: MarketRecord | None) -> int:
    return 0 if record is None else max(_size(record), limits.RECORD_MIN_SHARE_BYTES)
