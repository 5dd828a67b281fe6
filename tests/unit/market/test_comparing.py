"""Catching up: only what differs goes over the wire, renewals go without content, and liars gain nothing."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.identity import NodeKey
from golemp2p.market import sync as sync_module
from golemp2p.market.book import OrderBook, record_key
from golemp2p.market.comparing import ENTRY_BYTES
from golemp2p.net.memory import MemoryHub
from golemp2p.net.port import GossipMessage, Verdict
from golemp2p.wire.p2p.market import PROTOCOL, GossipBody, RecordBody, RenewalBody
from tests.unit.market.conftest import DOMAIN, NOW, Node, link, open_node
from tests.unit.market.test_hostile_peers import TOPIC, a_sync, record_of


def count_calls(node: Node) -> dict[str, list[object]]:
    """What ``node`` is asked from now on, and what it answers."""
    calls: dict[str, list[object]] = {}
    sync = node.market.sync

    def counted(name: str) -> object:
        answer = sync.handlers()[name]

        async def method(peer: object, body: dict[str, object]) -> object:
            result = await answer(peer, body)  # type: ignore[arg-type] # a PeerId
            calls.setdefault(name, []).append(result)
            return result

        return method

    sync._rpc.serve(PROTOCOL, {name: counted(name) for name in sync.handlers()})  # type: ignore[misc] # as above
    return calls


async def test_a_neighbour_that_knows_most_is_told_only_the_rest(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as old, open_node(hub) as new:
        for _ in range(20):
            await old.offer()
        await link(new, old)
        await trio.sleep(5)
        assert len(new.market.book) == 20
        await new.network.disconnect(old.network.peer_id)
        late = await old.offer()
        calls = count_calls(old)
        await link(new, old)
        await trio.sleep(5)
        assert new.market.book.get(late, new.now()) is not None
        assert "pull" not in calls
        assert [len(answer["records"]) for answer in calls["fetch"]] == [1]  # type: ignore[index]


async def test_equal_books_cost_one_small_answer(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as one, open_node(hub) as other:
        await one.offer()
        await link(other, one)
        await trio.sleep(5)
        calls = count_calls(one)
        assert await other.market.sync.pull(one.network.peer_id) == 0
        assert calls == {"compare": [{"entries": b""}]}


async def test_many_missing_records_come_in_pages(
    hub: MemoryHub, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PULL_PAGE_RECORDS", 4)
    async with open_node(hub) as old, open_node(hub) as new:
        await new.offer()  # so it compares
        for _ in range(10):
            await old.offer()
        await link(new, old)
        await trio.sleep(5)
        assert len(new.market.book) == len(old.market.book) == 11


async def test_an_offer_is_renewed_without_its_content(
    hub: MemoryHub, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_node(hub) as provider, open_node(hub) as other, open_node(hub) as stranger:
        offer = await provider.offer()
        await link(provider, other)
        await trio.sleep(5)
        sent: list[bytes] = []
        publish = provider.network.publish

        async def watched(topic: str, data: bytes) -> None:
            sent.append(data)
            await publish(topic, data)

        monkeypatch.setattr(provider.network, "publish", watched)
        first = other.market.book.get(offer, other.now())
        monkeypatch.setattr(sync_module, "COMPARE_INTERVAL_S", 1e6)
        # Someone who has not heard of the offer hears of its renewal and asks for the rest.
        monkeypatch.setattr(stranger.market.sync, "_on_peer", lambda *_: None)
        await link(stranger, provider)
        monkeypatch.undo()
        monkeypatch.setattr(provider.network, "publish", watched)
        await trio.sleep(limits.RECORD_REPUBLISH_S + 120)
        second = other.market.book.get(offer, other.now())
        assert first is not None
        assert second is not None
        assert second.expires_at > first.expires_at
        assert second.content == first.content
        assert stranger.market.book.get(offer, stranger.now()) is not None
        [renewals] = [body for body in map(msgpack.unpackb, sent) if body.get("renewals")]
        assert renewals["records"] == []
        assert first.content not in b"".join(sent)


def renewal(record: MarketRecord, **changes: object) -> GossipMessage:
    body = RenewalBody.of(record).model_copy(update=changes)
    data = msgpack.packb(GossipBody(records=[], renewals=[body]).to_wire())
    peer = NodeKey.generate().peer_id
    return GossipMessage(TOPIC, peer, peer, data)


def test_a_renewal_counts_only_with_its_issuers_signature() -> None:
    sync, book = a_sync()
    key = NodeKey.generate()
    record = record_of(key)
    book.apply(record)
    later = record.renewed(now=NOW + 1, ttl_s=60, sequence=9)
    signed = replace(later, signature=key.sign(later.digest(DOMAIN)))
    forged = replace(later, signature=NodeKey.generate().sign(later.digest(DOMAIN)))
    assert sync._validate(renewal(forged)) is Verdict.REJECT
    assert sync._validate(renewal(signed, expires_at=round((NOW + 90) * 1000))) is Verdict.REJECT
    assert book.any(record.id) == record
    assert sync._validate(renewal(signed)) is Verdict.ACCEPT
    assert sync._validate(renewal(signed)) is Verdict.IGNORE
    assert book.any(record.id) == signed


def test_a_renewal_of_what_nobody_here_knows_is_nobodys_fault() -> None:
    sync, book = a_sync()
    assert sync._validate(renewal(record_of(NodeKey.generate()))) is Verdict.IGNORE
    assert len(book) == 0


@pytest.mark.parametrize("entries", [b"x" * (ENTRY_BYTES - 1), b"x" * (ENTRY_BYTES * 3), "text", None], ids=range(4))
async def test_a_neighbour_that_compares_wrongly_costs_only_that_exchange(
    hub: MemoryHub, autojump_clock: MockClock, entries: object
) -> None:
    async with open_node(hub) as liar, open_node(hub) as victim:

        async def lies(_peer: object, _body: object) -> object:
            return {"entries": entries}

        async def nothing(_peer: object, _body: object) -> object:
            return {"records": [], "more": True}

        liar.market.sync._rpc.serve(PROTOCOL, {"compare": lies, "fetch": nothing})
        own = await victim.offer()
        await link(victim, liar)
        await trio.sleep(5)
        assert [r.id for r in victim.market.book.live(RecordKind.OFFER, victim.now())] == [own]


async def test_a_node_verifies_a_bounded_number_of_gossiped_records(
    hub: MemoryHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NEW_RECORDS_BURST", 3)
    sync, book = a_sync()
    for _ in range(9):
        data = msgpack.packb({"records": [RecordBody.of(record_of(NodeKey.generate())).to_wire()]})
        sync._validate(GossipMessage(TOPIC, NodeKey.generate().peer_id, NodeKey.generate().peer_id, data))
    assert len(book) == 3


KEYS = [NodeKey.generate() for _ in range(3)]
RECORDS = [record_of(KEYS[i % 3]) for i in range(12)]


@given(st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_buckets_are_equal_exactly_when_the_books_are(one: set[int], other: set[int]) -> None:
    left, right = OrderBook(), OrderBook()
    for i in one | other:
        left.apply(RECORDS[i])
    for i in other - one:
        left.forget(RECORDS[i].id)
    for i in one:
        right.apply(RECORDS[i])
    assert left.buckets() == right.buckets()
    for i in other:
        right.apply(RECORDS[i])
    assert (left.digest() == right.digest()) == (other <= one)
    lacking = [key for key, sequence in right.entries(range(256), 99) if left.lacks(key, sequence)]
    assert {record_key(RECORDS[i].id) for i in other - one} == set(lacking)


async def test_an_offer_that_was_made_alone_is_told_to_all_once_there_is_somebody(
    hub: MemoryHub, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only by gossip: a neighbour that catches up tells nobody else."""
    monkeypatch.setattr(sync_module, "COMPARE_INTERVAL_S", 1e6)
    async with open_node(hub) as provider, open_node(hub) as near, open_node(hub) as far:
        await link(near, far)
        await trio.sleep(10)
        offers = [await provider.offer()]
        await link(provider, near)
        await trio.sleep(0.5)
        offers.append(await provider.offer())
        await trio.sleep(10)
        assert all(far.market.book.get(offer, far.now()) for offer in offers)
        await provider.network.disconnect(near.network.peer_id)
        await far.network.disconnect(near.network.peer_id)
        offers.append(await provider.offer())
        await link(near, far)
        await link(near, provider)
        await trio.sleep(10)
        assert all(far.market.book.get(offer, far.now()) for offer in offers)


