from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.core.agreement import CHOSEN_PLATFORM
from golemp2p.core.constraints import Ternary, evaluate, parse
from golemp2p.core.manifest import PAYLOAD, OutboundRule
from golemp2p.core.properties import Properties
from golemp2p.provider.negotiator import EXPIRATION, MAX_LIFE_S, Refusal, answer
from golemp2p.provider.offer import ACCEPT_TIMEOUT, NOTE_INTERVAL, PAYMENT_TIMEOUT, ProviderTerms, offer_properties
from golemp2p.wire.rest.node import RuntimeInfo

NOW = 1_800_000_000.0
PLATFORM = "erc20-local-tglm"
PAYEE = f"golem.com.payment.platform.{PLATFORM}.address"
OFFER: Properties = {PAYEE: "0xp", ACCEPT_TIMEOUT: 240, NOTE_INTERVAL: 120, PAYMENT_TIMEOUT: 120}
DEMAND: Properties = {EXPIRATION: (NOW + 600) * 1000, CHOSEN_PLATFORM: PLATFORM, PAYEE: "0xr"}


def test_a_demand_that_asks_for_nothing_special_gets_the_offer() -> None:
    assert answer(OFFER, DEMAND, issuer="0xR", now=NOW) == OFFER


def test_terms_within_the_limits_are_taken_over() -> None:
    counter = answer(OFFER, {**DEMAND, ACCEPT_TIMEOUT: 30, NOTE_INTERVAL: 60.0}, issuer="0xR", now=NOW)
    assert counter == {**OFFER, ACCEPT_TIMEOUT: 30, NOTE_INTERVAL: 60.0}


@pytest.mark.parametrize(
    ("whitelist", "code"), [((), "OutboundNotAllowed"), (("b.org",), "OutboundNotAllowed"), (("a.org",), None)]
)
def test_a_manifest_beyond_the_owners_rule_is_refused_with_the_host(
    whitelist: tuple[str, ...], code: str | None
) -> None:
    document = {"compManifest": {"net": {"inet": {"out": {"urls": ["https://a.org"]}}}}}
    found = answer(
        OFFER, {**DEMAND, PAYLOAD: json.dumps(document)}, issuer="0xR", now=NOW, outbound=OutboundRule(whitelist)
    )
    if code is None:
        assert found == OFFER
    else:
        assert isinstance(found, Refusal)
        assert found.code == code
        assert found.message


def test_a_manifest_that_is_none_is_refused() -> None:
    found = answer(OFFER, {**DEMAND, PAYLOAD: "garbage"}, issuer="0xR", now=NOW)
    assert isinstance(found, Refusal)
    assert found.code == "BadManifest"


@pytest.mark.parametrize("what", ["transfer", "deploy"])
def test_demands_that_want_progress_reported_are_served(what: str) -> None:
    runtime = RuntimeInfo(id="vm/docker", name="vm", version="1", properties={})
    offered = offer_properties(ProviderTerms(), runtime, [], subnet="public")
    assert evaluate(parse(f"(golem.activity.caps.{what}.report-progress=true)"), offered) is Ternary.TRUE


@pytest.mark.parametrize("whitelist", [(), ("a.org",)], ids=str)
def test_a_way_outside_is_offered_only_by_the_owners_wish(whitelist: tuple[str, ...]) -> None:
    runtime = RuntimeInfo(
        id="vm/docker", name="vm", version="1", properties={"golem.runtime.capabilities": ["vpn", "inet"]}
    )
    offered = offer_properties(ProviderTerms(outbound=whitelist), runtime, [], subnet="public")
    assert offered["golem.runtime.capabilities"] == (["vpn", "inet"] if whitelist else ["vpn"])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({EXPIRATION: None}, "NoExpiration"),
        ({EXPIRATION: True}, "NoExpiration"),
        ({EXPIRATION: "tomorrow"}, "NoExpiration"),
        ({EXPIRATION: NOW * 1000}, "ExpiresTooSoon"),
        ({EXPIRATION: (NOW + MAX_LIFE_S + 60) * 1000}, "ExpiresTooLate"),
        ({CHOSEN_PLATFORM: None, PAYEE: None}, "NoPlatform"),
        ({CHOSEN_PLATFORM: 7}, "NoPlatform"),
        ({CHOSEN_PLATFORM: "erc20-other-glm"}, "UnknownPlatform"),
        ({PAYEE: None}, "NoPayer"),
        ({PAYEE: "0xsomebody"}, "PayerNotIssuer"),
        ({PAYEE: 7}, "PayerNotIssuer"),
        ({EXPIRATION: 10**400}, "NoExpiration"),
        ({NOTE_INTERVAL: 901}, "TermOutOfRange"),
        ({NOTE_INTERVAL: 10**400}, "TermOutOfRange"),
        ({PAYMENT_TIMEOUT: 86_401}, "TermOutOfRange"),
        ({ACCEPT_TIMEOUT: 241}, "TermOutOfRange"),
        ({ACCEPT_TIMEOUT: 0}, "TermOutOfRange"),
        ({NOTE_INTERVAL: "often"}, "TermOutOfRange"),
        ({PAYMENT_TIMEOUT: True}, "TermOutOfRange"),
    ],
)
def test_what_is_not_served_is_refused_with_its_reason(changes: dict[str, Any], code: str) -> None:
    demand = {k: v for k, v in {**DEMAND, **changes}.items() if v is not None}
    found = answer(OFFER, demand, issuer="0xR", now=NOW)
    assert isinstance(found, Refusal)
    assert found.code == code
    assert found.reason()["golem.provider.code"] == code
    assert found.message


def test_a_demand_that_chooses_no_platform_gets_the_only_one_that_both_name() -> None:
    demand = {k: v for k, v in DEMAND.items() if k != CHOSEN_PLATFORM}
    assert answer(OFFER, demand, issuer="0xR", now=NOW) == OFFER


@given(
    st.dictionaries(
        st.sampled_from([EXPIRATION, CHOSEN_PLATFORM, PAYEE, ACCEPT_TIMEOUT, NOTE_INTERVAL, PAYMENT_TIMEOUT]),
        st.one_of(
            st.text(max_size=5),
            st.integers(),
            st.floats(allow_nan=False, allow_infinity=False),
            st.booleans(),
            st.just([1]),
        ),
    )
)
def test_any_demand_gets_an_answer(demand: Properties) -> None:
    assert isinstance(answer(OFFER, demand, issuer="0xR", now=NOW), dict | Refusal)
