from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import trio
from starlette.requests import ClientDisconnect, Request
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.api.longpoll import poll
from golemp2p.market.events import Notifier
from golemp2p.net.memory import MemoryHub
from tests.unit.market.conftest import DEMAND, NOW, OFFER, WANT, link

from .conftest import RestNode, open_rest

API = "/market-api/v1"
OFFER_BODY = {"properties": OFFER, "constraints": "()"}
DEMAND_BODY = {"properties": DEMAND, "constraints": WANT}


async def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


async def one_event(node: RestNode, kind: str, subscription: str) -> Any:
    (event,) = await ok(await node.http.get(f"{API}/{kind}/{subscription}/events?timeout=5&maxEvents=10"))
    return event


async def negotiate(requestor: RestNode, provider: RestNode, tag: int = 0) -> tuple[str, str, str]:
    """Demand, offer, and the provider's answer to the requestor's counter-proposal."""
    offer_body = {"properties": {**OFFER, "tag": tag}, "constraints": "()"}
    offer = await ok(await provider.http.post(f"{API}/offers", json=offer_body), 201)
    demand_body = {"properties": DEMAND, "constraints": f"(tag={tag})"}
    demand = await ok(await requestor.http.post(f"{API}/demands", json=demand_body), 201)
    initial = (await one_event(requestor, "demands", demand))["proposal"]
    path = f"{API}/demands/{demand}/proposals/{initial['proposalId']}"
    await ok(await requestor.http.post(path, json=DEMAND_BODY))
    seen = (await one_event(provider, "offers", offer))["proposal"]
    await ok(await provider.http.post(f"{API}/offers/{offer}/proposals/{seen['proposalId']}", json=offer_body))
    answer = (await one_event(requestor, "demands", demand))["proposal"]
    return demand, offer, answer["proposalId"]


def valid_to(seconds: float = 3600) -> str:
    return (datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds)).isoformat()


async def test_demand_to_terminated_agreement_in_yagnas_words(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_rest(hub) as requestor, open_rest(hub) as provider:
        await link(requestor.node, provider.node)
        demand, offer, proposal = await negotiate(requestor, provider)

        agreement = await ok(
            await requestor.http.post(f"{API}/agreements", json={"proposalId": proposal, "validTo": valid_to()})
        )
        path = f"{API}/agreements/{agreement}"
        assert len(agreement) == 64
        again = await requestor.http.post(f"{API}/agreements", json={"proposalId": proposal, "validTo": valid_to()})
        assert again.status_code == 409
        assert (await requestor.http.post(f"{path}/wait?timeout=1")).status_code == 400  # not confirmed
        assert (await requestor.http.post(f"{path}/terminate", json={"message": "no"})).status_code == 409
        assert (await requestor.http.post(f"{path}/confirm?appSessionId=mine")).status_code == 204
        assert (await requestor.http.post(f"{path}/confirm?appSessionId=mine")).status_code == 410
        assert (await requestor.http.post(f"{path}/wait?timeout=0.5")).status_code == 408

        event = await one_event(provider, "offers", offer)
        assert (event["eventType"], event["agreement"]["agreementId"]) == ("AgreementEvent", agreement)
        assert (await provider.http.post(f"{path}/approve?timeout=5")).status_code == 204
        assert (await requestor.http.post(f"{path}/wait?timeout=5")).status_code == 204

        shown = await ok(await requestor.http.get(path))
        assert shown["state"] == "Approved"
        assert shown["demand"]["demandId"] == demand
        assert shown["demand"]["requestorId"] == requestor.node.key.address
        assert shown["offer"]["offerId"] == offer
        assert shown["appSessionId"] == "mine"
        assert (await requestor.http.post(f"{path}/cancel")).status_code == 410

        answer = await requestor.http.post(f"{path}/terminate", json={"message": "done", "golem.requestor.code": "Ok"})
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await requestor.http.post(f"{path}/terminate", json={"message": "done"})).status_code == 410
        assert (await ok(await requestor.http.get(f"{path}/terminate/reason")))["golem.requestor.code"] == "Ok"
        news = await ok(await provider.http.get(f"{API}/agreementEvents?timeout=0"))
        news += await ok(
            await provider.http.get(f"{API}/agreementEvents?timeout=30&afterTimestamp={news[-1]['eventDate']}")
        )
        assert news[-1]["eventType"] == "AgreementTerminatedEvent"
        assert (await ok(await provider.http.get(path)))["state"] == "Terminated"


