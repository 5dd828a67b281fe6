"""POST /scan and what follows, as golem-js's market.scan uses it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.api import scans as scans_api
from golemp2p.core.records import RecordKind
from golemp2p.net.memory import MemoryHub
from tests.unit.market.conftest import Node, link

from .conftest import RestNode, open_rest
from .test_market import API, ok

SCAN = {"type": "offer", "constraints": "(tag>0)", "properties": {}}  # golem-js sends properties, which mean nothing


@asynccontextmanager
async def scanning(hub: MemoryHub) -> AsyncIterator[tuple[RestNode, Node]]:
    """The scanning node with its REST API, and a provider."""
    async with (
        open_rest(hub, lambda node: [scans_api.make_router(node.market.scans)]) as asking,
        open_rest(hub) as other,
    ):
        await link(asking.node, other.node)
        yield asking, other.node


async def test_a_scan_tells_what_is_known_and_what_comes_each_once(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with scanning(hub) as (asking, provider):
        known = await provider.offer({"tag": 1})
        await provider.offer({"tag": 0})
        await trio.sleep(1)
        scan = await ok(await asking.http.post(f"{API}/scan", json=SCAN), 201)
        assert scan.isdecimal()
        (told,) = await ok(await asking.http.get(f"{API}/scan/{scan}/events?timeout=0"))
        assert (told["offerId"], told["providerId"]) == (known, provider.key.address)
        assert told["properties"] == {"tag": 1}
        assert {"constraints", "timestamp"} <= told.keys()
        started = trio.current_time()
        assert await ok(await asking.http.get(f"{API}/scan/{scan}/events?timeout=7")) == []
        assert trio.current_time() - started == 7
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                found = await ok(await asking.http.get(f"{API}/scan/{scan}/events?timeout=60"))
                assert [offer["properties"]["tag"] for offer in found] == [2]

            await trio.sleep(1)
            await provider.offer({"tag": 2})
        assert trio.current_time() - started < 10


async def test_max_events_is_kept_and_an_offer_that_is_gone_is_not_told(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with scanning(hub) as (asking, provider):
        offers = {await provider.offer({"tag": tag}) for tag in (1, 2, 3)}
        await trio.sleep(1)
        scan = await ok(await asking.http.post(f"{API}/scan", json={"type": "offer"}), 201)
        events = f"{API}/scan/{scan}/events?timeout=0"
        assert await ok(await asking.http.get(f"{events}&maxEvents=0")) == []
        (first,) = await ok(await asking.http.get(f"{events}&maxEvents=1"))
        gone, left = offers - {first["offerId"]}
        await provider.market.unsubscribe(RecordKind.OFFER, gone)
        await trio.sleep(1)
        assert [o["offerId"] for o in await ok(await asking.http.get(events))] == [left]


async def test_offers_of_one_provider_can_be_asked_for(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with scanning(hub) as (asking, provider):
        own = await asking.node.offer({"tag": 5})
        theirs = await provider.offer({"tag": 6})
        await trio.sleep(1)
        scan = await ok(await asking.http.post(f"{API}/scan", json=SCAN), 201)
        for address, offer in ((provider.key.address, theirs), (asking.node.key.address.upper(), own)):
            at = f"{API}/scan/{scan}/events?peerId=0x{address[2:]}"
            assert [o["offerId"] for o in await ok(await asking.http.get(at))] == [offer]
            assert await ok(await asking.http.get(at)) == []
        assert (await asking.http.get(f"{API}/scan/{scan}/events?peerId=x")).status_code == 400


async def test_a_scan_ends_when_it_is_deleted_or_nobody_reads_it(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with scanning(hub) as (asking, _):
        deleted = await ok(await asking.http.post(f"{API}/scan", json=SCAN), 201)
        idle = await ok(await asking.http.post(f"{API}/scan", json=SCAN), 201)
        short = await ok(await asking.http.post(f"{API}/scan", json={**SCAN, "timeout": 10}), 201)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                answer = await asking.http.get(f"{API}/scan/{deleted}/events?timeout=100")
                assert answer.status_code == 410

            await trio.sleep(1)
            assert (await asking.http.delete(f"{API}/scan/{deleted}")).status_code == 204
        assert (await asking.http.delete(f"{API}/scan/{deleted}")).status_code == 404
        await trio.sleep(11)
        assert (await asking.http.get(f"{API}/scan/{short}/events")).status_code == 404
        await ok(await asking.http.get(f"{API}/scan/{idle}/events?timeout=250"))
        await trio.sleep(limits.SCAN_IDLE_S - 1)
        await ok(await asking.http.get(f"{API}/scan/{idle}/events?timeout=0"))
        await trio.sleep(limits.SCAN_IDLE_S + 1)
        assert (await asking.http.get(f"{API}/scan/{idle}/events?timeout=0")).status_code == 404
        await trio.sleep(60)
        assert len(asking.node.market.scans) == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"type": "offer", "constraints": "(("}, 400),
        ({"type": "other"}, 400),
        ({"constraints": "()"}, 400),
        ({"type": "demand"}, 501),
    ],
    ids=["constraints", "type", "no type", "demands"],
)
async def test_scans_that_cannot_be_are_refused(
    hub: MemoryHub, autojump_clock: MockClock, body: dict[str, str], status: int
) -> None:
    async with scanning(hub) as (asking, _):
        refused = await asking.http.post(f"{API}/scan", json=body)
        assert refused.status_code == status
        assert refused.json()["message"]


async def test_the_number_of_scans_is_bounded(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with scanning(hub) as (asking, _):
        for _number in range(limits.MAX_SCANS):
            await ok(await asking.http.post(f"{API}/scan", json=SCAN), 201)
        assert (await asking.http.post(f"{API}/scan", json=SCAN)).status_code == 403
        await trio.sleep(limits.SCAN_IDLE_S + 1)
        await ok(await asking.http.post(f"{API}/scan", json=SCAN), 201)


async def test_as_an_event_stream_offers_come_one_by_one_until_the_scan_is_deleted(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with scanning(hub) as (asking, provider):
        await provider.offer({"tag": 1})
        await trio.sleep(1)
        scan = await ok(await asking.http.post(f"{API}/scan", json=SCAN), 201)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def end_it() -> None:
                await trio.sleep(20)
                await provider.offer({"tag": 2})
                await trio.sleep(1)
                await asking.http.delete(f"{API}/scan/{scan}")

            headers = {"Accept": "text/event-stream"}
            answer = await asking.http.get(f"{API}/scan/{scan}/events", headers=headers, timeout=None)
        assert answer.headers["content-type"].startswith("text/event-stream")
        frames = [frame for frame in answer.text.split("\n\n") if frame]
        assert [f for f in frames if f == ":"], "a quiet stream says that it is alive"
        told = [f.split("\n") for f in frames if f != ":"]
        assert [event for event, _ in told] == ["event: offer"] * 2
        assert [json.loads(data.removeprefix("data: "))["properties"]["tag"] for _, data in told] == [1, 2]
        gone = await asking.http.get(f"{API}/scan/{scan}/events", headers=headers)
        assert gone.status_code == 404
