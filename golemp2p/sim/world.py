"""A simulated world: its nodes, wires, chain, clock, and what is counted of it. :func:`simulate` runs a scenario."""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import trio

from golemp2p.core.agreement import Agreement, AgreementState
from golemp2p.core.eip712 import Domain
from golemp2p.core.ids import PeerId
from golemp2p.core.payment import Leg
from golemp2p.identity.keys import NodeKey
from golemp2p.sim import faults
from golemp2p.sim.chain import TOKEN, SimChain, glm
from golemp2p.sim.checks import Checks
from golemp2p.sim.clock import VirtualClock
from golemp2p.sim.determinism import deterministic
from golemp2p.sim.disk import Disks
from golemp2p.sim.eventlog import EventLog
from golemp2p.sim.logs import service_errors
from golemp2p.sim.measures import Measures
from golemp2p.sim.model import Links
from golemp2p.sim.network import SimHub
from golemp2p.sim.node import SimNode
from golemp2p.sim.provider import Provider
from golemp2p.sim.requestor import Requestor
from golemp2p.sim.rpc import SimRpc
from golemp2p.sim.runtime import SimRuntime
from golemp2p.sim.scenario import Scenario
from golemp2p.sim.shortcuts import computed_once
from golemp2p.sim.terms import SUBNET, make_terms
from golemp2p.sim.topology import Topology

EPOCH: Final = 1_800_000_000.0  # wall time at the beginning
PROVIDER_FUNDS: Final = "10"
REQUESTOR_FUNDS: Final = "1000"


@dataclass
class Result:
    """``problems``: broken safety properties, missed expectations, errors that services logged."""

    scenario: Scenario
    digest: str
    problems: list[str]
    measures: Measures
    wall_s: float
    cpu_s: float  # of this process; on a busy machine it says more than wall_s
    virtual_s: float
    nodes: int
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def speed(self) -> float:
        """Virtual seconds in a second of CPU time."""
        return self.virtual_s / max(self.cpu_s, 1e-9)


Progress = Callable[["World"], None]


