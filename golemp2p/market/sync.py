"""Market records between nodes: gossip what is new, pull on connect, compare now and then.

Gossip alone loses records (late joiners, drops under load), so every new connection pulls a neighbour's book and a
random neighbour is compared with every PULL_INTERVAL_S: equal digests cost one small call.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgpack
import structlog
import trio
from pydantic import ValidationError

from golemp2p import limits
from golemp2p.core.eip712 import Domain
from golemp2p.core.ids import PeerId
from golemp2p.core.records import ExpiredRecordError, MarketRecord, verify_record
from golemp2p.errors import GolemError, PolicyError, RemoteProtocolError
from golemp2p.market.book import Applied, OrderBook
from golemp2p.net.port import GossipMessage, Network, Verdict
from golemp2p.net.ratelimit import RateLimit
from golemp2p.net.rpc import Method, Rpc
from golemp2p.wire.p2p.market import PROTOCOL, PullBody, RecordBody, RecordsBody

log = structlog.get_logger("golemp2p.market.sync")

GOSSIP_WINDOW_S: Final = 0.03  # what is announced within it goes into one message
GOSSIP_RECORDS: Final = 32  # a message with more is refused: checking one record takes 0.2 ms
GOSSIP_BYTES: Final = 192 * 1024  # below the pubsub frame limit of net/libp2p
PULL_INTERVAL_S: Final = 20.0
PULL_PAGES: Final = limits.MAX_RECORDS // limits.PULL_PAGE_RECORDS


_UNCHANGED: Final = frozenset({Applied.NOTHING, Applied.REFUSED})  # not told to anybody, nor passed on


class RecordListener(Protocol):
    def __call__(self, record: MarketRecord, applied: Applied) -> None:
        """A record changed the book."""


def topic_of(network: str, subnet: str) -> str:
    return f"golemp2p/1/{network}/{subnet}"


class RecordSync:
    def __init__(
        self,
        book: OrderBook,
        network: Network,
        rpc: Rpc,
        domain: Domain,
        clock: Callable[[], float],
        listener: RecordListener,
    ) -> None:
        self._book = book
        self._network = network
        self._rpc = rpc
        self._domain = domain
        self._clock = clock
        self._listener = listener
        self._topics: set[str] = set()
        self._pushes = RateLimit(limits.PUSHED_RECORDS_PER_S, limits.PUSHED_RECORDS_BURST)
        self._announce, self._announced = trio.open_memory_channel[MarketRecord](limits.MAX_RECORDS)
        self._connected, self._connections = trio.open_memory_channel[PeerId](1_000)

    def handlers(self) -> dict[str, Method]:
        """Of the requests that nodes answer about records."""
        return {"pull": self.on_pull, "push": self.on_push}

    async def join(self, subnet: str) -> None:
        """Take part in the gossip of ``subnet``; idempotent."""
        topic = topic_of(self._domain.network, subnet)
        if topic not in self._topics:
            self._topics.add(topic)
            await self._network.subscribe(topic, self._validate, self._on_gossip)

    def announce(self, record: MarketRecord) -> None:
        """Gossip ``record`` soon. Never blocks; what does not fit is found by pulls."""
        try:
            self._announce.send_nowait(record)
        except trio.WouldBlock:
            log.warning("announcement_dropped", record=record.id)

    def take(self, record: MarketRecord) -> Applied:
        """Verify a record, put it into the book, tell the listener. Raises RemoteProtocolError."""
        if not self._book.is_news(record):
            return Applied.NOTHING
        verify_record(record, self._domain, now=self._clock())
        applied = self._book.apply(record)
        if applied not in _UNCHANGED:
            self._listener(record, applied)
        return applied

    async def run(self, subnet: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._network.add_peer_listener(self._on_peer)
        await self.join(subnet)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._gossip_announcements)
            nursery.start_soon(self._pull_new_neighbours)
            nursery.start_soon(self._compare_now_and_then)
            for peer in self._network.peers():
                if peer.connected:
                    self._on_peer(peer.peer, True)
            task_status.started()

    # --- gossip ---

    def _validate(self, message: GossipMessage) -> Verdict:
        """Pass on what is new here; blame who sends what is wrong. Runs before forwarding, so it applies at once."""
        applied: list[Applied] = []
        try:
            for record in self._decode(message):
                try:
                    applied.append(self.take(record))
                except ExpiredRecordError:
                    applied.append(Applied.NOTHING)
        except RemoteProtocolError as exc:
            log.info("gossip_refused", origin=message.origin, forwarder=message.forwarder, reason=str(exc))
            return Verdict.REJECT
        return Verdict.ACCEPT if any(a not in _UNCHANGED for a in applied) else Verdict.IGNORE

    def _decode(self, message: GossipMessage) -> list[MarketRecord]:
        """Raises RemoteProtocolError: garbage, too many, or records of another topic."""
        records = _decode(message.data)
        for record in records:
            if topic_of(self._domain.network, record.subnet) != message.topic:
                raise RemoteProtocolError(f"record {record.id} of subnet {record.subnet!r} is on {message.topic!r}")
        return records

    async def _on_gossip(self, message: GossipMessage) -> None:
        """Nothing more to do: the validator applied the records."""

    async def _gossip_announcements(self) -> None:
        async for first in self._announced:
            await trio.sleep(GOSSIP_WINDOW_S)
            pending = [first]
            while True:
                try:
                    pending.append(self._announced.receive_nowait())
                except trio.WouldBlock:
                    break
            for topic, chunk in _chunks(pending, self._domain.network):
                try:
                    await self._network.publish(topic, _encode(chunk))
                except GolemError as exc:
                    log.warning("gossip_failed", topic=topic, error=exc.message)

    # --- pull ---

    def _on_peer(self, peer: PeerId, connected: bool) -> None:
        if connected:
            try:
                self._connected.send_nowait(peer)
            except trio.WouldBlock:
                log.debug("pull_skipped", peer=peer)

    async def _pull_new_neighbours(self) -> None:
        async def pull(peer: PeerId) -> None:
            async with limiter:
                waiting.discard(peer)
                await self._try_pull(peer)

        waiting: set[PeerId] = set()

        limiter = trio.CapacityLimiter(limits.PULLS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            async for peer in self._connections:
                if peer not in waiting:
                    waiting.add(peer)
                    nursery.start_soon(pull, peer)

    async def _compare_now_and_then(self) -> None:
        while True:
            await trio.sleep(PULL_INTERVAL_S * random.uniform(0.7, 1.3))  # noqa: S311 - only spreads load
            peers = [p.peer for p in self._network.peers() if p.connected]
            if peers:
                await self._try_pull(random.choice(peers))  # noqa: S311

    async def _try_pull(self, peer: PeerId) -> None:
        try:
            with trio.fail_after(limits.PULL_TIMEOUT_S):
                count = await self.pull(peer)
        except trio.TooSlowError:
            log.info("pull_too_slow", peer=peer)
        except GolemError as exc:
            log.debug("pull_failed", peer=peer, error=exc.message)
        else:
            if count:
                log.info("pulled", peer=peer, records=count)

    async def pull(self, peer: PeerId) -> int:
        """Take what ``peer`` has and we do not; the number of changes. Raises GolemError."""
        after, changes, refused = "", 0, 0
        digest = self._book.digest(self._clock())
        for _ in range(PULL_PAGES):
            body = PullBody(after=after, digest=digest).to_wire()
            answer = await self._rpc.call(peer, PROTOCOL, "pull", body, timeout_s=limits.MARKET_RPC_TIMEOUT_S)
            page = _records_body(answer)
            for entry in page.records:
                try:
                    changes += self.take(entry.record()) not in _UNCHANGED
                except ExpiredRecordError:
                    continue
                except RemoteProtocolError as exc:  # the rest may be fine
                    log.info("record_refused", peer=peer, record=entry.id, reason=str(exc))
                    refused += 1
                    if refused > limits.PULL_MAX_REFUSED:
                        raise RemoteProtocolError(f"{peer} sends records that are wrong: {exc.message}") from exc
            if not page.more or not page.records:
                break
            if page.records[-1].id <= after:
                raise RemoteProtocolError(f"{peer} sends its records in no order")
            after = page.records[-1].id
        return changes

    async def push(self, peer: PeerId, records: list[MarketRecord]) -> None:
        """Hand records to one peer directly. Raises GolemError."""
        body = RecordsBody(records=[RecordBody.of(r) for r in records]).to_wire()
        await self._rpc.call(peer, PROTOCOL, "push", body, timeout_s=limits.MARKET_RPC_TIMEOUT_S)

    async def on_pull(self, _peer: PeerId, raw: dict[str, Any]) -> object:
        request = PullBody.model_validate(raw)
        now = self._clock()
        if request.digest and request.digest == self._book.digest(now):
            return RecordsBody(records=[]).to_wire()
        rest = self._book.all_records(now, after=request.after)
        page: list[RecordBody] = []
        size = 0
        for record in rest[: limits.PULL_PAGE_RECORDS]:
            size += len(record.content) + 512
            if page and size > GOSSIP_BYTES:
                break
            page.append(RecordBody.of(record))
        return RecordsBody(records=page, more=len(page) < len(rest)).to_wire()

    async def on_push(self, peer: PeerId, raw: dict[str, Any]) -> object:
        """Raises PolicyError when ``peer`` pushes too much that is new."""
        for entry in RecordsBody.model_validate(raw).records:
            record = entry.record()
            if self._book.is_news(record) and not self._pushes.allow(peer, self._clock()):
                raise PolicyError(
                    "too many records are pushed here", hint=f"at most {limits.PUSHED_RECORDS_BURST} in a minute"
                )
            try:
                self.take(record)
            except ExpiredRecordError:
                continue
        return {}


def _chunks(records: list[MarketRecord], network: str) -> list[tuple[str, list[MarketRecord]]]:
    """Messages of bounded count and size, the newest version of each record, by topic."""
    newest = {record.id: record for record in records}
    chunks: list[tuple[str, list[MarketRecord]]] = []
    by_topic: dict[str, list[MarketRecord]] = {}
    for record in newest.values():
        by_topic.setdefault(topic_of(network, record.subnet), []).append(record)
    for topic, members in by_topic.items():
        chunk: list[MarketRecord] = []
        size = 0
        for record in members:
            if chunk and (len(chunk) >= GOSSIP_RECORDS or size + len(record.content) > GOSSIP_BYTES):
                chunks.append((topic, chunk))
                chunk, size = [], 0
            chunk.append(record)
            size += len(record.content) + 512
        chunks.append((topic, chunk))
    return chunks


def _encode(records: list[MarketRecord]) -> bytes:
    packed: bytes = msgpack.packb(RecordsBody(records=[RecordBody.of(r) for r in records]).to_wire())
    return packed


def _decode(data: bytes) -> list[MarketRecord]:
    try:
        raw = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as exc:  # bad UTF-8, too deep, cut short
        raise RemoteProtocolError(f"a gossip message is no msgpack: {exc}") from exc
    records = [entry.record() for entry in _records_body(raw).records]
    if len(records) > GOSSIP_RECORDS:
        raise RemoteProtocolError(f"a gossip message has {len(records)} records; at most {GOSSIP_RECORDS}")
    return records


def _records_body(raw: object) -> RecordsBody:
    try:
        return RecordsBody.model_validate(raw)
    except ValidationError as exc:
        raise RemoteProtocolError(f"malformed records: {exc.errors()[0]['loc']} {exc.errors()[0]['msg']}") from exc