async def test_floats_stay_floats_on_every_hop(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_rest(hub) as requestor, open_rest(hub) as provider:
        await link(requestor.node, provider.node)
        nested = {"golem": {"com": {"coeffs": [0.0, 1e-7, 0]}, "n": 1, "x": 2.0, "yes": True, "null": None}}
        await ok(await provider.http.post(f"{API}/offers", json={"properties": nested, "constraints": "()"}), 201)
        body = {"properties": {}, "constraints": "(golem.yes=true)"}
        demand = await ok(await requestor.http.post(f"{API}/demands", json=body), 201)
        answer = await requestor.http.get(f"{API}/demands/{demand}/events?timeout=5")
        assert (
            '"properties":{"golem.com.coeffs":[0.0,1e-07,0],"golem.n":1,"golem.x":2.0,"golem.yes":true}' in answer.text
        )


async def test_the_last_event_date_sent_back_gives_what_is_newer_and_no_more(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_rest(hub) as requestor, open_rest(hub) as provider:
        await link(requestor.node, provider.node)
        agreements = []
        for tag in range(5):
            _, _, proposal = await negotiate(requestor, provider, tag)
            body = {"proposalId": proposal, "validTo": valid_to()}
            agreement = await ok(await requestor.http.post(f"{API}/agreements", json=body))
            await requestor.http.post(f"{API}/agreements/{agreement}/confirm?appSessionId=s")
            await provider.http.post(f"{API}/agreements/{agreement}/approve?timeout=5")
            await requestor.http.post(f"{API}/agreements/{agreement}/terminate", json={"message": "x"})
            agreements.append(agreement)
        last = "2000-01-01T00:00:00Z"
        seen: list[Any] = []
        while True:
            params: dict[str, Any] = {"timeout": 0, "afterTimestamp": last, "maxEvents": 3, "appSessionId": "s"}
            page = await ok(await requestor.http.get(f"{API}/agreementEvents", params=params))
            if not page:
                break
            assert len(page) <= 3
            seen += page
            last = page[-1]["eventDate"]
        assert [(e["agreementId"], e["eventType"]) for e in seen] == [
            (a, event) for a in agreements for event in ("AgreementApprovedEvent", "AgreementTerminatedEvent")
        ]
        dates = [e["eventDate"] for e in seen]
        assert dates == sorted(set(dates))
        ended = seen[1]
        assert (ended["terminator"], ended["signature"], ended["reason"]) == (
            "Requestor",
            "NotSigned",
            {"message": "x"},
        )
        other: dict[str, Any] = {"timeout": 0, "afterTimestamp": "1-01-01T00:00:00", "appSessionId": "other"}
        assert (await requestor.http.get(f"{API}/agreementEvents", params=other)).status_code == 400
        other["afterTimestamp"] = "0001-01-01T00:00:00+23:00"
        assert await ok(await requestor.http.get(f"{API}/agreementEvents", params=other)) == []


async def test_an_event_wakes_who_waits(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_rest(hub) as requestor, open_rest(hub) as provider:
        await link(requestor.node, provider.node)
        demand = await ok(await requestor.http.post(f"{API}/demands", json=DEMAND_BODY), 201)
        started = trio.current_time()
        got: list[Any] = []

        async def wait() -> None:
            got.append(await one_event(requestor, "demands", demand))
            assert trio.current_time() - started < 3

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(1)
            await provider.http.post(f"{API}/offers", json=OFFER_BODY)
        assert got[0]["eventType"] == "ProposalEvent"


async def test_a_poll_without_patience_looks_once(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_rest(hub) as requestor:
        demand = await ok(await requestor.http.post(f"{API}/demands", json=DEMAND_BODY), 201)
        started = trio.current_time()
        assert await ok(await requestor.http.get(f"{API}/demands/{demand}/events?timeout=0")) == []
        assert await ok(await requestor.http.get(f"{API}/agreementEvents?timeout=0")) == []
        assert await ok(await requestor.http.get(f"{API}/agreementEvents?timeout=-7")) == []
        assert trio.current_time() == started
        assert await ok(await requestor.http.get(f"{API}/agreementEvents?timeout=1e9")) == []
        assert trio.current_time() == started + limits.MAX_LONG_POLL_S


@pytest.mark.parametrize(
    "query", ["maxEvents=0", "maxEvents=-1", "maxEvents=101", "maxEvents=x", "timeout=x", "timeout=nan", "timeout=inf"]
)
async def test_odd_limits_are_refused(hub: MemoryHub, autojump_clock: MockClock, query: str) -> None:
    async with open_rest(hub) as requestor:
        demand = await ok(await requestor.http.post(f"{API}/demands", json=DEMAND_BODY), 201)
        for path in (f"demands/{demand}/events", "agreementEvents"):
            answer = await requestor.http.get(f"{API}/{path}?{query}")
            assert answer.status_code == 400, answer.text
            assert "message" in answer.json()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "demands/x"),
        ("GET", "demands/x/events"),
        ("GET", "demands/x/proposals/y"),
        ("POST", "demands/x/proposals/y"),
        ("POST", "demands/x/proposals/y/reject"),
        ("DELETE", "offers/x"),
        ("GET", "offers/x/events"),
        ("GET", "agreements/x"),
        ("POST", "agreements/x/confirm"),
        ("POST", "agreements/x/wait"),
        ("POST", "agreements/x/approve"),
        ("POST", "agreements/x/reject"),
        ("POST", "agreements/x/cancel"),
        ("POST", "agreements/x/terminate"),
        ("GET", "agreements/x/terminate/reason"),
    ],
)
async def test_unknown_ids_are_told_as_such(hub: MemoryHub, autojump_clock: MockClock, method: str, path: str) -> None:
    async with open_rest(hub) as node:
        body = DEMAND_BODY if method == "POST" and path.endswith("proposals/y") else None
        answer = await node.http.request(method, f"{API}/{path}", json=body)
        assert answer.status_code == 404, answer.text
        assert "x" in answer.json()["message"]
        assert not node.node.market.agreements._locks


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"properties": {}, "constraints": "(a"}, "column 3"),
        ({"properties": {}, "constraints": ""}, "expected '('"),
        ({"properties": {"a": [{}]}, "constraints": "()"}, "'a'"),
        ({"properties": {"a=b": 1}, "constraints": "()"}, "a=b"),
        ({"properties": {"a": "\ud800"}, "constraints": "()"}, "surrogate"),
        ({"properties": {"a": float("nan")}, "constraints": "()"}, "nan"),
        ({"properties": {"golem.node.debug.subnet": "s" * 129}, "constraints": "()"}, "subnet"),
        ({"properties": {"golem.node.debug.subnet": ""}, "constraints": "()"}, "subnet"),
        ({"properties": {"a": "x" * 70_000}, "constraints": "()"}, "70"),
        ({"properties": {"a": list(range(300))}, "constraints": "()"}, "300 items"),
        ({"properties": {}}, "constraints"),
        ([], "body"),
    ],
)
async def test_a_malformed_demand_is_refused_with_its_fault(
    hub: MemoryHub, autojump_clock: MockClock, body: Any, complaint: str
) -> None:
    async with open_rest(hub) as node:
        content = json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        answer = await node.http.post(f"{API}/demands", content=content, headers=headers)
        assert answer.status_code == 400
        assert complaint in answer.json()["message"]
        assert await ok(await node.http.post(f"{API}/demands", json=DEMAND_BODY), 201)  # the node lives