async def test_what_a_book_has_no_room_for_is_fetched_once(
    hub: MemoryHub, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an issuer that gives different records to different nodes keeps them fetching for ever."""
    monkeypatch.setattr(limits, "MAX_RECORDS_PER_ISSUER", 3)
    issuer = NodeKey.generate()
    async with open_node(hub) as one, open_node(hub) as other:
        for node in (one, other):
            for _ in range(3):
                node.market.sync.take(record_of(issuer))
        fetches = count_calls(other)
        await link(one, other)
        await trio.sleep(10 * sync_module.COMPARE_INTERVAL_S)
        assert len(fetches["compare"]) >= 5
        assert len(fetches["fetch"]) == 1
        await trio.sleep(limits.REFUSED_AGAIN_S)
        assert len(fetches["fetch"]) == 2


async def test_a_flood_of_new_names_does_not_silence_those_that_are_known(
    hub: MemoryHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NEW_RECORDS_BURST", 3)
    sync, book = a_sync()
    honest = NodeKey.generate()
    for issuer in (honest, *(NodeKey.generate() for _ in range(9)), honest, honest):
        data = msgpack.packb({"records": [RecordBody.of(record_of(issuer)).to_wire()]})
        sync._validate(GossipMessage(TOPIC, NodeKey.generate().peer_id, NodeKey.generate().peer_id, data))
    assert len(book) == 5
    assert sum(record.issuer == honest.peer_id for record in book.all_records(NOW)) == 3
