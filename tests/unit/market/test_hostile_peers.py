"""A peer that breaks the rules, on real rpc: what it says is refused, and everybody else goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.core.agreement import AGREEMENT_STRUCT, AgreementState
from golemp2p.core.eip712 import Domain, digest, keccak256
from golemp2p.core.properties import Properties
from golemp2p.core.records import (
    MarketRecord,
    RecordKind,
    decode_terms,
    encode_terms,
    make_record,
    new_subscription_id,
    verify_record,
)
from golemp2p.errors import (
    ConflictError,
    GoneError,
    NotFoundError,
    PolicyError,
    RemoteError,
    RemoteProtocolError,
    UsageError,
)
from golemp2p.identity import NodeKey
from golemp2p.market.agreements import make_content
from golemp2p.market.book import OrderBook
from golemp2p.market.subscriptions import AgreementReceived, ProposalReceived
from golemp2p.market.sync import RecordSync, topic_of
from golemp2p.net.memory import MemoryHub
from golemp2p.net.port import GossipMessage, Verdict
from golemp2p.wire.p2p.market import PROTOCOL, RecordBody, RecordsBody, RenewalBody

from .conftest import DEMAND, DOMAIN, NOW, OFFER, WANT, Node, link, open_node
from .test_negotiation import D, O, agree, negotiate

KEY = "0123456789abcdef" * 4
TOPIC = topic_of(DOMAIN.network, "public")


def signed(key: NodeKey, record: MarketRecord) -> MarketRecord:
    return replace(record, signature=key.sign(record.digest(DOMAIN)))


def record_of(key: NodeKey, kind: RecordKind = RecordKind.DEMAND, constraints: str = "()") -> MarketRecord:
    new_id = new_subscription_id(key.peer_id)
    return signed(key, make_record(kind, new_id, key.peer_id, DEMAND, constraints, now=NOW, sequence=1))


async def call(by: Node, to: Node, method: str, **body: Any) -> Any:
    """What ``by`` says to ``to``, past all our own checks."""
    rpc = by.market.sync._rpc
    return await rpc.call(to.key.peer_id, PROTOCOL, method, body, timeout_s=5)


def counter_body(node: Node, offer: str, **changes: Any) -> dict[str, Any]:
    demand = record_of(node.key)
    body = {
        "proposal": KEY,
        "demand": RecordBody.of(demand).to_wire(),
        "demand_id": demand.id,
        "offer_id": offer,
        "content": encode_terms(DEMAND, "()"),
    }
    return {**body, **changes}


# --- records ---


def a_sync(now: float = NOW) -> tuple[RecordSync, OrderBook]:
    book = OrderBook()
    return RecordSync(book, None, None, DOMAIN, lambda: now, lambda r, a: None), book  # type: ignore[arg-type] # no network is touched


def gossip(*records: MarketRecord, topic: str = TOPIC) -> GossipMessage:
    data = msgpack.packb({"records": [RecordBody.of(r).to_wire() for r in records]})
    peer = NodeKey.generate().peer_id
    return GossipMessage(topic, peer, peer, data)


KEY_A = NodeKey.generate()
GOOD = record_of(KEY_A)


def test_a_good_record_is_passed_on_once() -> None:
    sync, book = a_sync()
    assert sync._validate(gossip(GOOD)) is Verdict.ACCEPT
    assert sync._validate(gossip(GOOD)) is Verdict.IGNORE
    assert len(book) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 2},
        {"content": GOOD.content[:-1] + b" "},
        {"expires_at": GOOD.expires_at - 1},
        {"kind": RecordKind.OFFER},
        {"issuer": NodeKey.generate().peer_id},
        {"signature": bytes(65)},
        {"id": f"{'0' * 32}-{'0' * 64}"},
    ],
)
def test_a_forged_record_is_refused_and_its_forwarder_blamed(change: dict[str, Any]) -> None:
    sync, book = a_sync()
    assert sync._validate(gossip(replace(GOOD, **change))) is Verdict.REJECT
    assert len(book) == 0


def test_an_id_of_somebody_else_cannot_be_taken_even_with_a_good_signature() -> None:
    sync, book = a_sync()
    thief = NodeKey.generate()
    stolen = signed(thief, replace(GOOD, issuer=thief.peer_id, sequence=99))
    assert sync._validate(gossip(stolen)) is Verdict.REJECT
    assert len(book) == 0


def test_a_record_of_another_network_says_what_may_be_wrong() -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        verify_record(GOOD, Domain(DOMAIN.network, 1), now=NOW)
    assert "another network name or chain id" in refused.value.hint


def test_an_expired_record_is_nobodys_fault() -> None:
    sync, book = a_sync(now=GOOD.expires_at + 1)
    assert sync._validate(gossip(GOOD)) is Verdict.IGNORE
    assert len(book) == 0


def test_records_of_another_subnet_or_too_many_are_refused() -> None:
    sync, book = a_sync()
    assert sync._validate(gossip(GOOD, topic=topic_of(DOMAIN.network, "other"))) is Verdict.REJECT
    assert sync._validate(gossip(*[record_of(KEY_A) for _ in range(33)])) is Verdict.REJECT
    assert len(book) == 0


def test_a_withdrawal_with_luggage_is_refused() -> None:
    sync, _ = a_sync()
    heavy = signed(KEY_A, replace(GOOD, kind=RecordKind.WITHDRAWAL, sequence=2))
    assert sync._validate(gossip(heavy)) is Verdict.REJECT


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    sync, _ = a_sync()
    message = GossipMessage(TOPIC, KEY_A.peer_id, KEY_A.peer_id, data)
    assert sync._validate(message) in (Verdict.REJECT, Verdict.IGNORE)


@given(position=st.integers(0, 10_000), value=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_one_changed_byte_of_a_message_changes_no_book(position: int, value: int) -> None:
    sync, book = a_sync()
    message = gossip(GOOD)
    data = bytearray(message.data)
    data[position % len(data)] ^= value
    sync._validate(replace(message, data=bytes(data)))
    assert len(book) == 0 or book.get(GOOD.id, NOW) == GOOD


async def test_a_peer_that_pulls_out_endless_pages_is_left(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as liar, open_node(hub) as victim:
        record = RecordBody.of(record_of(liar.key)).to_wire()

        async def endless(_peer: object, _body: object) -> object:
            return {"records": [record], "more": True}

        liar.market.sync._rpc.serve(PROTOCOL, {"pull": endless})
        await link(victim, liar)
        await trio.sleep(5)
        assert len(victim.market.book) == 1


async def test_a_peer_whose_records_are_wrong_is_not_listened_to_for_long(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_node(hub) as liar, open_node(hub) as victim:
        asked = 0

        async def wrong(_peer: object, _body: object) -> object:
            nonlocal asked
            asked += 1
            bad = [replace(record_of(liar.key), sequence=7) for _ in range(50)]
            return RecordsBody(records=[RecordBody.of(r) for r in bad], more=True).to_wire()

        liar.market.sync._rpc.serve(PROTOCOL, {"pull": wrong})
        await link(victim, liar)
        await trio.sleep(5)
        assert asked == 1
        assert len(victim.market.book) == 0


async def never(_peer: object, _body: object) -> object:
    await trio.sleep_forever()


async def test_a_silent_neighbour_does_not_keep_the_others_from_being_asked(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_node(hub) as silent, open_node(hub) as provider, open_node(hub) as late:
        silent.market.sync._rpc.serve(PROTOCOL, {"pull": never})
        offer = await provider.offer()
        await link(late, silent)
        await link(late, provider)
        await trio.sleep(1)
        assert late.market.book.get(offer, late.now()) is not None


async def test_one_peer_pushes_a_bounded_number_of_new_records(
    hub: MemoryHub, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUSHED_RECORDS_BURST", 10)
    async with open_node(hub) as bad, open_node(hub) as victim, open_node(hub) as good:
        await link(victim, bad, good)
        known = [record_of(NodeKey.generate()) for _ in range(10)]
        await bad.market.sync.push(victim.key.peer_id, known)
        await bad.market.sync.push(victim.key.peer_id, known)  # nothing new costs nothing
        with pytest.raises(PolicyError, match="pushed"):
            await bad.market.sync.push(victim.key.peer_id, [record_of(NodeKey.generate()) for _ in range(10)])
        assert len(victim.market.book) < 13
        await good.market.sync.push(victim.key.peer_id, [record_of(NodeKey.generate())])
        await trio.sleep(60)
        await bad.market.sync.push(victim.key.peer_id, [record_of(NodeKey.generate())])


def test_terms_of_others_have_the_limits_of_our_own() -> None:
    large = {"properties": {"a": "x" * limits.MAX_PROPERTIES_BYTES}, "constraints": "()"}
    nested: dict[str, Any] = {"p" * 1_000: {str(i): 1 for i in range(500)}}
    for document in (large, {"properties": nested, "constraints": "()"}, {"properties": {"p" * 1025: 1}}):
        content = json.dumps({"constraints": "()", **document}).encode()
        with pytest.raises(RemoteProtocolError, match=r"bytes|too long"):
            decode_terms(content)


# --- proposals ---


@pytest.mark.parametrize(
    "changes",
    [
        {"proposal": "not hex"},
        {"proposal": "A" * 64},
        {"content": b"no json"},
        {"content": b"[" * 100_000},
        {"content": b'{"properties":{"a":NaN},"constraints":"()"}'},
        {"content": b'{"properties":{"a":"\\ud800"},"constraints":"()"}'},
        {"content": b'{"properties":{},"constraints":"(("}'},
        {"content": b"x" * (limits.MAX_RECORD_BYTES + 1)},
        {"demand_id": "x"},
        {"demand": None},
        {"extra": 1},
        {"previous": KEY},
    ],
)
async def test_a_malformed_counter_is_refused(
    hub: MemoryHub, autojump_clock: MockClock, changes: dict[str, Any]
) -> None:
    async with open_node(hub) as bad, open_node(hub) as provider:
        await link(bad, provider)
        offer = await provider.offer()
        body = {k: v for k, v in counter_body(bad, offer, **changes).items() if v is not None}
        with pytest.raises((RemoteError, UsageError)):
            await call(bad, provider, "counter", **body)
        assert await provider.events(O, offer, 1) == []


async def test_a_demand_of_somebody_else_is_refused(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as bad, open_node(hub) as provider:
        await link(bad, provider)
        offer = await provider.offer()
        foreign = record_of(NodeKey.generate())
        body = counter_body(bad, offer, demand=RecordBody.of(foreign).to_wire(), demand_id=foreign.id)
        with pytest.raises(RemoteError, match="not the sender's"):
            await call(bad, provider, "counter", **body)


async def test_a_counter_sent_twice_is_one_and_another_with_its_id_is_refused(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_node(hub) as bad, open_node(hub) as provider:
        await link(bad, provider)
        offer = await provider.offer()
        body = counter_body(bad, offer)
        for _ in range(2):
            assert await call(bad, provider, "counter", **body) == {}
        assert len(await provider.events(O, offer, 1)) == 1
        with pytest.raises(ConflictError):
            await call(bad, provider, "counter", **{**body, "content": encode_terms({"other": 1}, "()")})


async def test_a_counter_answers_only_a_proposal_of_the_same_offer(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        demand, _, answer = await negotiate(requestor, provider)
        other = await provider.offer({**OFFER, "other": True})
        body = {
            "proposal": KEY,
            "previous": answer[2:],
            "demand_id": demand,
            "offer_id": other,
            "content": encode_terms(DEMAND, "()"),
        }
        with pytest.raises(RemoteError, match="another offer"):
            await call(requestor, provider, "counter", **body)


async def test_nobody_answers_or_rejects_a_proposal_that_went_to_somebody_else(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider, open_node(hub) as bad:
        await link(requestor, provider, bad)
        _, _, answer = await negotiate(requestor, provider)
        with pytest.raises(NotFoundError):
            await call(bad, provider, "reject", proposal=answer[2:], reason={"message": "mine"})


async def test_spam_of_counters_fills_the_senders_share_only(
    hub: MemoryHub, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_PROPOSALS_PER_PEER", 20)
    async with open_node(hub) as bad, open_node(hub) as provider, open_node(hub) as requestor:
        await link(provider, bad, requestor)
        offer = await provider.offer()
        with pytest.raises(PolicyError, match="20 proposals"):
            for number in range(30):
                await call(bad, provider, "counter", **counter_body(bad, offer, proposal=f"{number:064x}"))
        assert len(await provider.events(O, offer, 1)) == 20
        demand = await requestor.demand()
        (initial,) = await requestor.events(D, demand)
        assert isinstance(initial, ProposalReceived)
        await requestor.market.negotiation.counter(D, demand, initial.proposal.id, DEMAND, WANT)
        assert len(await provider.events(O, offer)) == 1


async def test_negotiations_that_nobody_goes_on_with_are_forgotten(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        await negotiate(requestor, provider)
        assert provider.market.negotiation._proposals
        await trio.sleep(limits.PROPOSAL_TTL_S + 60)
        assert provider.market.negotiation._proposals == {}
        assert provider.market.negotiation._of_peer == {}


@pytest.mark.parametrize(
    "reason", [{"message": b"bytes"}, {"message": float("nan")}, {"message": "x" * 10_000}, {"a": {"b": b""}}]
)
async def test_reasons_that_agents_could_not_read_are_refused(
    hub: MemoryHub, autojump_clock: MockClock, reason: dict[str, Any]
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        agreement = await agree(requestor, provider)
        with pytest.raises(RemoteError, match="reason"):
            await call(requestor, provider, "terminate", id=agreement, reason=reason)
        assert (await provider.market.agreements.get(agreement)).state is AgreementState.APPROVED


# --- agreements ---


async def agreement_body(requestor: Node, provider: Node, **changes: Any) -> tuple[dict[str, Any], Any]:
    """A correct and signed agreement, made by hand; ``changes`` before signing."""
    _, offer, proposal = await negotiate(requestor, provider)
    theirs = requestor.market.negotiation.find(proposal)
    assert theirs.previous is not None
    ours = requestor.market.negotiation.find(theirs.previous)
    content = make_content(
        theirs.subscription, requestor.key.peer_id, ours, theirs.counterpart, provider.key.peer_id, theirs
    )
    body = {
        "id": KEY,
        "proposal": theirs.key,
        "content": content,
        "created_at": round(requestor.now() * 1000),
        "valid_to": round(requestor.now() * 1000) + 3_600_000,
        **changes,
    }
    return sign_body(requestor, provider, body), offer


def sign_body(requestor: Node, provider: Node, body: dict[str, Any]) -> dict[str, Any]:
    message = {
        "id": body["id"],
        "requestor": requestor.key.address,
        "provider": provider.key.address,
        "content": keccak256(body["content"]),
        "createdAt": body["created_at"],
        "validTo": body["valid_to"],
    }
    return {**body, "signature": requestor.key.sign(digest(DOMAIN, AGREEMENT_STRUCT, message))}


async def test_an_agreement_made_by_hand_is_taken(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        body, offer = await agreement_body(requestor, provider)
        assert await call(requestor, provider, "agree", **body) == {}
        assert await call(requestor, provider, "agree", **body) == {}
        (event,) = await provider.events(O, offer, 1)
        assert isinstance(event, AgreementReceived)


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["offer"]["properties"].update(price=[0, 0.1, 0.0]),  # 0 for 0.0
        lambda d: d["offer"]["properties"].update(price=[0.0, 0.0, 0.0]),
        lambda d: d["demand"]["properties"].update(more=1),
        lambda d: d["demand"].update(requestorId="0x" + "00" * 20),
        lambda d: d["demand"].update(timestamp="then"),
        lambda d: d["demand"].update(timestamp=True),
        lambda d: d["offer"].update(extra=1),
        lambda d: d.pop("offer"),
    ],
)
async def test_an_agreement_that_differs_from_what_was_negotiated_is_refused(
    hub: MemoryHub, autojump_clock: MockClock, edit: Any
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        body, offer = await agreement_body(requestor, provider)
        document = json.loads(body["content"])
        edit(document)
        forged = sign_body(requestor, provider, {**body, "content": json.dumps(document).encode()})
        with pytest.raises(RemoteError, match="differs"):
            await call(requestor, provider, "agree", **forged)
        assert await call(requestor, provider, "agree", **body) == {}  # the true one is still possible
        assert len(await provider.events(O, offer, 1)) == 1


async def test_names_given_twice_are_refused(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        body, _ = await agreement_body(requestor, provider)
        twice = body["content"].replace(b'"extra":1.0', b'"extra":9.9,"extra":1.0')
        assert twice != body["content"]
        with pytest.raises(RemoteError, match="differs"):
            await call(requestor, provider, "agree", **sign_body(requestor, provider, {**body, "content": twice}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"valid_to": 1}, "past"),
        ({"valid_to": 10**14}, "ten years"),
        ({"created_at": round(NOW * 1000) + 10_000_000, "valid_to": round(NOW * 1000) + 20_000_000}, "future"),
    ],
)
async def test_times_that_cannot_be_are_refused(
    hub: MemoryHub, autojump_clock: MockClock, change: dict[str, int], complaint: str
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        body, _ = await agreement_body(requestor, provider, **change)
        with pytest.raises(UsageError, match=complaint):
            await call(requestor, provider, "agree", **body)


async def test_an_agreement_is_never_overwritten_by_another_with_its_id(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        agreement = await agree(requestor, provider)
        before = await provider.market.agreements.get(agreement)
        demand, offer, proposal = await _negotiate_again(requestor, provider)
        theirs = requestor.market.negotiation.find(proposal)
        assert theirs.previous is not None
        ours = requestor.market.negotiation.find(theirs.previous)
        content = make_content(demand, requestor.key.peer_id, ours, offer, provider.key.peer_id, theirs)
        now_ms = round(requestor.now() * 1000)
        body = {"id": agreement, "proposal": theirs.key, "content": content}
        body = sign_body(requestor, provider, {**body, "created_at": now_ms, "valid_to": now_ms + 1_000_000})
        with pytest.raises(ConflictError, match="another agreement"):
            await call(requestor, provider, "agree", **body)
        assert await provider.market.agreements.get(agreement) == before


ACCOUNT = "golem.com.payment.platform.erc20-local-tglm.address"


@pytest.mark.parametrize("case", ["own", "foreign payer", "foreign payee", "no payer"])
async def test_nobody_names_a_third_party_as_payer_or_payee(
    hub: MemoryHub, autojump_clock: MockClock, case: str
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        honest = NodeKey.generate().address
        payer = honest if case == "foreign payer" else requestor.key.address.upper().replace("0X", "0x")
        payee = honest if case == "foreign payee" else provider.key.address
        theirs: Properties = {"golem.com.payment.chosen-platform": "erc20-local-tglm", ACCOUNT: payer}
        if case == "no payer":
            del theirs[ACCOUNT]
        offer = await provider.offer({**OFFER, ACCOUNT: payee})
        demand = await requestor.demand({**DEMAND, **theirs})
        (initial,) = await requestor.events(D, demand)
        assert isinstance(initial, ProposalReceived)
        await requestor.market.negotiation.counter(D, demand, initial.proposal.id, {**DEMAND, **theirs}, WANT)
        (seen,) = await provider.events(O, offer)
        assert isinstance(seen, ProposalReceived)
        await provider.market.negotiation.counter(O, offer, seen.proposal.id, {**OFFER, ACCOUNT: payee}, "()")
        (answer,) = await requestor.events(D, demand)
        assert isinstance(answer, ProposalReceived)
        mine = requestor.market.negotiation.find(answer.proposal.previous or answer.proposal.id)
        content = make_content(demand, requestor.key.peer_id, mine, offer, provider.key.peer_id, answer.proposal)
        now_ms = round(requestor.now() * 1000)
        body = {"id": KEY, "proposal": answer.proposal.key, "content": content}
        body = sign_body(requestor, provider, {**body, "created_at": now_ms, "valid_to": now_ms + 1_000_000})
        if case == "own":
            assert await call(requestor, provider, "agree", **body) == {}
            return
        with pytest.raises(UsageError, match="own address"):
            await call(requestor, provider, "agree", **body)
        with pytest.raises(UsageError, match="own address"):
            await requestor.market.agreements.create(answer.proposal.id, requestor.now() + 3600)


async def _negotiate_again(requestor: Node, provider: Node) -> tuple[Any, Any, Any]:
    """A second pair, unmistakable."""
    offer = await provider.offer({**OFFER, "second": True})
    demand = await requestor.demand(constraints="(second=true)")
    (initial,) = await requestor.events(D, demand)
    assert isinstance(initial, ProposalReceived)
    await requestor.market.negotiation.counter(D, demand, initial.proposal.id, DEMAND, "()")
    (seen,) = await provider.events(O, offer)
    assert isinstance(seen, ProposalReceived)
    await provider.market.negotiation.counter(O, offer, seen.proposal.id, {**OFFER, "second": True}, "()")
    (answer,) = await requestor.events(D, demand)
    assert isinstance(answer, ProposalReceived)
    return demand, offer, answer.proposal.id


async def test_a_stranger_can_say_nothing_about_an_agreement(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider, open_node(hub) as bad:
        await link(bad, requestor, provider)
        await link(requestor, provider)
        agreement = await agree(requestor, provider)
        for method in ("reject_agreement", "cancel", "terminate"):
            with pytest.raises(NotFoundError):
                await call(bad, provider, method, id=agreement, reason={"message": "x"})
        with pytest.raises(NotFoundError):
            await call(bad, requestor, "approve", id=agreement, signature=bytes(65))
        assert (await provider.market.agreements.get(agreement)).state is AgreementState.APPROVED


async def test_the_sides_keep_to_their_roles(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        body, _ = await agreement_body(requestor, provider)
        await call(requestor, provider, "agree", **body)
        with pytest.raises(RemoteError, match="not for the sender"):
            await call(requestor, provider, "reject_agreement", id=KEY, reason={})
        with pytest.raises(RemoteError, match="only the provider"):
            await call(requestor, provider, "approve", id=KEY, signature=bytes(65))


async def test_an_approval_with_a_foreign_signature_is_refused(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        _, _, proposal = await negotiate(requestor, provider)
        agreements = requestor.market.agreements
        agreement = await agreements.create(proposal, requestor.now() + 3600)
        await agreements.confirm(agreement, None)
        stored = await agreements.get(agreement)
        with pytest.raises(RemoteError, match="not signed by the provider"):
            await call(provider, requestor, "approve", id=agreement, signature=stored.requestor_signature)
        assert (await agreements.get(agreement)).state is AgreementState.PENDING


async def test_a_provider_cannot_make_an_agreement_of_the_requestors_proposal(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        demand, offer, answer = await negotiate(requestor, provider)
        await requestor.market.negotiation.counter(D, demand, answer, DEMAND, WANT)
        (event,) = await provider.events(O, offer)
        assert isinstance(event, ProposalReceived)
        with pytest.raises(UsageError, match="no answer of a provider"):
            await provider.market.agreements.create(event.proposal.id, provider.now() + 3600)


async def test_a_subnet_that_cannot_be_announced_is_refused_here(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as node:
        with pytest.raises(UsageError, match="subnet"):
            await node.offer({"golem.node.debug.subnet": "s" * 200})
        await node.offer()
        await trio.sleep(1)


async def test_more_own_records_than_others_would_take_are_refused_here(
    hub: MemoryHub, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_OWN_SUBSCRIPTIONS", 3)
    async with open_node(hub) as node:
        for _ in range(3):
            await node.offer()
        with pytest.raises(PolicyError, match="withdraw some"):
            await node.offer()


async def test_ended_ids_are_gone(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        body, offer = await agreement_body(requestor, provider)
        await provider.market.unsubscribe(O, offer)
        with pytest.raises((GoneError, NotFoundError)):
            await call(requestor, provider, "agree", **body)


def forwarded(message: GossipMessage) -> GossipMessage:
    """As it comes from a neighbour that did not make it."""
    return replace(message, forwarder=NodeKey.generate().peer_id)


def assert_nobody_is_blamed_for(message: GossipMessage, first: RecordSync, second: RecordSync) -> None:
    """What ``first`` passes on must not be wrong to ``second``, which would blame it."""
    if first._validate(message) is Verdict.ACCEPT:
        assert second._validate(forwarded(message)) is not Verdict.REJECT


@pytest.mark.parametrize("change", [{"signature": bytes(65)}, {"content": b"{}"}, {"sequence": 0}], ids=range(3))
def test_a_forged_copy_of_what_a_node_has_is_not_passed_on_with_news(change: dict[str, Any]) -> None:
    first, book = a_sync()
    book.apply(GOOD)
    message = gossip(replace(GOOD, **change), record_of(KEY_A))
    assert first._validate(message) is not Verdict.ACCEPT
    assert_nobody_is_blamed_for(message, first, a_sync()[0])


def test_an_older_version_of_what_a_node_has_is_passed_on_with_news() -> None:
    sync, book = a_sync()
    book.apply(signed(KEY_A, replace(GOOD, sequence=7)))
    assert sync._validate(gossip(GOOD, record_of(KEY_A))) is Verdict.ACCEPT


def test_what_a_busy_node_did_not_verify_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = a_sync()
    spent = [False, True]
    monkeypatch.setattr(first, "_affordable", lambda *_: not spent.pop(0))
    message = gossip(record_of(KEY_A), replace(GOOD, signature=bytes(65)))
    assert first._validate(message) is Verdict.IGNORE


@pytest.mark.parametrize(
    ("first_s", "second_s"),
    [(GOOD.expires_at + 1, GOOD.expires_at - 1), (GOOD.issued_at, GOOD.issued_at - limits.MAX_CLOCK_SKEW_S - 1)],
    ids=["expired", "future"],
)
@pytest.mark.parametrize("change", [{}, {"signature": bytes(65)}], ids=["genuine", "forged"])
def test_two_clocks_make_no_forwarder_guilty(first_s: float, second_s: float, change: dict[str, Any]) -> None:
    news = signed(KEY_A, replace(record_of(KEY_A), issued_at=min(first_s, second_s), expires_at=first_s + 600))
    message = gossip(news, replace(GOOD, **change))
    assert_nobody_is_blamed_for(message, a_sync(first_s)[0], a_sync(second_s)[0])


def test_a_record_from_the_future_is_nobodys_fault() -> None:
    sync, book = a_sync(now=GOOD.issued_at - limits.MAX_CLOCK_SKEW_S - 1)
    assert sync._validate(gossip(GOOD)) is Verdict.IGNORE
    assert len(book) == 0


@pytest.mark.parametrize(
    "change",
    [{"content": b'{"constraints":"()","properties":{}}'}, {"kind": RecordKind.OFFER}],
    ids=["content", "kind"],
)
def test_an_issuer_with_two_contents_for_one_id_makes_no_forwarder_guilty(change: dict[str, Any]) -> None:
    other = signed(KEY_A, replace(GOOD, **change))
    later = other.renewed(now=NOW + 1, ttl_s=60, sequence=9)
    body = {"records": [], "renewals": [RenewalBody.of(signed(KEY_A, later)).to_wire()]}
    message = GossipMessage(TOPIC, KEY_A.peer_id, KEY_A.peer_id, msgpack.packb(body))
    (first, book), (second, others_book) = a_sync(), a_sync()
    book.apply(other)
    others_book.apply(GOOD)
    assert first._validate(message) is Verdict.ACCEPT
    passed_on = forwarded(message)
    assert second._validate(passed_on) is Verdict.IGNORE
    assert second._connections.receive_nowait() == passed_on.forwarder  # it compares, and so gets the other content
