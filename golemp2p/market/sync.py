"""Market records between nodes: gossip what is new, catch up with every new neighbour, compare now and then.

A renewal is gossiped without the content, which the readers have; who has not compares with whom it came from.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgpack
import structlog
import trio
from pydantic import ValidationError

from golemp2p import limits
from golemp2p.core.eip712 import Domain
from golemp2p.core.ids import PeerId, SubscriptionId
from golemp2p.core.records import MarketRecord, RecordKind, UntimelyRecordError, verify_record
from golemp2p.errors import GolemError, PolicyError, RemoteProtocolError
from golemp2p.market.book import Applied, OrderBook
from golemp2p.market.comparing import UNCHANGED, Comparing
from golemp2p.net.port import GossipMessage, Network, Verdict
from golemp2p.net.ratelimit import RateLimit
from golemp2p.net.rpc import Method, Rpc
from golemp2p.wire.p2p.market import PROTOCOL, GossipBody, RecordBody, RecordsBody, RenewalBody

log = structlog.get_logger("golemp2p.market.sync")

GOSSIP_WINDOW_S: Final = 0.03  # what is announced within it goes into one message
GOSSIP_BYTES: Final = 190 * 1024  # of records in a message; below GOSSIP_MAX_BYTES
COMPARE_INTERVAL_S: Final = 20.0
MESH_FORMS_S: Final = 4.0  # some heartbeats: what is published before, GossipSub tells nobody
_STRANGERS: Final = "strangers"


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
        allows: Callable[[str], bool] = lambda _subnet: True,
    ) -> None:
        """``allows``: whether the network allows that subnet."""
        self._book = book
        self._network = network
        self._rpc = rpc
        self._domain = domain
        self._clock = clock
        self._listener = listener
        self._allows = allows
        self.comparing = Comparing(book, rpc, clock, self.take)
        self.quiet: Callable[[], bool] = lambda: False  # offers go by rendezvous: no gossip, no comparing
        self._topics: set[str] = set()
        self._strangers = RateLimit(limits.NEW_RECORDS_PER_S, limits.NEW_RECORDS_BURST)
        self._known = RateLimit(limits.KNOWN_RECORDS_PER_S, limits.KNOWN_RECORDS_BURST, max_keys=limits.MAX_RECORDS)
        self._missed = RateLimit(1 / limits.COMPARE_AGAIN_S, 1)
        self._pushes = RateLimit(limits.PUSHED_RECORDS_PER_S, limits.PUSHED_RECORDS_BURST)
        self._announce, self._announced = trio.open_memory_channel[tuple[MarketRecord, bool]](limits.MAX_RECORDS)
        self.on_joined: Callable[[], Awaitable[None]] | None = None  # the mesh has formed: what is ours is told again
        self._peers: set[PeerId] = set()
        self._joined, self._alone = trio.Event(), trio.Event()  # the first peer is there; all have gone again
        self._connected, self._connections = trio.open_memory_channel[PeerId](1_000)

    def handlers(self) -> dict[str, Method]:
        """Of the requests that nodes answer about records."""
        return {**self.comparing.handlers(), "push": self.on_push}

    async def join(self, subnet: str) -> None:
        """Take part in the gossip of ``subnet``; idempotent."""
        topic = topic_of(self._domain.network, subnet)
        if topic not in self._topics:
            self._topics.add(topic)
            await self._network.subscribe(topic, self._validate, self._on_gossip)

    def announce(self, record: MarketRecord, *, renewal: bool = False) -> None:
        """Gossip ``record`` soon; of a ``renewal`` without its content. Never blocks; what does not fit is found by
        comparing."""
        if self.quiet():
            return
        try:
            self._announce.send_nowait((record, renewal))
        except trio.WouldBlock:
            log.warning("announcement_dropped", record=record.id)

    def take(self, record: MarketRecord) -> Applied:
        """Verify a record, put it into the book, tell the listener. Raises RemoteProtocolError."""
        if not self._book.is_news(record):
            return Applied.NOTHING
        if not self._allows(record.subnet):
            raise RemoteProtocolError(f"the network does not allow subnet {record.subnet!r}")
        verify_record(record, self._domain, now=self._clock())
        applied = self._book.apply(record, self._clock())
        if applied not in UNCHANGED:
            self._listener(record, applied)
        return applied

    async def run(self, subnet: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._network.add_peer_listener(self._on_peer)
        await self.join(subnet)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._gossip_announcements)
            nursery.start_soon(self._pull_new_neighbours)
            nursery.start_soon(self._compare_now_and_then)
            nursery.start_soon(self._announce_when_joined)
            for peer in self._network.peers():
                if peer.connected:
                    self._on_peer(peer.peer, True)
            task_status.started()

    # --- gossip ---

    def _validate(self, message: GossipMessage) -> Verdict:
        """Pass on what is new here; blame who sends what is wrong. Runs before forwarding, so it applies at once.

        A message is passed on only when each record in it was verified, also those that are no news here: a reader who
        finds a forged one blames us.
        """
        try:
            body = _decode(message.data)
            records = [entry.record() for entry in body.records]
            self._check_topic(records, message.topic)
            changes = [self._judge(record, message.forwarder) for record in records]
            renewed = [self._renew(renewal, message) for renewal in body.renewals]
        except RemoteProtocolError as exc:
            log.info("gossip_refused", origin=message.origin, forwarder=message.forwarder, reason=str(exc))
            return Verdict.REJECT
        if None in changes or self.quiet():
            return Verdict.IGNORE
        return Verdict.ACCEPT if any([*changes, *renewed]) else Verdict.IGNORE

    def _check_topic(self, records: list[MarketRecord], topic: str) -> None:
        """Raises RemoteProtocolError."""
        for record in records:
            if topic_of(self._domain.network, record.subnet) != topic:
                raise RemoteProtocolError(f"record {record.id} of subnet {record.subnet!r} is on {topic!r}")

    def _judge(self, record: MarketRecord, forwarder: PeerId) -> bool | None:
        """Take a record if it is news. Whether it changed the book; None: nobody knows whether it is genuine.

        Raises RemoteProtocolError: it is not.
        """
        if self._book.any(record.id) == record:
            return False
        if not self._affordable(record.issuer, forwarder):
            return None
        try:
            if self._book.is_news(record):
                return self.take(record) not in UNCHANGED
        except UntimelyRecordError:
            pass  # by our clock; the next reader's may be another
        try:
            verify_record(record, self._domain, now=record.issued_at)
        except UntimelyRecordError:
            return None  # it ends before it begins: never looked at further
        return False

    def _affordable(self, issuer: PeerId, forwarder: PeerId) -> bool:
        """Whether one more record may be verified. A flood of new names spends what there is for new names only."""
        now = self._clock()
        known = self._book.knows(issuer)
        if self._known.allow(issuer, now) if known else self._strangers.allow(_STRANGERS, now):
            return True
        log.info("gossip_budget_spent", forwarder=forwarder, known_issuer=known)
        return False

    def _renew(self, renewal: RenewalBody, message: GossipMessage) -> bool:
        """Whether the renewal changed the book. Raises RemoteProtocolError: its own sender forged it.

        Nobody else is to blame for a wrong one: an issuer may have given one id two contents, so that its renewals are
        genuine to those who have the one and forged to those who have the other.
        """
        known = self._book.any(SubscriptionId(renewal.id))
        if known is not None:
            record = renewal.record(known)
            if known.kind is RecordKind.WITHDRAWAL or not self._book.is_news(record):
                return False
            if not self._affordable(record.issuer, message.forwarder):
                return False
            try:
                if topic_of(self._domain.network, record.subnet) == message.topic:
                    return self.take(record) not in UNCHANGED
            except UntimelyRecordError:
                return False
            except RemoteProtocolError as exc:
                if message.forwarder == message.origin:
                    raise
                log.info("renewal_refused", origin=message.origin, forwarder=message.forwarder, reason=str(exc))
        if self._missed.allow(message.forwarder, self._clock()):
            self._catch_up_with(message.forwarder)
        return False

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
            for topic, data in _messages(pending, self._domain.network):
                try:
                    await self._network.publish(topic, data)
                except GolemError as exc:
                    log.warning("gossip_failed", topic=topic, error=exc.message)

    # --- catching up ---

    def _on_peer(self, peer: PeerId, connected: bool) -> None:
        if connected:
            if not self._peers:
                self._alone = trio.Event()
                self._joined.set()
            self._peers.add(peer)
            self._catch_up_with(peer)
        elif peer in self._peers:
            self._peers.discard(peer)
            if not self._peers:
                self._joined = trio.Event()
                self._alone.set()

    def _catch_up_with(self, peer: PeerId) -> None:
        if self.quiet():
            return
        try:
            self._connected.send_nowait(peer)
        except trio.WouldBlock:
            log.debug("pull_skipped", peer=peer)

    async def _announce_when_joined(self) -> None:
        """What was published before the gossip mesh had formed, nobody passed on."""
        while True:
            await self._joined.wait()
            alone = self._alone
            await trio.sleep(MESH_FORMS_S)
            if self.on_joined is not None and not self.quiet():
                try:
                    await self.on_joined()
                except GolemError as exc:  # of the database; they are renewed in their time
                    log.warning("not_published_again", error=exc.message)
            await alone.wait()

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
            await trio.sleep(COMPARE_INTERVAL_S * random.uniform(0.7, 1.3))  # noqa: S311 - only spreads load
            peers = [p.peer for p in self._network.peers() if p.connected]
            if peers and not self.quiet():
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
        return await self.comparing.catch_up(peer)

    async def push(self, peer: PeerId, records: list[MarketRecord]) -> None:
        """Hand records to one peer directly. Raises GolemError."""
        body = RecordsBody(records=[RecordBody.of(r) for r in records]).to_wire()
        await self._rpc.call(peer, PROTOCOL, "push", body, timeout_s=limits.MARKET_RPC_TIMEOUT_S)

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
            except UntimelyRecordError:
                continue
        return {}


def _messages(pending: list[tuple[MarketRecord, bool]], network: str) -> list[tuple[str, bytes]]:
    """(topic, data) of bounded count and size, the newest version of each record; a renewal of what is itself still
    unsent goes whole."""
    newest: dict[str, tuple[MarketRecord, bool]] = {}
    for record, renewal in pending:
        earlier = newest.pop(record.id, None)
        newest[record.id] = (record, renewal and (earlier is None or earlier[1]))
    by_topic: dict[str, list[tuple[MarketRecord, bool]]] = {}
    for record, renewal in newest.values():
        by_topic.setdefault(topic_of(network, record.subnet), []).append((record, renewal))
    messages: list[tuple[str, bytes]] = []
    for topic, members in by_topic.items():
        chunk: list[tuple[MarketRecord, bool]] = []
        size = 0
        for record, renewal in members:
            more = limits.RECORD_OVERHEAD_BYTES + (0 if renewal else len(record.content))
            if chunk and (len(chunk) >= limits.GOSSIP_RECORDS or size + more > GOSSIP_BYTES):
                messages.append((topic, _encode(chunk)))
                chunk, size = [], 0
            chunk.append((record, renewal))
            size += more
        messages.append((topic, _encode(chunk)))
    return messages


def _encode(chunk: list[tuple[MarketRecord, bool]]) -> bytes:
    body = GossipBody(
        records=[RecordBody.of(record) for record, renewal in chunk if not renewal],
        renewals=[RenewalBody.of(record) for record, renewal in chunk if renewal],
    )
    packed: bytes = msgpack.packb(body.to_wire())
    return packed


def _decode(data: bytes) -> GossipBody:
    try:
        return GossipBody.model_validate(msgpack.unpackb(data))
    except ValidationError as exc:
        raise RemoteProtocolError(f"malformed records: {exc.errors()[0]['loc']} {exc.errors()[0]['msg']}") from exc
    except (ValueError, msgpack.UnpackException) as exc:  # bad UTF-8, too deep, cut short
        raise RemoteProtocolError(f"a gossip message is no msgpack: {exc}") from exc
