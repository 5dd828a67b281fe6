"""Real nodes, real libp2p, one machine: ``scripts/scale [20 50 100] [--json] [--simulated]``.

For each size: a bootnode and so many `golemp2p run` processes of one private network. Measured: how long an offer takes
to 99 % of the nodes (each node says itself when it heard of it; one machine has one clock), how long a late joiner
takes to know all offers, the CPU time of an idle node and its memory. ``--simulated``: the simulator's word on the same
sizes beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import trio

from golemp2p.client import NodeClient, connect
from golemp2p.identity import NodeKey, create_keystore
from golemp2p.localchain.child import Child, open_child
from golemp2p.locations import Locations
from golemp2p.profiles import create_profile, write_private

OFFERS = 10
IDLE_S = 30.0
STARTS_AT_ONCE = 3
READY_S = 120.0
OFFER: dict[str, Any] = {
    "golem.runtime.name": "wasmtime",
    "golem.inf.mem.gib": 1.5,
    "golem.inf.cpu.threads": 2,
    "golem.com.pricing.model": "linear",
    "golem.com.pricing.model.linear.coeffs": [0.0, 0.01, 0.0],
    "golem.com.usage.vector": ["golem.usage.duration_sec", "golem.usage.cpu_sec"],
}


@dataclass
class Node:
    where: Locations
    child: Child
    client: NodeClient | None = None

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.child.process.pid)


@dataclass
class Figures:
    nodes: int
    start_s: float
    peers: float
    propagation_99_s: float
    propagation_p50_s: float
    propagation_max_s: float
    seen_share: float
    late_from_ready_s: float
    late_from_start_s: float
    idle_cpu_percent: float
    idle_cpu_max_percent: float
    rss_mib: float


async def until_running(where: Locations, child: Child) -> dict[str, Any]:
    with trio.fail_after(READY_S):
        while True:
            if child.ended():
                raise RuntimeError(child.last_words()[-2000:])
            if where.running.exists():
                return dict(json.loads(where.running.read_text()))
            await trio.sleep(0.02)


async def start(stack: AsyncExitStack, directory: Path, name: str, *words: str) -> tuple[Node, dict[str, Any]]:
    where = Locations.find(directory / name)
    where.data.mkdir(parents=True)
    password = secrets.token_hex(8)
    create_keystore(where.keystore, NodeKey.generate(), password, light=True)
    write_private(where.password, password)
    command = [sys.executable, "-m", "golemp2p.cli.main", *words, "--data-dir", str(where.data)]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("GOLEMP2P_")} | {
        "GOLEMP2P_LOG__LEVEL": "warning",
        "GOLEMP2P_NET__CONNECTIONS_PER_IP": "1000",  # all of them have one
    }
    child = await stack.enter_async_context(open_child(command, env=env, log=where.data / "log"))
    return Node(where, child), await until_running(where, child)


async def start_node(stack: AsyncExitStack, directory: Path, name: str, profile: Path) -> Node:
    node, facts = await start(stack, directory, name, "run", "--network", str(profile), "--rest", "127.0.0.1:0")
    node.client = await stack.enter_async_context(connect(facts["rest_url"], node.where.app_key.read_text().strip()))
    return node


def client_of(node: Node) -> NodeClient:
    assert node.client is not None
    return node.client


@asynccontextmanager
async def network(count: int) -> AsyncIterator[tuple[list[Node], Path, Path, AsyncExitStack]]:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="golemp2p-scale-")))
        base, joined = directory / "net.toml", directory / "join.toml"
        write_private(base, create_profile("scale", private=False, bootstrap=[], subnet="public", payment=[]).to_toml())
        await start(stack, directory, "boot", "bootnode", "--network", str(base), "--profile", str(joined))
        nodes: list[Node] = []
        limiter = trio.CapacityLimiter(STARTS_AT_ONCE)

        async def one(number: int) -> None:
            async with limiter:
                nodes.append(await start_node(stack, directory, f"n{number}", joined))

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, number)
        try:
            yield nodes, directory, joined, stack
        finally:
            for node in nodes:
                node.child.process.terminate()


async def heard(node: Node) -> dict[str, float]:
    return {offer.offer_id: offer.heard.timestamp() for offer in await client_of(node).node.offers(limit=1000)}


async def measure(count: int, *, quick: bool = False) -> Figures:
    idle_s, offers, pause_s = (2.0, 3, 0.3) if quick else (IDLE_S, OFFERS, 1.0)
    began = time.monotonic()
    async with network(count) as (nodes, directory, profile, stack):
        start_s = time.monotonic() - began
        await trio.sleep(3 if quick else 10)  # the mesh forms
        before = [sum(node.process.cpu_times()[:2]) for node in nodes]
        await trio.sleep(idle_s)
        idle = [100 * (sum(n.process.cpu_times()[:2]) - b) / idle_s for n, b in zip(nodes, before, strict=True)]
        peers = statistics.mean([(await client_of(node).node.status()).peers for node in nodes])
        published: dict[str, float] = {}
        for publisher in random.choices(nodes, k=offers):
            offer = await client_of(publisher).market.subscribe("offers", OFFER, "()")
            published[offer] = time.time()
            await trio.sleep(pause_s)
        await trio.sleep(5 * pause_s)
        delays = []
        for node in nodes:
            delays += [max(0.0, at - published[offer]) for offer, at in (await heard(node)).items()]
        delays.sort()
        everywhere = len(nodes) * offers
        missing = [float("inf")] * (everywhere - len(delays))
        ranked = [*delays, *missing]
        started = time.monotonic()
        late = await start_node(stack, directory, "late", profile)
        ready = time.monotonic()
        with trio.fail_after(60):
            while len(await heard(late)) < offers:  # noqa: ASYNC110 - another process's news
                await trio.sleep(0.02)
        done = time.monotonic()
        late.child.process.terminate()
        return Figures(
            nodes=count,
            start_s=start_s,
            peers=peers,
            propagation_99_s=ranked[int(0.99 * everywhere) - 1],
            propagation_p50_s=ranked[everywhere // 2],
            propagation_max_s=ranked[-1],
            seen_share=len(delays) / everywhere,
            late_from_ready_s=done - ready,
            late_from_start_s=done - started,
            idle_cpu_percent=statistics.mean(idle),
            idle_cpu_max_percent=max(idle),
            rss_mib=statistics.mean(node.process.memory_info().rss for node in nodes) / 2**20,
        )


def simulated(count: int) -> dict[str, Any]:
    """The simulator's first-offers at the same size."""
    command = ["scripts/simulate", "first-offers", "--nodes", str(count), "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900).stdout
    return dict(json.loads(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[20, 50])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="few offers, a short idle time")
    parser.add_argument("--simulated", action="store_true")
    args = parser.parse_args()
    for count in args.sizes:
        figures = trio.run(partial(measure, count, quick=args.quick))
        if args.json:
            print(json.dumps(asdict(figures)), flush=True)
        else:
            print(
                f"{count:4} nodes: offer to 99 % in {figures.propagation_99_s * 1000:.0f} ms (p50 "
                f"{figures.propagation_p50_s * 1000:.0f}, last {figures.propagation_max_s * 1000:.0f}; seen "
                f"{100 * figures.seen_share:.1f} %) | late joiner {figures.late_from_ready_s:.2f} s after it is ready, "
                f"{figures.late_from_start_s:.2f} s after its start | idle CPU {figures.idle_cpu_percent:.2f} % "
                f"(highest {figures.idle_cpu_max_percent:.2f}) | {figures.rss_mib:.0f} MiB | {figures.peers:.1f} peers "
                f"| started in {figures.start_s:.0f} s",
                flush=True,
            )
        if args.simulated:
            told = simulated(count)
            spread, traffic = told["propagation_s"], told["per_node_hour"]
            print(
                f"{'':4} simulated:  offer to 99 % in {1000 * spread['p99']:.0f} ms (p50 {1000 * spread['p50']:.0f}, "
                f"last {1000 * spread['max']:.0f}; seen {100 * told['last']['known_share']:.1f} %) | "
                f"{sum(m for m, _ in traffic.values()):,.0f} messages and "
                f"{sum(b for _, b in traffic.values()) / 1e6:.1f} MB for a node and hour | "
                f"{told['speed']:.0f} times as fast",
                flush=True,
            )


if __name__ == "__main__":
    main()
