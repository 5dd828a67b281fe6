"""Shipped scenarios at small sizes: every safety property holds, and the honest get what they came for."""

from __future__ import annotations

import pytest

from golemp2p.sim.scenario import load
from golemp2p.sim.world import Result, World, simulate

# (scenario, nodes, seed): seconds of CPU time each.
RUNS = [
    ("first-offers", 12, 1),
    ("partition-heal", 12, 2),
    ("provider-crash", 10, 3),
    ("requestor-crash", 8, 4),
    ("free-riders", 10, 5),
    ("chain-outage", 8, 6),
    ("offer-spam", 14, 7),
    ("tight-budget", 8, 8),
]


def _run(name: str, nodes: int, seed: int) -> Result:
    return simulate(load(name).scaled(nodes).model_copy(update={"seed": seed}))


@pytest.mark.parametrize(("name", "nodes", "seed"), RUNS, ids=[name for name, _, _ in RUNS])
def test_all_properties_hold(name: str, nodes: int, seed: int) -> None:
    result = _run(name, nodes, seed)
    assert result.problems == [], f"again with: scripts/simulate {name} --nodes {nodes} --seed {seed}"
    assert result.measures.paid > 0
    assert result.counts["task"] > 0
    if name == "free-riders":  # served no longer than their providers wait for an acceptance
        assert result.counts["provider-ends"] > 0


def test_a_service_that_pays_twice_is_found_out() -> None:
    def prepare(world: World) -> None:
        send = world.chain.execute

        def twice(sender, call):  # type: ignore[no-untyped-def] # as FakeChain.execute
            legs, events = send(sender, call)
            return [*legs, *send(sender, call)[0]], events

        world.chain.execute = twice  # type: ignore[method-assign] # the planted fault

    result = simulate(load("first-offers").scaled(8), prepare=prepare)
    assert any("paid twice or too much" in problem for problem in result.problems), result.problems