class World:
    def __init__(
        self, scenario: Scenario, *, log_file: IO[str] | None = None, now: Callable[[], float] | None = None
    ) -> None:
        """``now``: what trio.current_time asks, for speed."""
        self.scenario = scenario
        self.random = random.Random(f"world {scenario.seed}")  # noqa: S311 - repeatable on purpose
        links = scenario.links
        self.hub = SimHub(
            Links(
                latency_s=(links.latency_ms[0] / 1000, links.latency_ms[1] / 1000),
                jitter=links.jitter,
                bandwidth_bytes_per_s=links.bandwidth_mbit * 125_000,
                loss=links.loss,
                duplicate=links.duplicate,
                reorder=links.reorder,
            ),
            scenario.seed,
            scenario.nodes,
            now or trio.current_time,
        )
        self.log = EventLog(log_file)
        self.disks = Disks()
        self.rpcs: dict[PeerId, SimRpc] = {}
        self.subnet = SUBNET
        self.domain = Domain("simulated", 31337)
        self.chain = SimChain(self._on_leg)
        self.topology = Topology(self, scenario.degree)
        self.nodes: list[SimNode] = []
        self.living: list[PeerId] = []  # in the order of their coming
        self.work_root = Path(tempfile.gettempdir())
        self.checks = Checks(self)
        self.measures = Measures(self)
        self.nursery: trio.Nursery
        self.service_errors: list[str] = []
        self._make_nodes()

    def wall(self) -> float:
        return EPOCH + trio.current_time()

    def name_of(self, peer: PeerId) -> str:
        return f"n{self.hub.indexes.get(peer, -1)}"

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _make_nodes(self) -> None:
        draw = self.random
        for group in self.scenario.providers:
            for _ in range(group.count):
                index = len(self.nodes)
                terms = make_terms(
                    index,
                    price_per_hour=round(draw.uniform(*group.price), 4),
                    capacity=group.capacity,
                    note_interval_s=group.note_interval_s,
                )
                agent = Provider(
                    terms,
                    vanishes=group.kind == "vanishes",
                    offers=group.offers,
                    starts_at_s=draw.uniform(*group.start_s),
                )
                runtime = SimRuntime(honest=group.kind != "wrong-results", speed=draw.uniform(0.7, 1.5))
                node = self._add(agent, "provider" if group.kind == "honest" else group.kind, runtime)
                node.joins_at_s = draw.uniform(*group.join_s)
                node.skew_s = draw.uniform(-group.clock_skew_s, group.clock_skew_s)
                self.chain.fund(node.key.address, TOKEN, glm(PROVIDER_FUNDS))
        for number, wanted in enumerate(self.scenario.requestors):
            for count in range(wanted.count):
                job = Requestor(
                    name=f"job-{number}-{count}",
                    tasks=wanted.tasks,
                    task_s=wanted.task_s,
                    workers=wanted.workers,
                    budget=wanted.budget,
                    starts_at_s=draw.uniform(*wanted.start_s),
                    pays=wanted.kind == "honest",
                    mid_payments_s=wanted.mid_payments_s,
                    tasks_per_agreement=wanted.tasks_per_agreement,
                )
                honest = wanted.kind == "honest"
                node = self._add(job, "requestor" if honest else "free-rider", SimRuntime())
                node.joins_at_s = draw.uniform(*wanted.join_s)
                node.skew_s = draw.uniform(-wanted.clock_skew_s, wanted.clock_skew_s)
                if not honest:
                    node.auto_accept_after_s = None
                self.chain.fund(node.key.address, TOKEN, glm(REQUESTOR_FUNDS))

    def _add(self, agent: Provider | Requestor, role: str, runtime: SimRuntime) -> SimNode:
        index = len(self.nodes)
        secret = hashlib.sha256(f"key {self.scenario.seed} {index}".encode()).digest()
        node = SimNode(self, index, NodeKey(secret), agent, role, runtime)
        self.hub.number(node.key.peer_id)
        self.nodes.append(node)
        return node

    async def start(self, node: SimNode) -> None:
        """Returns when it runs."""
        await self.nursery.start(node.run)
        self.living.append(node.key.peer_id)

    async def crash(self, node: SimNode) -> None:
        if node.key.peer_id in self.living:
            self.living.remove(node.key.peer_id)
        await node.crash()

    # --- what happens -------------------------------------------------------------------------------------------------

    def on_call(self, caller: int, callee: int, method: str, outcome: str, body: Mapping[str, Any]) -> None:
        self.measures.calls[method, outcome] += 1
        if method == "ack" and outcome == "ok":
            self.checks.on_ack(self.nodes[caller], body)
        if method not in ("pull", "push"):
            self.log.add(caller, "call", callee, method, outcome)

    def on_agreement(self, node: SimNode, agreement: Agreement) -> None:
        self.log.add(node.index, "agreement", agreement.id[:16], agreement.role.value, agreement.state.value)
        self.checks.on_agreement(node, agreement)
        if agreement.state is AgreementState.APPROVED:
            self.measures.on_approved(node, agreement)

    def _on_leg(self, leg: Leg) -> None:
        self.log.add(-1, "paid", leg.sender[:10], leg.recipient[:10], leg.amount)
        self.checks.on_leg(leg)
        self.measures.on_leg(leg)

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self, until_s: float, progress: Progress) -> None:
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            nursery.start_soon(self.hub.deliveries.run)
            nursery.start_soon(self.hub.heartbeats)
            nursery.start_soon(self.chain.run)
            for node in self.nodes:
                nursery.start_soon(self._join, node)
            for fault in self.scenario.faults:
                nursery.start_soon(faults.run, self, fault)
            await self._watch(until_s, progress)
            await self.checks.at_the_end()
            self.measures.remember_topology()
            nursery.cancel_scope.cancel()

    async def _join(self, node: SimNode) -> None:
        await trio.sleep(node.joins_at_s)
        await self.start(node)

    async def _watch(self, until_s: float, progress: Progress) -> None:
        """Looks, counts and checks once in sample_s."""
        while trio.current_time() < until_s:
            await trio.sleep(min(self.scenario.sample_s, until_s - trio.current_time()))
            self.measures.sample()
            self.checks.look()
            self.log.add(
                -1, "sample", self.hub.published, self.hub.delivered_crc, sum(t.total().sent for t in self.hub.traffic)
            )
            progress(self)


def simulate(
    scenario: Scenario,
    *,
    until_s: float | None = None,
    log_file: IO[str] | None = None,
    progress: Progress = lambda world: None,
    prepare: Callable[[World], None] = lambda world: None,
) -> Result:
    """Run a scenario in virtual time. The event log's digest depends on the scenario, its seed and ``until_s`` alone
    (and on PYTHONHASHSEED=0). ``prepare`` may change the world before it begins."""
    until = scenario.until_s if until_s is None else until_s
    begun, begun_cpu = time.perf_counter(), time.process_time()
    with ExitStack() as stack:
        stack.enter_context(deterministic(scenario.seed))
        stack.enter_context(computed_once())
        errors = stack.enter_context(service_errors())
        clock = VirtualClock()
        world = World(scenario, log_file=log_file, now=clock.current_time)
        world.service_errors = errors
        world.work_root = Path(tempfile.mkdtemp(prefix="golemp2p-sim-"))
        stack.callback(shutil.rmtree, world.work_root, ignore_errors=True)
        stack.callback(world.disks.close)
        prepare(world)
        trio.run(world.run, until, progress, clock=clock)
        problems = [*world.checks.problems, *dict.fromkeys(f"a service logged an error: {e}" for e in errors)]
    return Result(
        scenario,
        world.log.digest,
        problems,
        world.measures,
        time.perf_counter() - begun,
        time.process_time() - begun_cpu,
        until,
        len(world.nodes),
        dict(world.log.counts),
    )
