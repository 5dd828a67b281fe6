"""Lists of agreements and the sessions of both sides."""

from __future__ import annotations

from datetime import UTC, datetime

import trio
from trio.testing import MockClock

from golemp2p.net.memory import MemoryHub
from tests.unit.market.conftest import NOW, link

from .conftest import RestNode, open_rest
from .test_market import API, negotiate, ok, valid_to


async def approved(requestor: RestNode, provider: RestNode, tag: int) -> str:
    _, offer, proposal = await negotiate(requestor, provider, tag)
    body = {"proposalId": proposal, "validTo": valid_to()}
    agreement = str(await ok(await requestor.http.post(f"{API}/agreements", json=body)))
    at = f"{API}/agreements/{agreement}"
    await ok(await requestor.http.post(f"{at}/confirm?appSessionId=r{tag}"), 204)
    await ok(await provider.http.get(f"{API}/offers/{offer}/events?timeout=5"))
    await ok(await provider.http.post(f"{at}/approve?appSessionId=p{tag}"), 204)
    return agreement


async def test_agreements_are_listed_by_state_session_and_time_the_newest_first(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_rest(hub) as requestor, open_rest(hub) as provider:
        await link(requestor.node, provider.node)
        made = []
        for tag in (1, 2, 3):
            made.append(await approved(requestor, provider, tag))
            await trio.sleep(60)
        await ok(await requestor.http.post(f"{API}/agreements/{made[0]}/terminate", json={"message": "done"}))

        async def listed(node: RestNode, query: str = "") -> list[str]:
            return [entry["id"] for entry in await ok(await node.http.get(f"{API}/agreements?{query}"))]

        assert await listed(requestor) == made[::-1]
        (entry,) = await ok(await requestor.http.get(f"{API}/agreements?state=Terminated&unknown=1"))
        assert (entry["id"], entry["role"], entry["state"]) == (made[0], "Requestor", "Terminated")
        assert entry["timestamp"].endswith("Z")
        assert entry["approvedDate"].endswith("Z")
        assert await listed(requestor, "state=approved") == [made[2], made[1]]
        assert await listed(requestor, "appSessionId=r2") == [made[1]]
        assert await listed(provider, "appSessionId=p3") == [made[2]]
        moment = datetime.fromtimestamp(NOW + 50, UTC).isoformat()
        for suffix in ("Date", "Timestamp"):
            assert await listed(requestor, f"after{suffix}={moment}") == [made[2], made[1]]
            assert await listed(requestor, f"before{suffix}={moment}") == [made[0]]
        assert (await requestor.http.get(f"{API}/agreements?state=Odd")).status_code == 400


async def test_each_side_hears_of_its_own_session_only(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_rest(hub) as requestor, open_rest(hub) as provider:
        await link(requestor.node, provider.node)
        first, second = await approved(requestor, provider, 1), await approved(requestor, provider, 2)
        for node, session in ((requestor, "r"), (provider, "p")):
            events = f"{API}/agreementEvents?timeout=0"
            assert [e["agreementId"] for e in await ok(await node.http.get(events))] == [first, second]
            (own,) = await ok(await node.http.get(f"{events}&appSessionId={session}2"))
            assert own["agreementId"] == second
            assert await ok(await node.http.get(f"{events}&appSessionId=other")) == []


async def test_a_question_without_an_answer_is_answered_as_soon_as_there_is_one(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    """The node remembers that there was none, but no longer than until there is news."""
    async with open_rest(hub) as requestor, open_rest(hub) as provider:
        await link(requestor.node, provider.node)
        events = f"{API}/agreementEvents?timeout=1"
        for _ in range(3):
            assert await ok(await requestor.http.get(events)) == []
        made = await approved(requestor, provider, 1)
        assert [e["agreementId"] for e in await ok(await requestor.http.get(events))] == [made]


async def test_an_agreement_is_shown_as_it_is_now(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_rest(hub) as requestor, open_rest(hub) as provider:
        await link(requestor.node, provider.node)
        at = f"{API}/agreements/{await approved(requestor, provider, 1)}"
        for _ in range(2):
            assert (await ok(await requestor.http.get(at)))["state"] == "Approved"
        await ok(await provider.http.post(f"{at}/terminate", json={"message": "x", "golem.provider.code": "Shutdown"}))
        await trio.sleep(1)
        assert (await ok(await requestor.http.get(at)))["state"] == "Terminated"
        reason = await ok(await requestor.http.get(f"{at}/terminate/reason"))
        assert reason == {"message": "x", "golem.provider.code": "Shutdown"}
