"""The simulator: virtual seconds per second of CPU time, memory, messages and bytes per node and hour, over sizes.

Steady state of a network of providers with one offer each (their announcements spread over RAMP_S), by gossip and by
rendezvous. Each size is a process of its own. Usage: sim.py [SIZE ...]; 10,000 by gossip alone is left out: each node
would know ten thousand offers, 10^8 in one process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

RAMP_S = 900.0
RUN_S = {100: 1_800.0, 300: 1_500.0, 1_000: 1_020.0, 3_000: 960.0, 10_000: 930.0}
GOSSIP_MOST = 1_000
SIZES = (100, 300, 1_000, 3_000, 10_000)


def _one(nodes: int, spread: str) -> dict[str, float]:
    """In a process of its own."""
    from golemp2p.sim.measures import memory_bytes
    from golemp2p.sim.scenario import ProvidersPart, Scenario
    from golemp2p.sim.world import simulate

    group = ProvidersPart(count=nodes, start_s=(10.0, 10.0 + RAMP_S), join_s=(0.0, 10.0))
    until_s = RUN_S.get(nodes, 960.0)
    scenario = Scenario.model_validate(
        {"name": "bench", "until_s": until_s, "spread": spread, "sample_s": 30.0, "degree": 5, "providers": [group]}
    )
    result = simulate(scenario)
    totals = result.measures.per_node_hour()
    gossip = totals.get("gossip", (0.0, 0.0))
    return {
        "nodes": nodes,
        "speed": result.speed,
        "cpu_s": result.cpu_s,
        "memory_mib": memory_bytes() / 2**20,
        "messages": sum(n for n, _ in totals.values()),
        "megabytes": sum(b for _, b in totals.values()) / 1e6,
        "gossip_megabytes": gossip[1] / 1e6,
        "p99_s": result.measures.latency(0.99),
        "problems": len(result.problems),
    }


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[2] in ("gossip", "rendezvous"):
        print(json.dumps(_one(int(sys.argv[1]), sys.argv[2])))
        return
    sizes = [int(word) for word in sys.argv[1:]] or list(SIZES)
    print(f"{'nodes':>6} {'by':>10} {'speed':>8} {'MiB':>7} {'msg/node/h':>11} {'MB/node/h':>10} {'p99 s':>6}")
    for spread in ("gossip", "rendezvous"):
        for nodes in sizes:
            if spread == "gossip" and nodes > GOSSIP_MOST:
                continue
            done = subprocess.run(
                [sys.executable, __file__, str(nodes), spread],
                env={**os.environ, "PYTHONHASHSEED": "0"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                print(f"{nodes:>6} {spread:>10} failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            r = json.loads(done.stdout)
            print(
                f"{r['nodes']:>6} {spread:>10} {r['speed']:>8.1f} {r['memory_mib']:>7.0f} {r['messages']:>11,.0f}"
                f" {r['megabytes']:>10.2f} {r['p99_s']:>6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
