"""What the simulated wires do: latency by distance, jitter, bandwidth, loss, duplicates, reordering (s, bytes).

The figures of gossip are those that net/libp2p/gossip.py gives to GossipSub; sizes of frames are counted from its
protocol buffers, Noise and Yamux.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Final

import trio

TICK_S: Final = 0.001  # arrivals are rounded up to it: what arrives together costs one step of the clock

MESH_DEGREE: Final = 6
MESH_LOW: Final = 4
MESH_HIGH: Final = 12
LAZY_DEGREE: Final = 6  # peers outside of the mesh that hear IHAVE in a heartbeat
HEARTBEAT_S: Final = 1.0
HISTORY_GOSSIP: Final = 3  # heartbeats whose messages are told by IHAVE
GOSSIP_FRAME_BYTES: Final = 300  # origin, sequence, topic, key and signature; Yamux and Noise around it
CONTROL_FRAME_BYTES: Final = 90  # an IHAVE or IWANT without its ids
MESSAGE_ID_BYTES: Final = 48
RPC_FRAME_BYTES: Final = 60  # length, kind, id, method; Yamux and Noise
HANDSHAKE_BYTES: Final = 1_200  # multistream, Noise, Yamux, identify; each way
HANDSHAKE_ROUND_TRIPS: Final = 4
PING_S: Final = 15.0  # limits.KEEPALIVE_INTERVAL_S: Yamux pings, counted and not simulated
PING_BYTES: Final = 60
DHT_FANOUT: Final = 20  # Kademlia's k: who stores a record
DHT_PARALLEL: Final = 3  # Kademlia's alpha
DHT_MESSAGE_BYTES: Final = 900  # an answer with 20 closer peers and their addresses


@dataclass(frozen=True)
class Links:
    """``latency_s``: shortest and longest way across; ``loss``, ``duplicate``, ``reorder``: shares of messages."""

    latency_s: tuple[float, float] = (0.01, 0.12)
    jitter: float = 0.2  # of the latency, at most
    bandwidth_bytes_per_s: float = 12_500_000.0  # of a node's way out: 100 Mbit/s
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0  # these take up to ten times the latency


@dataclass
class Flow:
    """Messages and bytes of one kind at one node."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


@dataclass
class Traffic:
    """Of one node, by kind: gossip, control, rpc, dht, connections."""

    flows: dict[str, Flow] = field(default_factory=lambda: defaultdict(Flow))
    duplicates: int = 0  # gossip messages that came a second time

    def total(self) -> Flow:
        all_ = list(self.flows.values())
        return Flow(
            sum(f.sent for f in all_),
            sum(f.sent_bytes for f in all_),
            sum(f.received for f in all_),
            sum(f.received_bytes for f in all_),
        )


Call = tuple[Callable[..., None], Any, Any]


class Deliveries:
    """What is under way, in buckets of a TICK_S each: one task for all nodes, instead of a task for each hop."""

    def __init__(self, now: Callable[[], float] = trio.current_time) -> None:
        self._now = now
        self._buckets: dict[int, list[Call]] = {}
        self._ticks: list[int] = []  # heap of those with a bucket
        self._sooner = trio.Event()
        self._waiting_for = 0

    def at(self, tick: int, call: Callable[..., None], one: Any, two: Any) -> None:
        """``call(one, two)`` at ``tick``, which is later than now; it must not raise."""
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.append((call, one, two))
            return
        self._buckets[tick] = [(call, one, two)]
        heappush(self._ticks, tick)
        if tick < self._waiting_for:
            self._sooner.set()

    async def run(self) -> None:
        ticks = self._ticks
        while True:
            now = int(self._now() / TICK_S + 0.5)
            while ticks and ticks[0] <= now:
                for call, one, two in self._buckets.pop(heappop(ticks)):
                    call(one, two)
            self._waiting_for = ticks[0] if ticks else 1 << 62
            self._sooner = trio.Event()
            with trio.move_on_at(self._waiting_for * TICK_S if ticks else float("inf")):
                await self._sooner.wait()


class Wires:
    """The delay of a message between two places; places are points of a square of side 1."""

    def __init__(self, links: Links, seed: int) -> None:
        self.links = links
        self.random = random.Random(f"links {seed}")  # noqa: S311 - repeatable on purpose
        self.places: list[tuple[float, float]] = []
        self.busy_until: list[float] = []

    def add_place(self) -> None:
        self.places.append((self.random.random(), self.random.random()))
        self.busy_until.append(0.0)

    def base_s(self, one: int, other: int) -> float:
        (ax, ay), (bx, by) = self.places[one], self.places[other]
        low, high = self.links.latency_s
        return low + (high - low) * math.hypot(ax - bx, ay - by) / math.sqrt(2)

    def delay_s(self, base_s: float, sender: int, n_bytes: int, now: float) -> float:
        """Until it is there: waiting for the sender's way out, sending, and the way."""
        links = self.links
        begins = max(now, self.busy_until[sender])
        sent = self.busy_until[sender] = begins + n_bytes / links.bandwidth_bytes_per_s
        way = base_s * (1.0 + links.jitter * self.random.random())
        if links.reorder and self.random.random() < links.reorder:
            way *= 1.0 + 9.0 * self.random.random()
        return sent - now + way

    def is_lost(self) -> bool:
        return self.links.loss > 0.0 and self.random.random() < self.links.loss

    def is_doubled(self) -> bool:
        return self.links.duplicate > 0.0 and self.random.random() < self.links.duplicate
