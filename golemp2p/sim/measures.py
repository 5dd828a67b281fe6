"""What is counted in a simulated world: for the summary, the pictures and the expectations of scenarios."""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from golemp2p.core.agreement import Agreement, Role
from golemp2p.core.payment import Leg
from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.market.book import Applied
from golemp2p.sim.model import PING_BYTES, Traffic

if TYPE_CHECKING:
    from golemp2p.sim.node import SimNode
    from golemp2p.sim.world import World

MAX_LATENCIES: Final = 200_000
LOOKUPS_A_SAMPLE: Final = 1_000  # of offers in books


@dataclass(frozen=True)
class Sample:
    at_s: float
    nodes: int  # alive
    live_offers: int
    known_share: float  # of the live offers, by the average node
    known_least: float  # by the node that knows the fewest
    agreements: int  # so far, approved
    tasks: int  # done so far
    paid: int  # so far, in the smallest unit
    messages: int  # sent so far
    n_bytes: int
    problems: int


class Measures:
    def __init__(self, world: World) -> None:
        self._world = world
        self.samples: list[Sample] = []
        self.latencies: list[float] = []  # of offers, from their issuer's announcement to another node's book
        self.calls: Counter[tuple[str, str]] = Counter()
        self.approved: dict[str, tuple[int, int]] = {}  # agreement -> (requestor, provider)
        self.flows: Counter[tuple[str, str]] = Counter()  # (payer, payee) addresses -> amount
        self.paid = 0
        self.live_offers: dict[str, float] = {}  # id -> when it was announced
        self.issuers: dict[str, int] = {}
        self.edges: list[tuple[int, int]] = []  # at the end
        self.roles: list[str] = []
        self._pings = 0

    @property
    def traffic(self) -> list[Traffic]:
        return self._world.hub.traffic

    @property
    def places(self) -> list[tuple[float, float]]:
        return self._world.hub.wires.places

    def remember_topology(self) -> None:
        """Before the nodes go."""
        hub = self._world.hub
        self.roles = [node.role for node in self._world.nodes]
        self._pings = sum(n.network.pings() for n in self._world.nodes if n.network is not None)
        self.edges = [
            (hub.indexes[peer], hub.indexes[other])
            for peer, network in hub.nodes.items()
            for other, direction in network.connections.items()
            if direction == "out"
        ]

    # --- events -----------------------------------------------------------------------------------------------------

    def on_record(self, node: SimNode, record: MarketRecord, applied: Applied) -> None:
        if record.issuer == node.key.peer_id:
            if applied is Applied.NEW and record.kind is RecordKind.OFFER:
                self.live_offers[record.id] = trio.current_time()
                self.issuers[record.id] = node.index
            elif applied is Applied.WITHDRAWN:
                self.live_offers.pop(record.id, None)
        elif applied is Applied.NEW and record.kind is RecordKind.OFFER:
            born = self.live_offers.get(record.id)
            if born is not None and len(self.latencies) < MAX_LATENCIES:
                self.latencies.append(trio.current_time() - max(born, node.up_since_s))

    def on_crash(self, node: SimNode) -> None:
        for offer in [o for o, index in self.issuers.items() if index == node.index]:
            self.live_offers.pop(offer, None)
            del self.issuers[offer]

    def on_approved(self, node: SimNode, agreement: Agreement) -> None:
        if agreement.role is Role.REQUESTOR:
            provider = self._world.hub.indexes.get(agreement.provider, -1)
            self.approved[agreement.id] = (node.index, provider)

    def on_leg(self, leg: Leg) -> None:
        self.flows[leg.sender, leg.recipient] += leg.amount
        self.paid += leg.amount

    # --- looking ----------------------------------------------------------------------------------------------------

    def known_share(self, node: SimNode, offers: list[str] | None = None) -> float:
        """Of the live offers (or of these) that ``node`` has in its book."""
        wanted = list(self.live_offers) if offers is None else offers
        if not wanted or node.market is None:
            return 1.0
        now = node.clock()
        book = node.market.book
        return sum(book.get(offer, now) is not None for offer in wanted) / len(wanted)  # type: ignore[arg-type] # ids are text

    def sample(self) -> None:
        world = self._world
        alive = [node for node in world.nodes if node.alive]
        look = min(len(alive), max(5, LOOKUPS_A_SAMPLE // max(1, len(self.live_offers))))
        step = max(1, len(alive) // max(1, look))
        shares = [self.known_share(node) for node in alive[len(self.samples) % step :: step]] or [0.0]
        totals = [traffic.total() for traffic in world.hub.traffic]
        self.samples.append(
            Sample(
                trio.current_time(),
                len(alive),
                len(self.live_offers),
                sum(shares) / len(shares),
                min(shares),
                len(self.approved),
                world.log.counts["task"],
                self.paid,
                sum(t.sent for t in totals),
                sum(t.sent_bytes for t in totals),
                len(world.checks.problems),
            )
        )

    def per_node_hour(self) -> dict[str, tuple[float, float]]:
        """Messages and bytes sent per node and hour of virtual time, by kind; keepalives are reckoned."""
        world = self._world
        hours = max(self.samples[-1].at_s, 1.0) / 3_600 * max(1, len(world.nodes)) if self.samples else 1.0
        sums: dict[str, tuple[float, float]] = {}
        for traffic in world.hub.traffic:
            for kind, flow in traffic.flows.items():
                before = sums.get(kind, (0.0, 0.0))
                sums[kind] = (before[0] + flow.sent, before[1] + flow.sent_bytes)
        sums["keepalive"] = (float(self._pings), float(self._pings * PING_BYTES))
        return {kind: (count / hours, size / hours) for kind, (count, size) in sorted(sums.items())}

    def latency(self, share: float) -> float:
        """The time within which ``share`` of the announcements were known; 0 without any."""
        if not self.latencies:
            return 0.0
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def memory_bytes() -> int:
    """The most that this process had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
