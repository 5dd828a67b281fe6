"""Why an offer does not suit: the cause that a person would name first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.core.constraints import Terms, Ternary, match
from golemp2p.core.explain import Cause, judge
from golemp2p.core.properties import Properties

OFFER: Properties = {
    "golem.runtime.name": "wasmtime",
    "golem.inf.mem.gib": 1.5,
    "golem.!exp.golemp2p.isolation": "sandbox",
    "golem.com.pricing.model": "linear",
    "golem.com.payment.platform.erc20-amoy-tglm.address": "0x1",
    "golem.node.debug.subnet": "public",
    "golem.node.id.name": "one",
}
NAMES = sorted(OFFER)


@pytest.mark.parametrize(
    ("constraints", "cause", "has"),
    [
        ("(golem.runtime.name=wasmtime)", Cause.NONE, ()),
        ("(golem.inf.mem.gib>=64)", Cause.CAPACITY, ("golem.inf.mem.gib = 1.5",)),
        ("(golem.inf.storage.gib>=1)", Cause.CAPACITY, ("golem.inf.storage.gib is not said",)),
        ("(golem.!exp.golemp2p.isolation=vm)", Cause.ISOLATION, ("golem.!exp.golemp2p.isolation = sandbox",)),
        ("(golem.com.pricing.model=flat)", Cause.PRICE, ("golem.com.pricing.model = linear",)),
        (
            "(golem.com.payment.platform.erc20-polygon-glm.address=*)",
            Cause.PAYMENT,
            ("golem.com.payment.platform.erc20-polygon-glm.address is not said",),
        ),
        ("(golem.node.debug.subnet=gpu)", Cause.SUBNET, ("golem.node.debug.subnet = public",)),
        ("(golem.node.id.name=two)", Cause.CLAUSE, ("golem.node.id.name = one",)),
        (
            "(&(golem.inf.mem.gib>=64)(golem.runtime.name=vm))",
            Cause.RUNTIME,
            ("golem.inf.mem.gib = 1.5", "golem.runtime.name = wasmtime"),
        ),
    ],
    ids=range(9),
)
def test_the_cause_of_a_failed_clause(constraints: str, cause: Cause, has: tuple[str, ...]) -> None:
    found = judge(Terms({}, constraints), Terms(OFFER, "()"))
    assert (found.cause, found.has) == (cause, has)


def test_a_rule_of_the_provider_is_its_own_cause() -> None:
    found = judge(Terms({"a": 1}, "()"), Terms(OFFER, "(a>1)"))
    assert (found.cause, found.offer.clauses, found.has) == (Cause.PROVIDER_RULE, ("(a>1)",), ("a = 1",))


def test_a_long_foreign_value_is_shortened() -> None:
    found = judge(Terms({}, "(golem.node.id.name=two)"), Terms({"golem.node.id.name": "x" * 10_000}, "()"))
    assert len(found.has[0]) < 120


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["=", ">=", "<"]), st.sampled_from(["1", "x", "*"]))),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from([1, 2.5, "x", "public"])),
)
def test_only_what_matches_has_no_cause(clauses: list[tuple[str, str, str]], properties: Properties) -> None:
    demand = Terms({}, f"(&{''.join(f'({name}{op}{value})' for name, op, value in clauses)})" if clauses else "()")
    offer = Terms(properties, "()")
    found = judge(demand, offer)
    assert (found.cause is Cause.NONE) == (match(demand, offer) is Ternary.TRUE) == (found.result is Ternary.TRUE)
