"""The network port for thousands of nodes: connections and streams of net.memory, gossip and DHT by their cost.

Gossip is GossipSub's in what costs and what delays: a mesh of bounded degree, duplicates, IHAVE and IWANT, a validator
before forwarding. A message is one object with a byte per node for "has seen it", arrivals come from one heap.
"""

from __future__ import annotations

import math
import random
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import NetworkError, PolicyError, UsageError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.memory import MemoryHub, MemoryNetwork
from golemp2p.net.port import GossipHandler, GossipMessage, GossipValidator, Verdict
from golemp2p.sim import model
from golemp2p.sim.model import Deliveries, Links, Traffic, Wires

log = structlog.get_logger(__name__)


class Message:
    """One published gossip message; ``seen`` has a byte per node."""

    __slots__ = ("data", "n_bytes", "number", "origin", "seen", "topic")

    def __init__(self, number: int, topic: str, origin: PeerId, data: bytes, nodes: int) -> None:
        self.number, self.topic, self.origin, self.data = number, topic, origin, data
        self.n_bytes = len(data) + model.GOSSIP_FRAME_BYTES
        self.seen = bytearray(nodes)


class SimHub(MemoryHub):
    """The world's wires. Nodes keep their number (``indexes``) and their counters over restarts."""

    def __init__(self, links: Links, seed: int, nodes: int, now: Callable[[], float] = trio.current_time) -> None:
        """``now``: virtual time; trio.current_time, or what it asks."""
        super().__init__()
        self.now = now
        self.wires = Wires(links, seed)
        self.deliveries = Deliveries(now)
        self.random = random.Random(f"hub {seed}")  # noqa: S311 - repeatable on purpose
        self.capacity = nodes
        self.indexes: dict[PeerId, int] = {}
        self.traffic: list[Traffic] = []
        self.published = 0
        self.delivered_crc = 0  # of every first arrival: who, what, when
        self.meshes: dict[PeerId, SimNetwork] = {}  # nodes that take part in gossip
        self._lean: dict[SimNetwork, None] = {}  # whose mesh may need peers

    def number(self, peer: PeerId) -> int:
        index = self.indexes.get(peer)
        if index is None:
            index = self.indexes[peer] = len(self.traffic)
            self.traffic.append(Traffic())
            self.wires.add_place()
        return index

    def lean(self, network: SimNetwork) -> None:
        self._lean[network] = None

    async def heartbeats(self) -> None:
        """As each node's router does once in HEARTBEAT_S: mend the mesh, tell some of the others what there is."""
        while True:
            await trio.sleep(model.HEARTBEAT_S)
            lean, self._lean = list(self._lean), {}
            for network in lean:
                if not network.closed:
                    network.mend_meshes()
            for node in list(self.nodes.values()):
                if isinstance(node, SimNetwork) and node.recent:
                    node.tell_history()


