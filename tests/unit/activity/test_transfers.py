"""Task packages and usage vectors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from golemp2p import limits
from golemp2p.activity.transfers import Package, parse_package
from golemp2p.activity.usage import limits_of, usage_vector
from golemp2p.core.agreement import Agreement, AgreementState, Role
from golemp2p.core.ids import AgreementId, PeerId, SubscriptionId
from golemp2p.errors import UsageError
from golemp2p.runtimes.base import Limits, Usage

AGREEMENT = Agreement(
    id=AgreementId("0" * 64),
    role=Role.PROVIDER,
    requestor=PeerId("r"),
    provider=PeerId("p"),
    demand_id=SubscriptionId("d"),
    offer_id=SubscriptionId("o"),
    demand={},
    offer={},
    demand_constraints="()",
    offer_constraints="()",
    content=b"",
    created_at=0.0,
    valid_to=1.0,
    state=AgreementState.APPROVED,
)


@pytest.mark.parametrize("digits", [56, 64, 96, 128])
def test_a_package_names_its_hash(digits: int) -> None:
    bits = digits * 4
    for prefix in ("hash:sha3:", "hash://sha3:", "hash:sha3:0x"):
        found = parse_package(f"{prefix}{'A' * digits}:http://x/y:z")
        assert found == Package(f"sha3-{bits}", "a" * digits, "http://x/y:z")


def test_a_bare_url_is_a_package_without_hash() -> None:
    assert parse_package("gftp://0x1/2") == Package("", "", "gftp://0x1/2")


@pytest.mark.parametrize("text", ["", "nonsense", "hash:sha3:abc:u", "hash:md5:abc:u", "hash:sha3:zz:u"])
def test_a_package_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_package(text)


def test_usage_is_in_the_order_of_the_agreement() -> None:
    names = ["golem.usage.fuel", "golem.usage.duration_sec", "custom", "golem.usage.cpu_sec"]
    agreement = replace(AGREEMENT, offer={"golem.com.usage.vector": list(names)})
    used = Usage(cpu_s=2.0, fuel=3_500_000_000)
    assert usage_vector(agreement, used, 10.0) == (3.5, 10.0, 0.0, 2.0)
    assert usage_vector(AGREEMENT, used, 10.0) == ()


def test_limits_come_from_the_offer_and_the_demand() -> None:
    agreement = replace(
        AGREEMENT,
        offer={"golem.inf.mem.gib": 0.5, "golem.inf.storage.gib": 2},
        demand={"golem.!exp.golemp2p.limit.wall_sec": 30, "golem.!exp.golemp2p.limit.fuel": 1e9},
    )
    gib = 2**30
    assert limits_of(agreement) == Limits(memory_bytes=gib // 2, storage_bytes=2 * gib, wall_s=30.0, fuel=1_000_000_000)
    assert limits_of(replace(AGREEMENT, offer={"golem.inf.mem.gib": "lots"})) == Limits()


def test_a_demand_may_ask_for_less_than_offered_and_never_gets_more() -> None:
    offer = {"golem.inf.mem.gib": 4, "golem.inf.cpu.threads": 4, "golem.inf.storage.gib": 2.0}

    def asked(**wanted: float) -> Limits:
        demand = {f"golem.!exp.golemp2p.limit.{name}": value for name, value in wanted.items()}
        return limits_of(replace(AGREEMENT, offer=dict(offer), demand={**demand}))

    less = asked(memory_gib=1, cpus=0.5, storage_gib=0.5, processes=20)
    assert less == Limits(memory_bytes=2**30, storage_bytes=2**29, cpus=0.5, processes=20)
    more = asked(memory_gib=64, cpus=64, storage_gib=64, processes=10**6)
    assert (more.memory_bytes, more.storage_bytes, more.cpus) == (4 * 2**30, 2 * 2**30, 4.0)
    assert more.processes == limits.MAX_GUEST_PROCESSES


NAMES = ("wall_sec", "cpu_sec", "fuel", "cpus", "memory_gib", "storage_gib", "processes")


@pytest.mark.parametrize("odd", [10**400, 1e308, float("inf"), float("nan"), -1, True])
def test_limits_that_are_no_sensible_numbers_are_none(odd: float) -> None:
    names = ("golem.inf.mem.gib", "golem.inf.storage.gib")
    demand = {f"golem.!exp.golemp2p.limit.{name}": odd for name in NAMES}
    assert limits_of(replace(AGREEMENT, offer=dict.fromkeys(names, odd), demand={**demand})) == Limits()
