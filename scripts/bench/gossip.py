"""What a gossip message costs a node: real processes, real libp2p, ours beside plain py-libp2p in one run.

``python scripts/bench/gossip.py [--nodes 8] [--rate 16] [--seconds 10] [--profile]``: CPU seconds of each node while
messages flow, less those of an equal time of silence, by the messages that the node received.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from typing import Any

import structlog
import trio

TOPIC = "bench"
PLAIN = frozenset("hlk")  # what starts quickly, logs quietly and stays off other DHTs; nothing that a message meets


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def node(kind: str, profile: str) -> None:
    """Reads commands on stdin, answers on stdout."""
    from golemp2p import limits
    from golemp2p.identity.keys import NodeKey
    from golemp2p.net.config import NetConfig
    from golemp2p.net.libp2p import patches
    from golemp2p.net.libp2p.host import open_libp2p_network
    from golemp2p.net.port import GossipMessage, Verdict

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    limits.__dict__["GOSSIP_PER_ORIGIN_PER_S"] = 1e6
    patches.apply(patches.ALL if kind == "ours" else PLAIN)
    seen = 0

    def validate(_message: GossipMessage) -> Verdict:
        nonlocal seen
        seen += 1
        return Verdict.ACCEPT

    async def take(_message: GossipMessage) -> None: ...

    profiler: Any = None
    async with open_libp2p_network(NodeKey.generate(), NetConfig(dht=False)) as network:
        await network.subscribe(TOPIC, validate, take)
        print(network.addresses()[0], flush=True)
        commands = trio.wrap_file(os.fdopen(os.dup(0)))
        while line := await commands.readline():
            match line.split():
                case ["connect", address]:
                    await network.connect(address)
                case ["publish", rate, seconds]:
                    if profile and profiler is None:
                        import cProfile

                        profiler = cProfile.Profile()
                        profiler.enable()
                    until = trio.current_time() + float(seconds)
                    while trio.current_time() < until:
                        await network.publish(TOPIC, os.urandom(500))
                        await trio.sleep(1 / float(rate))
                case ["report"]:
                    pass
                case ["end"]:
                    if profiler is not None:
                        profiler.disable()
                        profiler.dump_stats(profile)
                    break
            print(cpu_s(), seen, flush=True)


class Process:
    def __init__(self, kind: str, profile: str) -> None:
        command = [sys.executable, __file__, "--node", kind, "--profile", profile]
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.address = self.read()

    def read(self) -> str:
        assert self.child.stdout is not None
        return self.child.stdout.readline().strip()

    def tell(self, *words: object) -> None:
        assert self.child.stdin is not None
        print(*words, file=self.child.stdin, flush=True)

    def ask(self, *words: object) -> tuple[float, int]:
        self.tell(*words)
        cpu, seen = self.read().split()
        return float(cpu), int(seen)


def run(kind: str, nodes: int, rate: float, seconds: float, profile: str) -> float:
    """CPU milliseconds of a node for a message."""
    processes = [Process(kind, profile if i == 0 else "") for i in range(nodes)]
    try:
        for i, one in enumerate(processes):
            for step in (1, 2, 3):  # each has about six neighbours
                if nodes > 2 * step:
                    one.ask("connect", processes[(i + step) % nodes].address)
        time.sleep(4)  # the mesh forms at heartbeats of 1 s
        before = [one.ask("report") for one in processes]
        time.sleep(seconds)
        silent = [one.ask("report") for one in processes]
        for one in processes:
            one.tell("publish", rate / nodes, seconds)
        after = [tuple(map(float, one.read().split())) for one in processes]
        time.sleep(1)
        after = [one.ask("report") for one in processes]
        idle = [s[0] - b[0] for s, b in zip(silent, before, strict=True)]
        busy = [a[0] - s[0] for a, s in zip(after, silent, strict=True)]
        seen = [a[1] - s[1] for a, s in zip(after, silent, strict=True)]
        cost = 1000 * (sum(busy) - sum(idle)) / sum(seen)
        print(
            f"{kind:6} idle {100 * sum(idle) / nodes / seconds:4.2f} % of a core | {sum(seen) / nodes / seconds:5.1f} "
            f"messages/s to each node | {cost:5.2f} ms CPU for a message and node"
        )
        return cost
    finally:
        for one in processes:
            one.tell("end")
        for one in processes:
            one.child.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--rate", type=float, default=16.0, help="messages in a second, of all nodes")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--node", default="", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="")
    parser.add_argument("--profile", default="", help="file for cProfile's statistics of one node")
    args = parser.parse_args()
    if args.node:
        trio.run(node, args.node, args.profile)
        return
    costs = {
        kind: run(kind, args.nodes, args.rate, args.seconds, args.profile)
        for kind in ("plain", "ours")
        if args.only in ("", kind)
    }
    if len(costs) == 2:
        print(f"ours / plain: {costs['ours'] / costs['plain']:.2f} (goal: 0.5)")


if __name__ == "__main__":
    main()
