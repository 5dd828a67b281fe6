"""Catching up with a neighbour: everything for who knows nothing yet, else only what differs.

Gossip alone loses records (late joiners, drops under load), so every new connection compares, and a random neighbour
is compared with every COMPARE_INTERVAL_S: equal books cost one small call, and different ones what differs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import structlog
from pydantic import ValidationError

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.core.records import MarketRecord, UntimelyRecordError
from golemp2p.errors import RemoteProtocolError
from golemp2p.market.book import BUCKETS, KEY_BYTES, Applied, OrderBook, record_key
from golemp2p.net.rpc import Method, Rpc
from golemp2p.wire.p2p.market import PROTOCOL, CompareBody, EntriesBody, FetchBody, PullBody, RecordBody, RecordsBody

log = structlog.get_logger("golemp2p.market.sync")

PAGE_BYTES: Final = 192 * 1024
PULL_PAGES: Final = limits.MAX_RECORDS // limits.PULL_PAGE_RECORDS
ENTRY_BYTES: Final = KEY_BYTES + 8
UNCHANGED: Final = frozenset({Applied.NOTHING, Applied.REFUSED})  # not told to anybody, nor passed on


class Comparing:
    """``take`` verifies a record and puts it into the book (RemoteProtocolError: it is wrong)."""

    def __init__(
        self, book: OrderBook, rpc: Rpc, clock: Callable[[], float], take: Callable[[MarketRecord], Applied]
    ) -> None:
        self._book, self._rpc, self._clock, self._take = book, rpc, clock, take
        # What the book had no room for, and until when it is not fetched again: two nodes that keep different records
        # of one issuer differ for ever.
        self._unwanted: OrderedDict[tuple[bytes, int], float] = OrderedDict()

    def handlers(self) -> dict[str, Method]:
        return {"pull": self.on_pull, "compare": self.on_compare, "fetch": self.on_fetch}

    async def catch_up(self, peer: PeerId) -> int:
        """Take what ``peer`` has and we do not; the number of changes. Raises GolemError."""
        return await (self._compare(peer) if len(self._book) else self._pull_all(peer))

    async def _pull_all(self, peer: PeerId) -> int:
        after, changes = "", 0
        refused = _Refused(peer)
        for _ in range(PULL_PAGES):
            page = await self._ask(peer, "pull", PullBody(after=after).to_wire())
            changes += self._take_all(page.records, refused)
            if not page.more or not page.records:
                break
            if page.records[-1].id <= after:
                raise RemoteProtocolError(f"{peer} sends its records in no order")
            after = page.records[-1].id
        return changes

    async def _compare(self, peer: PeerId) -> int:
        body = CompareBody(buckets=self._book.buckets()).to_wire()
        answer = await self._rpc.call(peer, PROTOCOL, "compare", body, timeout_s=limits.MARKET_RPC_TIMEOUT_S)
        now = self._clock()
        wanted = [
            key
            for key, sequence in _entries(peer, answer)
            if self._book.lacks(key, sequence) and self._unwanted.get((key, sequence), now) <= now
        ]
        changes, refused = 0, _Refused(peer)
        while wanted:
            asked = wanted[: limits.PULL_PAGE_RECORDS]
            page = await self._ask(peer, "fetch", FetchBody(keys=b"".join(asked)).to_wire())
            changes += self._take_all(page.records, refused)
            if page.more and not page.records:
                raise RemoteProtocolError(f"{peer} promises records and sends none")
            # What did not fit is asked for again; what the peer has forgotten meanwhile is not.
            wanted = wanted[len(page.records) if page.more else len(asked) :]
        return changes

    async def _ask(self, peer: PeerId, method: str, body: dict[str, Any]) -> RecordsBody:
        return records_body(await self._rpc.call(peer, PROTOCOL, method, body, timeout_s=limits.MARKET_RPC_TIMEOUT_S))

    def _take_all(self, entries: list[RecordBody], refused: _Refused) -> int:
        changes = 0
        for entry in entries:
            try:
                record = entry.record()
                applied = self._take(record)
                changes += applied not in UNCHANGED
                if applied is Applied.REFUSED:
                    self._unwanted[record_key(record.id), record.sequence] = self._clock() + limits.REFUSED_AGAIN_S
                    if len(self._unwanted) > limits.MAX_RECORDS:
                        self._unwanted.popitem(last=False)
            except UntimelyRecordError:
                continue
            except RemoteProtocolError as exc:  # the rest may be fine
                refused.count(entry, exc)
        return changes

    # --- answers ---

    async def on_pull(self, _peer: PeerId, raw: dict[str, Any]) -> object:
        request = PullBody.model_validate(raw)
        return _page(self._book.all_records(self._clock(), after=request.after))

    async def on_compare(self, _peer: PeerId, raw: dict[str, Any]) -> object:
        theirs, ours = CompareBody.model_validate(raw).buckets, self._book.buckets()
        differ = {i for i in range(BUCKETS) if theirs[8 * i : 8 * i + 8] != ours[8 * i : 8 * i + 8]}
        found = self._book.entries(differ, limits.COMPARE_ENTRIES) if differ else []
        return EntriesBody(entries=b"".join(key + sequence.to_bytes(8, "big") for key, sequence in found)).to_wire()

    async def on_fetch(self, _peer: PeerId, raw: dict[str, Any]) -> object:
        keys, now = FetchBody.model_validate(raw).keys, self._clock()
        found = [self._book.by_key(keys[i : i + KEY_BYTES]) for i in range(0, len(keys), KEY_BYTES)]
        return _page([record for record in found if record is not None and record.expires_at > now])


class _Refused:
    """Wrong records of one peer in one exchange; after some we stop listening to it."""

    def __init__(self, peer: PeerId) -> None:
        self._peer, self._n = peer, 0

    def count(self, entry: RecordBody, reason: RemoteProtocolError) -> None:
        log.info("record_refused", peer=self._peer, record=entry.id, reason=str(reason))
        self._n += 1
        if self._n > limits.PULL_MAX_REFUSED:
            raise RemoteProtocolError(f"{self._peer} sends records that are wrong: {reason.message}") from reason


def _page(records: list[MarketRecord]) -> dict[str, Any]:
    """As many of the first records as fit one answer."""
    page: list[RecordBody] = []
    size = 0
    for record in records[: limits.PULL_PAGE_RECORDS]:
        size += len(record.content) + 512
        if page and size > PAGE_BYTES:
            break
        page.append(RecordBody.of(record))
    return RecordsBody(records=page, more=len(page) < len(records)).to_wire()


def _entries(peer: PeerId, raw: object) -> list[tuple[bytes, int]]:
    try:
        data = EntriesBody.model_validate(raw).entries
    except ValidationError as exc:
        raise RemoteProtocolError(f"{peer} compares wrongly: {exc.errors()[0]['msg']}") from exc
    if len(data) % ENTRY_BYTES:
        raise RemoteProtocolError(f"{peer} compares wrongly: {len(data)} bytes are no entries")
    return [
        (data[i : i + KEY_BYTES], int.from_bytes(data[i + KEY_BYTES : i + ENTRY_BYTES], "big"))
        for i in range(0, len(data), ENTRY_BYTES)
    ]


def records_body(raw: object) -> RecordsBody:
    """Raises RemoteProtocolError."""
    try:
        return RecordsBody.model_validate(raw)
    except ValidationError as exc:
        raise RemoteProtocolError(f"malformed records: {exc.errors()[0]['loc']} {exc.errors()[0]['msg']}") from exc
