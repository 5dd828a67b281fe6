"""Prices, shares and explanations."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.core.money import Amount, parse_amount
from golemp2p.core.properties import Properties
from golemp2p.sdk.contracts import Contract, Meter, shares
from golemp2p.sdk.offers import LinearPrice, implausible, threads_of, why_no_offers
from golemp2p.sdk.script import Script
from golemp2p.wire.rest.node import LastAttempt, OfferVerdict

OFFER: Properties = {
    "golem.com.pricing.model": "linear",
    "golem.com.usage.vector": ["golem.usage.duration_sec", "golem.usage.cpu_sec"],
    "golem.com.pricing.model.linear.coeffs": [0.001, 0.002, 0.5],
}


def price() -> LinearPrice:
    found = LinearPrice.of(OFFER)
    assert found is not None
    return found


def test_a_typical_task_ranks_by_start_price_and_both_rates() -> None:
    assert price().rank == parse_amount("0.68")  # 0.5 + 60 * 0.003
    assert price().least == parse_amount("0.53")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("golem.com.pricing.model", "auction"),
        ("golem.com.pricing.model.linear.coeffs", [0.1]),
        ("golem.com.pricing.model.linear.coeffs", [0.1, -0.1, 0.0]),
        ("golem.com.pricing.model.linear.coeffs", [0.1, "x", 0.0]),
        ("golem.com.usage.vector", ["golem.usage.duration_sec", "golem.usage.magic"]),
    ],
)
def test_an_offer_whose_cost_cannot_be_foreseen_has_no_price(name: str, value: str | list[str | float]) -> None:
    assert LinearPrice.of({**OFFER, name: value}) is None


def test_a_counter_without_a_price_does_no_harm() -> None:
    offer: Properties = {
        **OFFER,
        "golem.com.usage.vector": ["golem.usage.duration_sec", "golem.usage.magic"],
        "golem.com.pricing.model.linear.coeffs": [0.001, 0.0, 0.5],
    }
    assert LinearPrice.of(offer) is not None


def test_disk_and_fuel_have_prices_that_can_be_foreseen() -> None:
    counters = ["golem.usage.duration_sec", "golem.usage.cpu_sec", "golem.usage.storage_gib", "golem.usage.fuel"]
    offer: Properties = {
        **OFFER,
        "golem.com.usage.vector": [*counters],
        "golem.com.pricing.model.linear.coeffs": [0.0, 0.0, 2.0, 0.5, 0.0],
        "golem.inf.storage.gib": 3.0,
    }
    found = LinearPrice.of(offer)
    assert found is not None
    assert found.cost([9.0, 9.0, 0.5, 4.0]) == parse_amount("3")
    assert found.cost_of_time(10.0, 1.0) == parse_amount("11")  # the whole disk, and all that a core can do
    assert not implausible(found, [1.0, 1.0, 3.0, 10.0], life_s=10.0, threads=1)
    assert "storage" in implausible(found, [1.0, 1.0, 3.1, 10.0], life_s=10.0, threads=1)
    assert "fuel" in implausible(found, [1.0, 1.0, 3.0, 101.0], life_s=10.0, threads=1)
    for size in ("big", True, float("nan"), 10**400, -1.0, None):
        assert LinearPrice.of({**offer, "golem.inf.storage.gib": size}) is None  # type: ignore[dict-item] # a stranger's


def test_usage_beyond_the_clock_is_implausible() -> None:
    assert not implausible(price(), [9.0, 15.0], life_s=10.0, threads=2)
    assert "duration_sec" in implausible(price(), [11.0, 1.0], life_s=10.0, threads=2)
    assert "cpu_sec" in implausible(price(), [9.0, 21.0], life_s=10.0, threads=2)
    assert "counters" in implausible(price(), [1.0], life_s=10.0, threads=2)


@given(st.integers(0, 10**30), st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_shares_add_up_to_the_bill(total: int, weights: list[float]) -> None:
    found = shares(Amount(total), weights)
    assert sum(found) == total
    assert len(found) == len(weights)


def test_what_is_owed_counts_cpu_time_that_was_not_heard_yet() -> None:
    contract = Contract("a", "0x1", "p", price(), 1.0, 0.0)
    contract.meters["activity"] = Meter(began_s=100.0, cpu_s=1.0)
    assert contract.owed(102.0) == parse_amount("0.506")  # all of the two seconds may have been CPU time
    assert contract.owed(120.0) == parse_amount("0.532")  # 1 heard + 5 s of heartbeat


def verdict(result: str, *clauses: str) -> OfferVerdict:
    return OfferVerdict(
        offer_id="o",
        provider_id="0x",
        provider_name="p",
        result=result,
        demand_clauses=list(clauses),
        offer_clauses=[],
        unresolved=[],
    )


def test_no_offers_are_explained_by_the_clause_that_fails_most() -> None:
    memory, cores = "(golem.inf.mem.gib>=64)", "(golem.inf.cpu.cores>=9)"
    told = why_no_offers([verdict("false", memory), verdict("false", memory, cores)], {}, waited_s=3)
    assert told == f"2 offers seen, none matches: {memory} fails for 2 of them, {cores} fails for 1 of them"
    assert why_no_offers([], {}, waited_s=3) == "no offers were seen within 3 s"
    refused = why_no_offers([verdict("true")], {"p": "it refused: full"}, waited_s=3)
    assert refused == "1 offer seen, 1 match, but no agreement came about: p: it refused: full"
    full = LastAttempt(at=datetime.now(UTC), cause="refused", code="NoCapacity", message="no capacity left")
    others = verdict("true").model_copy(update={"cause": "refused", "last_attempt": full})
    assert "p: refused: no capacity left" in why_no_offers([others], {}, waited_s=3)
    busy = verdict("true").model_copy(update={"cause": "withdrawn"})
    assert "2 offers would match, but withdrawn since" in why_no_offers([busy, busy], {}, waited_s=3)


def test_a_script_is_cut_after_a_run_that_may_fail() -> None:
    script = Script()
    script.upload_bytes(b"x", "in")
    script.run("a", check=False)
    script.download_bytes("out")
    assert [len(batch) for batch in script.batches()] == [2, 1]


@pytest.mark.parametrize("odd", [10**400, 1e308, float("inf"), float("nan"), True])
def test_a_price_that_no_price_is_makes_an_offer_without_price(odd: float) -> None:
    for position in range(3):
        coeffs = [0.001, 0.002, 0.5]
        coeffs[position] = odd
        assert LinearPrice.of({**OFFER, "golem.com.pricing.model.linear.coeffs": list(coeffs)}) is None


def test_usage_counters_that_are_no_names_make_an_offer_without_price() -> None:
    assert LinearPrice.of({**OFFER, "golem.com.usage.vector": [10**5000, "golem.usage.cpu_sec"]}) is None


def test_absurd_thread_counts_are_capped() -> None:
    for odd in (10**400, float("inf")):
        assert threads_of({"golem.inf.cpu.threads": odd}) == limits.SDK_MAX_THREADS
    assert threads_of({"golem.inf.cpu.threads": float("nan")}) == 1.0
