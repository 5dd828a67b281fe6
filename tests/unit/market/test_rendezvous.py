"""Offers found by the DHT: who does not gossip is found all the same, and nobody keeps what it does not need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.core.records import RecordKind
from golemp2p.market.rendezvous import RUNTIMES, Spread, key_of, runtimes_of, shard_of
from golemp2p.net.memory import MemoryHub
from golemp2p.wire.p2p.market import PROTOCOL, RecordBody, RecordsBody
from tests.unit.market.conftest import OFFER, Node, link, open_node
from tests.unit.market.test_hostile_peers import record_of


@asynccontextmanager
async def crowd(hub: MemoryHub, count: int, spread: Spread) -> AsyncIterator[list[Node]]:
    """Nodes in a ring."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_node(hub, spread=spread)) for _ in range(count)]
        for one, other in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
            await link(one, other)
        yield nodes


async def offered(node: Node, demand: str, count: int) -> None:
    with trio.fail_after(600):
        while node.market.negotiation.count_matched(demand) < count:  # type: ignore[arg-type] # noqa: ASYNC110 - an id
            await trio.sleep(1)


async def test_a_demand_finds_offers_that_nobody_gossips(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with crowd(hub, 12, Spread.RENDEZVOUS) as nodes:
        for node in nodes[1:9]:
            await node.offer()
        await nodes[9].offer({**OFFER, "golem.runtime.name": "vm"})
        await trio.sleep(120)
        assert [len(node.market.book) for node in nodes] == [0, *[1] * 9, 0, 0]
        demand = await nodes[0].demand()
        await offered(nodes[0], demand, 8)
        assert [len(node.market.book) for node in nodes[10:]] == [0, 0]


async def test_many_offers_make_a_network_change_over_and_few_change_it_back(
    hub: MemoryHub, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RENDEZVOUS_ABOVE_OFFERS", 5)
    monkeypatch.setattr(limits, "RENDEZVOUS_SHARDS", 2)
    async with crowd(hub, 10, Spread.AUTO) as nodes:
        for node in nodes[:8]:
            await node.offer()
        await trio.sleep(1.3 * limits.RENDEZVOUS_PROVIDE_S)
        assert all(node.market.rendezvous.active for node in nodes[:8])
        late = await nodes[9].demand()
        await offered(nodes[9], late, 8)
        for node in nodes[1:8]:
            for subscription in node.market.subscriptions.all(RecordKind.OFFER):
                await node.market.unsubscribe(RecordKind.OFFER, subscription.id)
        hub.providers.clear()  # as the DHT forgets
        await trio.sleep(3 * limits.RECORD_TTL_S)
        assert not nodes[0].market.rendezvous.active


async def test_a_provider_answers_with_its_own_offers_only(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with crowd(hub, 3, Spread.RENDEZVOUS) as (requestor, liar, honest):
        offer = await honest.offer()
        await liar.offer()

        async def others(_peer: object, _body: object) -> object:
            return RecordsBody(records=[RecordBody.of(record_of(honest.key))]).to_wire()

        liar.market.sync._rpc.serve(PROTOCOL, {"offers": others})
        await requestor.demand()
        await trio.sleep(300)
        found = [r.id for r in requestor.market.book.live(RecordKind.OFFER, requestor.now())]
        assert found == [offer]


async def test_a_search_goes_on_where_it_stopped_and_ends_with_the_demand(
    hub: MemoryHub, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RENDEZVOUS_ENOUGH", 1)
    async with crowd(hub, 6, Spread.RENDEZVOUS) as nodes:
        for node in nodes[1:]:
            await node.offer()
        demand = await nodes[0].demand()
        await offered(nodes[0], demand, 1)
        await trio.sleep(600)
        assert nodes[0].market.negotiation.count_matched(demand) < 5  # one shard was enough
        await nodes[0].market.unsubscribe(RecordKind.DEMAND, demand)
        await trio.sleep(300)
        assert nodes[0].market.rendezvous._asked == {}


@pytest.mark.parametrize(
    ("constraints", "runtimes"),
    [
        ("(golem.runtime.name=vm)", ("vm",)),
        ("(&(golem.inf.mem.gib>=1)(&(golem.runtime.name=wasmtime)))", ("wasmtime",)),
        ("(|(golem.runtime.name=vm)(golem.runtime.name=x))", RUNTIMES),
        ("(golem.runtime.name=v*)", RUNTIMES),
        ("(!(golem.runtime.name=vm))", RUNTIMES),
        ("()", RUNTIMES),
    ],
    ids=range(6),
)
def test_the_runtime_of_a_demand_is_read_from_its_constraints(constraints: str, runtimes: tuple[str, ...]) -> None:
    assert runtimes_of(constraints) == runtimes


@given(st.text(), st.text(min_size=1), st.text(min_size=1))
def test_every_provider_has_a_shard(peer: str, subnet: str, runtime: str) -> None:
    assert 0 <= shard_of(peer) < limits.RENDEZVOUS_SHARDS
    assert key_of(subnet, runtime, shard_of(peer)).startswith("offers/")


async def test_a_requestor_that_comes_late_finds_those_who_changed_over_when_there_were_more(
    hub: MemoryHub, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RENDEZVOUS_ABOVE_OFFERS", 5)
    monkeypatch.setattr(limits, "RENDEZVOUS_SHARDS", 2)
    async with crowd(hub, 10, Spread.AUTO) as nodes:
        for node in nodes[:8]:
            await node.offer()
        await trio.sleep(1.3 * limits.RENDEZVOUS_PROVIDE_S)
        for node in nodes[4:8]:
            for subscription in node.market.subscriptions.all(RecordKind.OFFER):
                await node.market.unsubscribe(RecordKind.OFFER, subscription.id)
            for providers in hub.providers.values():
                providers.pop(node.network.peer_id, None)  # as the DHT forgets
        await trio.sleep(2 * limits.RECORD_TTL_S)
        assert all(node.market.rendezvous.active for node in nodes[:4])
        async with open_node(hub, spread=Spread.AUTO) as late:
            await link(late, nodes[9])
            assert not late.market.rendezvous.active
            await offered(late, await late.demand(), 4)


async def test_providers_in_shards_that_are_not_theirs_are_neither_counted_nor_asked(
    hub: MemoryHub, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RENDEZVOUS_ABOVE_OFFERS", 2 * limits.RENDEZVOUS_SHARDS)
    async with crowd(hub, 8, Spread.AUTO) as (node, *liars):
        for liar in liars:
            for shard in range(limits.RENDEZVOUS_SHARDS):
                await liar.network.provide(key_of("public", "wasmtime", shard))
        await node.offer()
        await node.demand()
        await trio.sleep(1.3 * limits.RENDEZVOUS_PROVIDE_S)
        assert not node.market.rendezvous.active
