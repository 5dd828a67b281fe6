"""The network port in memory, for simulation and tests: deterministic, and true to trio's virtual clock.

Streams are flow-controlled like the real ones, gossip floods to connected peers hop by hop, the DHT is a dict in the
hub. Faults are made with :meth:`MemoryHub.partition`, :meth:`MemoryHub.heal` and :meth:`MemoryHub.kill`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import DeadlineError, NetworkError, PolicyError, UsageError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.memory_stream import MemoryStream, stream_pair
from golemp2p.net.port import (
    ByteStream,
    GossipHandler,
    GossipMessage,
    GossipValidator,
    NetworkStatistics,
    PeerInfo,
    PeerListener,
    Reach,
    Reachability,
    StreamHandler,
    Verdict,
)
from golemp2p.net.ratelimit import RateLimit
from golemp2p.net.scoring import PeerScores

log = structlog.get_logger(__name__)
_SEEN: Final = 10_000


class MemoryHub:
    """The world that MemoryNetworks share. ``latency_s`` delays every gossip hop and dial."""

    def __init__(self, *, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self.nodes: dict[PeerId, MemoryNetwork] = {}
        self.records: dict[str, tuple[bytes, float]] = {}  # key -> (value, expires at)
        self.providers: dict[str, OrderedDict[PeerId, None]] = {}
        self._groups: list[frozenset[PeerId]] = []

    def partition(self, *groups: Iterable[PeerId]) -> None:
        """From now peers reach only peers of their own group; those in no group form one more. Cuts connections."""
        self._groups = [frozenset(group) for group in groups]
        for node in list(self.nodes.values()):
            for other in list(node.connections):
                if not self.reachable(node.peer_id, other):
                    node._cut(other)

    def heal(self) -> None:
        """Undo :meth:`partition`. Connections do not come back by themselves."""
        self._groups = []

    def kill(self, peer: PeerId) -> None:
        """As SIGKILL does: the node is gone at once, its peers see broken streams. Its own tasks see errors."""
        node = self.nodes.pop(peer, None)
        if node is not None:
            node.closed = True
            for other in list(node.connections):
                node._cut(other)

    def reachable(self, one: PeerId, other: PeerId) -> bool:
        def group(peer: PeerId) -> int:
            return next((index for index, members in enumerate(self._groups) if peer in members), -1)

        return one in self.nodes and other in self.nodes and group(one) == group(other)


class MemoryNetwork:
    """One node of a hub. Made by :func:`open_memory_network`."""

    def __init__(self, hub: MemoryHub, key: NodeKey, nursery: trio.Nursery) -> None:
        self._hub, self._nursery = hub, nursery
        self._peer_id = key.peer_id
        self.connections: dict[PeerId, str] = {}  # peer -> direction
        self.closed = False
        self._known: dict[PeerId, None] = {}
        self._listeners: list[PeerListener] = []
        self._handlers: dict[str, StreamHandler] = {}
        self._streams: dict[MemoryStream, None] = {}
        self._topics: dict[str, tuple[GossipValidator, trio.MemorySendChannel[GossipMessage]]] = {}
        self._seen: OrderedDict[tuple[PeerId, int], None] = OrderedDict()
        self._rate = RateLimit(limits.GOSSIP_PER_ORIGIN_PER_S, limits.GOSSIP_BURST)
        self._bans: dict[PeerId, float] = {}
        self._scores = PeerScores()
        self._sequence = self._opened = self._accepted = self._published = self._received = self._dropped = 0

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def addresses(self) -> Sequence[str]:
        return [f"/memory/{self._peer_id}/p2p/{self._peer_id}"]

    def peers(self) -> Sequence[PeerInfo]:
        def info(peer: PeerId) -> PeerInfo:
            direction = self.connections.get(peer, "")
            round_trip_s = 2 * self._hub.latency_s if direction else None
            return PeerInfo(peer, (f"/memory/{peer}/p2p/{peer}",), bool(direction), direction, round_trip_s)

        return [info(peer) for peer in [*self.connections, *(p for p in self._known if p not in self.connections)]]

    def statistics(self) -> NetworkStatistics:
        return NetworkStatistics(
            len(self.connections), self._opened, self._accepted, self._published, self._received, self._dropped
        )

    def reachability(self) -> Reachability:
        return Reachability(Reach.PUBLIC, "the memory network has no NAT")

    def add_peer_listener(self, listener: PeerListener) -> None:
        self._listeners.append(listener)

    # --- connections ------------------------------------------------------------------------------------------------
    async def connect(self, multiaddr: str) -> PeerId:
        head, _, name = multiaddr.rpartition("/p2p/")
        if not head or not name:
            raise UsageError(f"{multiaddr!r} is not an address of a peer", hint="it must end in /p2p/<PeerId>")
        peer = PeerId(name)
        if peer == self._peer_id:
            raise UsageError("that address is our own", hint="give the address of another node")
        await self._dial(peer)
        return peer

    async def _dial(self, peer: PeerId) -> None:
        if peer in self.connections:
            return
        if self._is_banned(peer):
            raise PolicyError(f"peer {peer} is banned for breaking the protocol", hint="it is let in again in a minute")
        await trio.sleep(self._hub.latency_s)
        other = self._hub.nodes.get(peer)
        if other is None or not self._hub.reachable(self._peer_id, peer) or other._is_banned(self._peer_id):
            raise NetworkError(f"peer {peer} cannot be reached", hint="is it running, is the address right?")
        if peer not in self.connections:
            self._link(peer, "out")
            other._link(self._peer_id, "in")

    def _link(self, peer: PeerId, direction: str) -> None:
        self.connections[peer] = direction
        self._known[peer] = None
        self._tell(peer, connected=True)

    def _cut(self, peer: PeerId) -> None:
        """End the connection to ``peer`` on both sides, with every stream on it."""
        for node, remote in ((self, peer), (self._hub.nodes.get(peer), self._peer_id)):
            if node is None or remote not in node.connections:
                continue
            del node.connections[remote]
            for stream in [stream for stream in node._streams if stream.peer == remote]:
                stream.break_()
            node._tell(remote, connected=False)

    def _tell(self, peer: PeerId, *, connected: bool) -> None:
        for listener in self._listeners:
            try:
                listener(peer, connected)
            except Exception as exc:  # as the libp2p adapter: one listener's mistake stays its own
                log.exception("peer listener failed", peer=peer, error=str(exc))

    async def disconnect(self, peer: PeerId) -> None:
        self._cut(peer)

    async def ban(self, peer: PeerId, duration_s: float) -> None:
        self._bans[peer] = trio.current_time() + duration_s
        self._cut(peer)

    def _is_banned(self, peer: PeerId) -> bool:
        return self._bans.get(peer, -1.0) > trio.current_time()

    # --- streams ----------------------------------------------------------------------------------------------------
    async def open_stream(
        self, peer: PeerId, protocol: str, *, timeout_s: float = limits.OPEN_STREAM_TIMEOUT_S
    ) -> ByteStream:
        if peer == self._peer_id:
            raise UsageError("a node opens no stream to itself")
        try:
            with trio.fail_after(timeout_s):
                await self._dial(peer)
                await trio.lowlevel.checkpoint()
        except trio.TooSlowError as exc:
            raise DeadlineError(f"no {protocol} stream to {peer} within {timeout_s:g} s") from exc
        other = self._hub.nodes.get(peer)
        if self.closed or other is None or peer not in self.connections:
            raise NetworkError(f"peer {peer} cannot be reached")
        handler = other._handlers.get(protocol)
        if handler is None:
            raise NetworkError(f"no {protocol} stream to {peer}: the peer does not speak it")
        ours, theirs = stream_pair(self._peer_id, peer)
        for node, stream in ((self, ours), (other, theirs)):
            node._streams[stream] = None
            stream.on_end = partial(node._streams.pop, stream, None)
        self._opened += 1
        other._accepted += 1
        other._nursery.start_soon(other._handle, handler, theirs, protocol)
        return ours

    async def _handle(self, handler: StreamHandler, stream: MemoryStream, protocol: str) -> None:
        try:
            await handler(stream)
        except Exception as exc:  # noqa: BLE001 - the port's promise: it costs that stream only
            log.info("stream handler failed", peer=stream.peer, protocol=protocol, error=repr(exc))
            await stream.reset()
        finally:
            await stream.aclose()

    def set_stream_handler(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler

    # --- gossip -----------------------------------------------------------------------------------------------------
    async def subscribe(self, topic: str, validator: GossipValidator, handler: GossipHandler) -> None:
        send, receive = trio.open_memory_channel[GossipMessage](limits.GOSSIP_QUEUE)
        self._topics[topic] = (validator, send)
        self._nursery.start_soon(self._deliver, topic, receive, handler)
        await trio.lowlevel.checkpoint()

    async def _deliver(
        self, topic: str, receive: trio.MemoryReceiveChannel[GossipMessage], handler: GossipHandler
    ) -> None:
        async for message in receive:
            try:
                await handler(message)
            except Exception as exc:  # one message's failure must not end the subscription
                log.exception("gossip handler failed", topic=topic, error=str(exc))

    async def publish(self, topic: str, data: bytes) -> None:
        if len(data) > limits.GOSSIP_MAX_BYTES:
            raise UsageError(f"a gossip message of {len(data)} bytes", hint=f"at most {limits.GOSSIP_MAX_BYTES}")
        self._sequence += 1
        self._published += 1
        self._forward(GossipMessage(topic, self._peer_id, self._peer_id, data), self._sequence)
        await trio.sleep(limits.GOSSIP_PUBLISH_PACE_S)

    def _forward(self, message: GossipMessage, sequence: int) -> None:
        hop = GossipMessage(message.topic, message.origin, self._peer_id, message.data)
        for peer in self.connections:
            if peer not in (message.forwarder, message.origin):
                self._nursery.start_soon(self._hop, peer, hop, sequence)

    async def _hop(self, peer: PeerId, message: GossipMessage, sequence: int) -> None:
        await trio.sleep(self._hub.latency_s)
        node = self._hub.nodes.get(peer)
        if node is not None and peer in self.connections:
            node._receive(message, sequence)

    def _receive(self, message: GossipMessage, sequence: int) -> None:
        topic = self._topics.get(message.topic)
        seen = (message.origin, sequence)
        if topic is None or seen in self._seen:
            return
        self._received += 1
        validator, queue = topic
        verdict = Verdict.IGNORE
        if self._scores.graylisted(message.forwarder, trio.current_time()):
            self._dropped += 1
            return
        if self._rate.allow(message.origin, trio.current_time()):
            try:
                verdict = validator(message)
            except Exception as exc:  # as the libp2p adapter
                log.exception("gossip validator failed", topic=message.topic, error=str(exc))
        if verdict is not Verdict.ACCEPT:
            self._dropped += 1
            if verdict is Verdict.REJECT:
                self.blame(message.forwarder)
            return
        self._seen[seen] = None
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)
        try:
            queue.send_nowait(message)
        except trio.WouldBlock:
            self._dropped += 1
        self._forward(message, sequence)

    def blame(self, peer: PeerId) -> None:
        duration_s = self._scores.blame(peer, trio.current_time())
        if duration_s:
            self._nursery.start_soon(self.ban, peer, duration_s)

    # --- DHT --------------------------------------------------------------------------------------------------------
    async def put_record(self, key: str, value: bytes) -> None:
        if len(value) > limits.DHT_RECORD_MAX_BYTES:
            raise UsageError(f"a DHT record of {len(value)} bytes", hint=f"at most {limits.DHT_RECORD_MAX_BYTES}")
        await trio.sleep(self._hub.latency_s)
        self._hub.records[key] = (value, trio.current_time() + limits.DHT_RECORD_TTL_S)

    async def get_record(self, key: str) -> bytes | None:
        await trio.sleep(self._hub.latency_s)
        value, expires = self._hub.records.get(key, (None, 0.0))
        return value if trio.current_time() < expires else None

    async def provide(self, key: str) -> None:
        await trio.sleep(self._hub.latency_s)
        self._hub.providers.setdefault(key, OrderedDict())[self._peer_id] = None

    async def find_providers(self, key: str, *, limit: int = 20) -> Sequence[PeerId]:
        await trio.sleep(self._hub.latency_s)
        found = self._hub.providers.get(key, OrderedDict())
        return [peer for peer in found if peer in self._hub.nodes][:limit]


@asynccontextmanager
async def open_memory_network(hub: MemoryHub, key: NodeKey) -> AsyncIterator[MemoryNetwork]:
    """A node in ``hub`` for the time of the context; what the body raises is not wrapped in groups."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(hub, key, nursery)
        hub.nodes[network.peer_id] = network
        try:
            yield network
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of the nursery
            failure = exc
        finally:
            if hub.nodes.get(network.peer_id) is network:
                hub.kill(network.peer_id)
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
