"""What other nodes send is judged: forged, replayed, foreign and malformed messages change nothing."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from golemp2p.core.agreement import Role
from golemp2p.core.ids import Address, AgreementId, DocumentId
from golemp2p.core.money import Amount
from golemp2p.core.payment import (
    Document,
    DocumentKind,
    DocumentState,
    Leg,
    MinedTransfers,
    PaymentNotice,
    judge_claim,
)
from golemp2p.errors import ConflictError, GolemError, NotFoundError, PolicyError, RemoteProtocolError
from golemp2p.identity.keys import NodeKey
from golemp2p.payment.messages import document_message, document_of, notice_message, parse
from golemp2p.wire.p2p import payment as wire
from tests.unit.payment.test_service import AG1, INVOICE, NOTE, accept, allocate, bill, reaches
from tests.unit.payment.world import ACTIVITY, DOMAIN, PLATFORM, TOKEN, World, glm, make_agreement, open_world


def invoice_of(world: World, **changes: Any) -> Document:
    document = Document(
        kind=DocumentKind.INVOICE,
        id=DocumentId(uuid.uuid4().hex),
        agreement_id=AG1,
        activity_ids=(ACTIVITY,),
        payer=world.requestor.key.address,
        payee=world.provider.key.address,
        platform=PLATFORM,
        amount=glm("1"),
        issued_at_ms=1,
        due_at_ms=2,
    )
    return replace(document, **changes)


async def offer(world: World, document: Document, *, key: NodeKey | None = None, sender: NodeKey | None = None) -> None:
    """Send it to the requestor, signed by ``key``, from ``sender``: the provider by default."""
    key, sender = key or world.provider.key, sender or world.provider.key
    message = document_message(document, key.sign(document.digest(DOMAIN)))
    method = wire.SEND_INVOICE if document.kind is INVOICE else wire.SEND_DEBIT_NOTE
    handler = world.requestor.rpc.handlers[f"{wire.PROTOCOL} {method}"]
    await handler(sender.peer_id, msgpack.unpackb(msgpack.packb(message.model_dump())))


async def test_documents_that_are_not_what_was_agreed_are_refused_by_name(autojump_clock: object) -> None:
    async with open_world() as world:
        stranger = NodeKey.generate()
        with pytest.raises(RemoteProtocolError, match="signature is not the provider's"):
            await offer(world, invoice_of(world), key=stranger)
        with pytest.raises(PolicyError, match="not between us"):
            await offer(world, invoice_of(world), sender=stranger)
        with pytest.raises(RemoteProtocolError, match="platform, payer or payee is not the agreed one"):
            await offer(world, invoice_of(world, payee=stranger.address))
        with pytest.raises(RemoteProtocolError, match="platform, payer or payee is not the agreed one"):
            await offer(world, invoice_of(world, platform="erc20-other-glm"))
        with pytest.raises(NotFoundError):
            await offer(world, invoice_of(world, agreement_id=AgreementId("unknown")))
        assert await world.requestor.service.list_documents(INVOICE) == []


async def test_the_same_id_with_other_contents_is_refused_and_a_repetition_is_not(autojump_clock: object) -> None:
    async with open_world() as world:
        invoice = invoice_of(world)
        await offer(world, invoice)
        await offer(world, invoice)
        with pytest.raises(ConflictError, match="with other contents"):
            await offer(world, replace(invoice, amount=glm("2")))
        with pytest.raises(ConflictError, match="has invoice"):
            await offer(world, invoice_of(world))
        assert len(await world.requestor.service.events(INVOICE)) == 1


async def test_an_acceptance_that_the_requestor_did_not_sign_counts_for_nothing(autojump_clock: object) -> None:
    async with open_world() as world:
        invoice = await bill(world, "1")
        handler = world.provider.rpc.handlers[f"{wire.PROTOCOL} {wire.ACCEPTANCE}"]
        body = {"kind": "invoice", "document_id": invoice, "accepted_at": 5, "signature": bytes(64) + b"\x1b"}
        with pytest.raises(RemoteProtocolError):
            await handler(world.requestor.key.peer_id, body)
        with pytest.raises(PolicyError):
            await handler(NodeKey.generate().peer_id, body)
        assert (await world.provider.service.document(INVOICE, invoice)).state is DocumentState.RECEIVED


async def test_a_notice_that_reuses_a_transaction_or_names_none_settles_nothing(autojump_clock: object) -> None:
    async with open_world() as world:
        allocation = await allocate(world)
        first = await bill(world, "1")
        await accept(world, INVOICE, first, "1", allocation)
        await reaches(world.provider, INVOICE, first, DocumentState.SETTLED)
        (honest,) = await world.provider.service.payments()
        second = await bill(world, "1", agreement=world.add_agreement("ag2"))
        world.chain.down = True  # it accepts, but does not pay
        await accept(world, INVOICE, second, "1", allocation)
        await reaches(world.provider, INVOICE, second, DocumentState.ACCEPTED)
        shares = ((AgreementId("ag2"), glm("1")),)
        reuse = replace(honest.notice, id="reuse", shares=shares, document_ids=(second,))
        absent = replace(reuse, id="absent", transaction="0x" + "42" * 32)
        handler = world.provider.rpc.handlers[f"{wire.PROTOCOL} {wire.PAYMENT_NOTICE}"]
        for notice in (reuse, absent):
            signature = world.requestor.key.sign(notice.digest(DOMAIN))
            await handler(world.requestor.key.peer_id, notice_message(notice, signature).model_dump())
        world.chain.down = False
        world.chain.fund(world.requestor.key.address, TOKEN, -glm("99"))
        await trio.sleep(200)
        states = {p.notice.id: (p.state, p.reason) for p in await world.provider.service.payments()}
        assert states["reuse"][0] == "refused"
        assert "paid for something else already" in states["reuse"][1]
        assert states["absent"][0] == "claimed"
        assert (await world.provider.service.document(INVOICE, second)).state is DocumentState.ACCEPTED
        with pytest.raises(RemoteProtocolError, match="not its sender's"):
            forged = NodeKey.generate().sign(reuse.digest(DOMAIN))
            await handler(world.requestor.key.peer_id, notice_message(reuse, forged).model_dump())


async def test_a_thief_cannot_name_an_honest_payer_and_claim_its_transaction(autojump_clock: object) -> None:
    """T's agreement names R as its payer; T claims R's transaction before R does."""
    async with open_world() as world:
        thief, honest, provider = NodeKey.generate(), world.requestor.key, world.provider
        stolen = make_agreement(thief, provider.key, "stolen")
        address = f"golem.com.payment.platform.{PLATFORM}.address"
        named = replace(stolen, role=Role.PROVIDER, demand={**stolen.demand, address: honest.address})
        provider.agreements.known[named.id] = named
        with pytest.raises(PolicyError, match=r"names the account .* not its requestor's"):
            await provider.service.documents.issue_invoice(named.id, glm("1"))
        elsewhere = {**named.offer, address: honest.address}
        provider.agreements.known[named.id] = replace(stolen, role=Role.PROVIDER, offer=elsewhere)
        with pytest.raises(PolicyError, match="not its provider's"):
            await provider.service.documents.issue_invoice(named.id, glm("1"))
        provider.agreements.known[named.id] = replace(stolen, role=Role.PROVIDER)
        await provider.service.documents.issue_invoice(named.id, glm("1"))
        allocation, invoice = await allocate(world), await bill(world, "1")
        world.requestor.rpc.cut = True  # its own words are late
        await accept(world, INVOICE, invoice, "1", allocation)
        await reaches(world.requestor, INVOICE, invoice, DocumentState.SETTLED)
        (payment,) = await world.requestor.service.payments()
        handler = provider.rpc.handlers[f"{wire.PROTOCOL} {wire.PAYMENT_NOTICE}"]
        claimed = replace(payment.notice, id="theft", shares=((named.id, glm("1")),), document_ids=())
        for notice in (claimed, replace(claimed, id="theft-2", payer=thief.address)):
            body = notice_message(notice, thief.sign(notice.digest(DOMAIN))).model_dump()
            if notice.payer == honest.address:
                with pytest.raises(PolicyError, match="not its sender"):
                    await handler(thief.peer_id, body)
            else:
                await handler(thief.peer_id, body)
        await trio.sleep(10)
        (theft,) = await provider.service.payments()
        assert theft.state == "refused"
        world.requestor.rpc.cut = False
        await reaches(provider, INVOICE, invoice, DocumentState.SETTLED)


async def test_a_bill_under_an_agreement_that_names_a_foreign_account_is_refused(autojump_clock: object) -> None:
    async with open_world() as world:
        known, stranger = world.requestor.agreements.known, NodeKey.generate()
        address = f"golem.com.payment.platform.{PLATFORM}.address"
        known[AG1] = replace(known[AG1], offer={**known[AG1].offer, address: stranger.address})
        with pytest.raises(PolicyError, match="not its provider's"):
            await offer(world, invoice_of(world, payee=stranger.address))


ME, YOU, OTHER = Address("0x" + "01" * 20), Address("0x" + "02" * 20), Address("0x" + "03" * 20)
TX = "0x" + "ab" * 32


def claim(amount: int) -> PaymentNotice:
    return PaymentNotice("n", ME, YOU, PLATFORM, TX, ((AG1, Amount(amount)),), (), 1)


def mined(*legs: Leg, succeeded: bool = True) -> MinedTransfers:
    return MinedTransfers(TX, 1, "0x", 1, succeeded, legs)


GOOD = Leg(0, TOKEN, ME, YOU, 5)


@pytest.mark.parametrize(
    ("legs", "amount", "used", "reason"),
    [
        ([GOOD], 5, set(), ""),
        ([GOOD, replace(GOOD, log_index=1, amount=2)], 7, set(), ""),
        ([GOOD, replace(GOOD, log_index=1, amount=2)], 2, {0}, ""),
        ([], 5, set(), "holds no transfer of token"),  # a native-coin transfer has no event
        ([replace(GOOD, token=OTHER)], 5, set(), "holds no transfer of token"),
        ([replace(GOOD, recipient=OTHER)], 5, set(), "holds no transfer of token"),
        ([replace(GOOD, sender=OTHER)], 5, set(), "holds no transfer of token"),
        ([GOOD], 6, set(), "the notice claims"),
        ([GOOD], 5, {0}, "paid for something else already"),
    ],
)
def test_only_fresh_transfers_of_the_token_from_payer_to_payee_count(
    legs: list[Leg], amount: int, used: set[int], reason: str
) -> None:
    found, why = judge_claim(claim(amount), mined(*legs), token=TOKEN, used_log_indices=used)
    assert reason in why
    assert bool(found) is (not reason)
    assert bool(why) is bool(reason)


def test_a_reverted_transaction_pays_nothing() -> None:
    assert "reverted" in judge_claim(claim(5), mined(GOOD, succeeded=False), token=TOKEN, used_log_indices=())[1]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([wire.DebitNoteMessage, wire.InvoiceMessage, wire.PaymentNoticeMessage]), st.data())
@settings(max_examples=150, deadline=None)
def test_any_body_parses_or_is_a_protocol_error(model: type[wire.Message], data: st.DataObject) -> None:
    body = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(model.model_fields, _JSON)))
    try:
        parse(model, body)
    except GolemError as exc:
        assert isinstance(exc, RemoteProtocolError)


def test_a_document_survives_the_wire_and_one_changed_field_changes_its_digest() -> None:
    note = Document(
        kind=DocumentKind.DEBIT_NOTE,
        id=DocumentId("id"),
        agreement_id=AG1,
        activity_ids=(ACTIVITY,),
        payer=ME,
        payee=YOU,
        platform=PLATFORM,
        amount=Amount(2**127),
        issued_at_ms=7,
        due_at_ms=9,
        usage="[1.5, 2]",
        previous_id="p",
    )
    assert document_of(document_message(note, bytes(65))) == note
    changes: dict[str, Any] = {
        "id": "x", "agreement_id": "x", "activity_ids": ("x",), "payer": OTHER, "payee": OTHER, "platform": "x",
        "amount": 1, "issued_at_ms": 8, "due_at_ms": 8, "usage": "[1.5, 3]", "previous_id": "",
    }  # fmt: skip
    digests = {replace(note, **{name: value}).digest(DOMAIN) for name, value in changes.items()}
    assert len(digests | {note.digest(DOMAIN)}) == len(changes) + 1
    assert NOTE is note.kind
