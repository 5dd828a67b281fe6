"""The summary of a run: a table for people, an object for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from golemp2p.core.money import Amount, format_amount
from golemp2p.sim.measures import memory_bytes
from golemp2p.sim.world import Result


def as_json(result: Result) -> dict[str, Any]:
    measures = result.measures
    last = measures.samples[-1] if measures.samples else None
    return {
        "scenario": result.scenario.name,
        "seed": result.scenario.seed,
        "digest": result.digest,
        "nodes": result.nodes,
        "virtual_s": result.virtual_s,
        "wall_s": round(result.wall_s, 2),
        "cpu_s": round(result.cpu_s, 2),
        "speed": round(result.speed, 1),
        "memory_bytes": memory_bytes(),
        "problems": result.problems,
        "last": None if last is None else asdict(last),
        "propagation_s": {name: round(measures.latency(share), 3) for name, share in SHARES},
        "per_node_hour": {kind: [round(n, 1), round(b)] for kind, (n, b) in measures.per_node_hour().items()},
        "calls": {f"{method} {outcome}": n for (method, outcome), n in sorted(measures.calls.items())},
        "events": dict(sorted(result.counts.items())),
    }


SHARES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))


def print_summary(result: Result, console: Console) -> None:
    facts = as_json(result)
    table = Table(title=f"{facts['scenario']}, seed {facts['seed']}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    last = facts["last"] or {}
    messages = sum(n for n, _ in facts["per_node_hour"].values())
    n_bytes = sum(b for _, b in facts["per_node_hour"].values())
    rows = [
        ("nodes", f"{facts['nodes']}"),
        (
            "virtual time",
            f"{facts['virtual_s']:.0f} s in {facts['cpu_s']:.1f} s of CPU time, {facts['speed']:.0f} times as fast",
        ),
        ("memory of the process", f"{facts['memory_bytes'] / 2**20:.0f} MiB"),
        ("live offers, known by", f"{last.get('live_offers', 0)}, {last.get('known_share', 0):.1%} on average"),
        ("propagation p50, p99", f"{facts['propagation_s']['p50']:.2f} s, {facts['propagation_s']['p99']:.2f} s"),
        ("agreements", f"{last.get('agreements', 0)}"),
        ("tasks done", f"{last.get('tasks', 0)}"),
        ("paid", f"{format_amount(Amount(last.get('paid', 0)))} GLM"),
        ("messages per node and hour", f"{messages:,.0f}"),
        ("bytes per node and hour", f"{n_bytes:,.0f}"),
        *((f"  {kind}", f"{n:,.0f} / {b:,.0f}") for kind, (n, b) in facts["per_node_hour"].items()),
        ("digest", facts["digest"][:32]),
    ]
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    for problem in facts["problems"]:
        console.print(f"[red]broken:[/red] {problem}", highlight=False)
    if not facts["problems"]:
        console.print("[green]all properties hold[/green]")