async def test_unsubscribing_ends_the_wait_with_404_and_a_second_one_is_410(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_rest(hub) as node:
        demand = await ok(await node.http.post(f"{API}/demands", json=DEMAND_BODY), 201)
        assert [d["demandId"] for d in await ok(await node.http.get(f"{API}/demands"))] == [demand]

        async def wait() -> None:
            assert (await node.http.get(f"{API}/demands/{demand}/events?timeout=60")).status_code == 404

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(1)
            assert (await node.http.delete(f"{API}/demands/{demand}")).status_code == 204
        assert (await node.http.delete(f"{API}/demands/{demand}")).status_code == 410


async def test_own_proposals_can_be_read_and_rejections_show(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_rest(hub) as requestor, open_rest(hub) as provider:
        await link(requestor.node, provider.node)
        demand, _, proposal = await negotiate(requestor, provider)
        path = f"{API}/demands/{demand}/proposals"
        theirs = await ok(await requestor.http.get(f"{path}/{proposal}"))
        assert (theirs["state"], theirs["issuerId"]) == ("Draft", provider.node.key.address)
        mine = await ok(await requestor.http.get(f"{path}/{theirs['prevProposalId']}"))
        assert (mine["state"], mine["issuerId"]) == ("Draft", requestor.node.key.address)
        assert (await requestor.http.post(f"{path}/{proposal}/reject", json={"message": "no"})).status_code == 204
        assert (await ok(await requestor.http.get(f"{path}/{proposal}")))["state"] == "Rejected"
        body = {"proposalId": proposal, "validTo": valid_to()}
        assert (await requestor.http.post(f"{API}/agreements", json=body)).status_code == 400


async def test_reasons_are_json_of_a_bounded_size(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_rest(hub) as requestor, open_rest(hub) as provider:
        await link(requestor.node, provider.node)
        _, _, proposal = await negotiate(requestor, provider)
        body = {"proposalId": proposal, "validTo": valid_to()}
        agreement = await ok(await requestor.http.post(f"{API}/agreements", json=body))
        for content in (b'{"message": NaN}', json.dumps({"message": "x" * 10_000}).encode()):
            headers = {"content-type": "application/json"}
            path = f"{API}/agreements/{agreement}/cancel"
            assert (await requestor.http.post(path, content=content, headers=headers)).status_code == 400


async def test_a_poll_ends_when_its_client_is_gone(autojump_clock: MockClock) -> None:
    gone = trio.Event()
    news = Notifier()
    state = {"cancelled": False}

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def fetch() -> list[int]:
        async def nothing() -> list[int]:
            return []

        try:
            return await news.poll(nothing, 300)
        except trio.Cancelled:
            state["cancelled"] = True
            raise

    async with trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(ClientDisconnect):
                await poll(Request({"type": "http"}, receive), fetch)

        nursery.start_soon(call)
        await trio.sleep(1)
        gone.set()
    assert trio.current_time() < 5
    assert state["cancelled"]