class SimNetwork(MemoryNetwork):
    """One node's end. Made by :func:`open_sim_network`."""

    def __init__(self, hub: SimHub, key: NodeKey, nursery: trio.Nursery) -> None:
        super().__init__(hub, key, nursery)
        self.hub = hub
        self.index = hub.number(key.peer_id)
        self.traffic = hub.traffic[self.index]
        self._gossip = self.traffic.flows["gossip"]
        self.recent: list[list[Message]] = []  # of the last heartbeats, newest last
        self._validators: dict[str, tuple[GossipValidator, GossipHandler]] = {}
        self._mesh: dict[str, dict[PeerId, SimNetwork]] = {}
        self._base_s: dict[int, float] = {}
        self.exchanges: dict[PeerId, dict[trio.CancelScope, None]] = {}  # rpc calls that end with the connection
        self.connected_for_s = 0.0
        self._since: dict[PeerId, float] = {}

    # --- connections ------------------------------------------------------------------------------------------------

    def base_s(self, other: int) -> float:
        base = self._base_s.get(other)
        if base is None:
            base = self._base_s[other] = self.hub.wires.base_s(self.index, other)
        return base

    async def dial(self, peer: PeerId) -> None:
        await self._dial(peer)

    async def _dial(self, peer: PeerId) -> None:
        if peer in self.connections:
            return
        if self._is_banned(peer):
            raise PolicyError(f"peer {peer} is banned for breaking the protocol", hint="it is let in again in a minute")
        index = self.hub.indexes.get(peer)
        self._count("connections", 1, model.HANDSHAKE_BYTES)
        if index is None:
            raise NetworkError(f"peer {peer} cannot be reached", hint="is it running, is the address right?")
        await trio.sleep(model.HANDSHAKE_ROUND_TRIPS * 2 * self.base_s(index))
        if peer in self.connections:
            return
        other = self.hub.nodes.get(peer)
        full = other is not None and len(other.connections) >= limits.MAX_CONNECTIONS
        if other is None or full or not self.hub.reachable(self._peer_id, peer) or other._is_banned(self._peer_id):
            raise NetworkError(f"peer {peer} cannot be reached", hint="is it running, is the address right?")
        self.hub.traffic[index].flows["connections"].received += 1
        self.hub.traffic[index].flows["connections"].received_bytes += model.HANDSHAKE_BYTES
        self._link(peer, "out")
        other._link(self._peer_id, "in")

    def _link(self, peer: PeerId, direction: str) -> None:
        self._since[peer] = trio.current_time()
        self.hub.lean(self)
        super()._link(peer, direction)

    def _cut(self, peer: PeerId) -> None:
        for node, remote in ((self, peer), (self.hub.nodes.get(peer), self._peer_id)):
            if isinstance(node, SimNetwork):
                node.connected_for_s += trio.current_time() - node._since.pop(remote, trio.current_time())
                for mesh in node._mesh.values():
                    if mesh.pop(remote, None) is not None:
                        self.hub.lean(node)
                for scope in list(node.exchanges.pop(remote, ())):
                    scope.cancel()
        super()._cut(peer)

    def pings(self) -> int:
        """Keepalives sent so far: one in PING_S by each side of each connection."""
        now = trio.current_time()
        open_s = sum(now - since for since in self._since.values())
        return int((self.connected_for_s + open_s) / model.PING_S)

    def _count(self, kind: str, messages: int, n_bytes: int) -> None:
        flow = self.traffic.flows[kind]
        flow.sent += messages
        flow.sent_bytes += n_bytes

    # --- gossip -----------------------------------------------------------------------------------------------------

    async def subscribe(self, topic: str, validator: GossipValidator, handler: GossipHandler) -> None:
        self._validators[topic] = (validator, handler)
        self._mesh[topic] = {}
        self.hub.lean(self)
        for peer in self.connections:  # they may have waited for somebody
            other = self.hub.nodes.get(peer)
            if isinstance(other, SimNetwork):
                self.hub.lean(other)
        await trio.lowlevel.checkpoint()

    def mend_meshes(self) -> None:
        for topic, mesh in self._mesh.items():
            if len(mesh) < model.MESH_LOW:
                others = [
                    other
                    for peer in self.connections
                    if peer not in mesh
                    and isinstance(other := self.hub.nodes.get(peer), SimNetwork)
                    and topic in other._mesh
                ]
                self.hub.random.shuffle(others)
                for other in others[: model.MESH_DEGREE - len(mesh)]:
                    self._count("control", 1, model.CONTROL_FRAME_BYTES)
                    mesh[other._peer_id] = other
                    other._mesh[topic][self._peer_id] = self
                    if len(other._mesh[topic]) > model.MESH_HIGH:
                        self.hub.lean(other)
            elif len(mesh) > model.MESH_HIGH:
                for peer in self.hub.random.sample(list(mesh), len(mesh) - model.MESH_DEGREE):
                    other = mesh.pop(peer)
                    self._count("control", 1, model.CONTROL_FRAME_BYTES)
                    if other._mesh[topic].pop(self._peer_id, None) is not None:
                        self.hub.lean(other)

    async def publish(self, topic: str, data: bytes) -> None:
        if len(data) > limits.GOSSIP_MAX_BYTES:
            raise UsageError(f"a gossip message of {len(data)} bytes", hint=f"at most {limits.GOSSIP_MAX_BYTES}")
        hub = self.hub
        hub.published += 1
        self._published += 1
        message = Message(hub.published, topic, self._peer_id, data, hub.capacity)
        message.seen[self.index] = 1
        self._remember(message)
        self._spread(message, None)
        await trio.sleep(limits.GOSSIP_PUBLISH_PACE_S)

    def _remember(self, message: Message) -> None:
        if not self.recent:
            self.recent.append([])
        self.recent[-1].append(message)

    def _spread(self, message: Message, forwarder: SimNetwork | None) -> None:
        mesh = self._mesh.get(message.topic)
        self._send(message, mesh.values() if mesh is not None else self._strangers(message.topic), forwarder, 0.0)

    def _strangers(self, topic: str) -> list[SimNetwork]:
        """Who may take a message of a topic that we do not take part in."""
        others = [self.hub.nodes.get(peer) for peer in self.connections]
        return [o for o in others if isinstance(o, SimNetwork) and topic in o._mesh][: model.MESH_DEGREE]

    def _send(
        self, message: Message, others: Iterable[SimNetwork], forwarder: SimNetwork | None, later_s: float
    ) -> None:
        """The inner loop of a simulation: some million times in an hour of a thousand nodes."""
        hub, wires, seen = self.hub, self.hub.wires, message.seen
        links, n_bytes, now = wires.links, message.n_bytes, self.hub.now()
        takes_s = n_bytes / links.bandwidth_bytes_per_s
        busy = max(now, wires.busy_until[self.index])
        sent = 0
        for other in others:
            if other is forwarder:
                continue
            sent += 1
            busy += takes_s
            if seen[other.index]:  # it will say no: counted now, and not carried
                other._again(n_bytes)
                continue
            if links.loss and wires.is_lost():
                continue
            base_s = self._base_s.get(other.index) or self.base_s(other.index)
            way_s = base_s * (1.0 + links.jitter * wires.random.random())
            if links.reorder and wires.random.random() < links.reorder:
                way_s *= 1.0 + 9.0 * wires.random.random()
            hub.deliveries.at(int((busy + way_s + later_s) / model.TICK_S) + 1, other._arrive, message, self)
            if links.duplicate and wires.is_doubled():
                hub.deliveries.at(int((busy + 2 * way_s) / model.TICK_S) + 1, other._arrive, message, self)
        wires.busy_until[self.index] = busy
        self._gossip.sent += sent
        self._gossip.sent_bytes += sent * n_bytes

    def _again(self, n_bytes: int) -> None:
        self._gossip.received += 1
        self._gossip.received_bytes += n_bytes
        self.traffic.duplicates += 1

    def _arrive(self, message: Message, forwarder: SimNetwork) -> None:
        if self.closed or forwarder._peer_id not in self.connections:
            return
        if message.seen[self.index]:
            self._again(message.n_bytes)
            return
        self._gossip.received += 1
        self._gossip.received_bytes += message.n_bytes
        topic = self._validators.get(message.topic)
        if topic is None:
            return
        message.seen[self.index] = 1
        hub, now = self.hub, self.hub.now()
        hub.delivered_crc = zlib.crc32(
            b"%d %d %d" % (self.index, message.number, now / model.TICK_S), hub.delivered_crc
        )
        self._received += 1
        verdict = Verdict.IGNORE
        if self._scores.graylisted(forwarder._peer_id, now):
            self._dropped += 1
            return
        if self._rate.allow(message.origin, now):
            try:
                verdict = topic[0](GossipMessage(message.topic, message.origin, forwarder._peer_id, message.data))
            except Exception as exc:  # as the libp2p adapter
                log.exception("gossip validator failed", topic=message.topic, error=str(exc))
        if verdict is not Verdict.ACCEPT:
            self._dropped += 1
            if verdict is Verdict.REJECT:
                self.blame(forwarder._peer_id)
            return
        self._remember(message)
        self._spread(message, forwarder)

    def tell_history(self) -> None:
        """IHAVE to some outside of the mesh, in turn; they ask for what they have not seen."""
        messages = [message for window in self.recent for message in window]
        self.recent.append([])
        if len(self.recent) > model.HISTORY_GOSSIP:
            del self.recent[0]
        if not any(self.recent):
            self.recent.clear()
        hub = self.hub
        for topic, mesh in self._mesh.items():
            ours = [message for message in messages if message.topic == topic]
            if not ours or len(self.connections) <= len(mesh):
                continue
            outside = [peer for peer in self.connections if peer not in mesh]
            if len(outside) > model.LAZY_DEGREE:
                begin = hub.random.randrange(len(outside))
                outside = (outside + outside)[begin : begin + model.LAZY_DEGREE]
            for peer in outside:
                other = hub.nodes.get(peer)
                if not isinstance(other, SimNetwork) or topic not in other._mesh:
                    continue
                n_bytes = model.CONTROL_FRAME_BYTES + model.MESSAGE_ID_BYTES * len(ours)
                self._count("control", 1, n_bytes)
                flow = other.traffic.flows["control"]
                flow.received += 1
                flow.received_bytes += n_bytes
                if missing := [message for message in ours if not message.seen[other.index]]:
                    other._count("control", 1, model.CONTROL_FRAME_BYTES + model.MESSAGE_ID_BYTES * len(missing))
                    for message in missing:
                        self._send(message, (other,), None, 2 * self.base_s(other.index))

    # --- DHT: Kademlia's hops and messages, over one table ------------------------------------------------------------

    async def _look_up(self, fanout: int) -> None:
        """The time and the messages of a lookup among all nodes, and of ``fanout`` stores after it."""
        nodes = max(2, len(self.hub.nodes))
        hops = max(1, math.ceil(math.log2(nodes) / 4))  # buckets of 20 halve the distance about 16-fold a hop
        asked = hops * model.DHT_PARALLEL + fanout
        self._count("dht", asked, asked * model.DHT_MESSAGE_BYTES // 4)
        others = list(self.hub.nodes.values())
        worst_s = 0.0
        for _ in range(asked):
            other = others[self.hub.random.randrange(len(others))]
            if isinstance(other, SimNetwork):
                flow = other.traffic.flows["dht"]
                flow.received += 1
                flow.sent += 1
                flow.sent_bytes += model.DHT_MESSAGE_BYTES
                worst_s = max(worst_s, self.base_s(other.index))
        flow = self.traffic.flows["dht"]
        flow.received += asked
        flow.received_bytes += asked * model.DHT_MESSAGE_BYTES
        await trio.sleep(2 * worst_s * (hops + (1 if fanout else 0)))

    async def put_record(self, key: str, value: bytes) -> None:
        await self._look_up(model.DHT_FANOUT)
        await super().put_record(key, value)

    async def get_record(self, key: str) -> bytes | None:
        await self._look_up(0)
        return await super().get_record(key)

    async def provide(self, key: str) -> None:
        await self._look_up(model.DHT_FANOUT)
        await super().provide(key)

    async def find_providers(self, key: str, *, limit: int = 20) -> Sequence[PeerId]:
        await self._look_up(0)
        known = self.hub.providers.get(key, OrderedDict())
        found = [peer for peer in known if self.hub.reachable(self._peer_id, peer)]
        return self.hub.random.sample(found, min(limit, len(found)))


@asynccontextmanager
async def open_sim_network(hub: SimHub, key: NodeKey) -> AsyncIterator[SimNetwork]:
    async with trio.open_nursery() as nursery:
        network = SimNetwork(hub, key, nursery)
        hub.nodes[network.peer_id] = network
        try:
            yield network
        finally:
            if hub.nodes.get(network.peer_id) is network:
                hub.kill(network.peer_id)
            nursery.cancel_scope.cancel()
