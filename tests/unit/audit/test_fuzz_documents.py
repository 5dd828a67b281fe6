"""Every signed document, as it goes over the wire: one changed byte is refused, and the reason names the document.

Each case is the receiving side's own code: parse, then judge. What goes over the wire but is not signed (the id of the
proposal beside an agreement) must be what the receiver expects.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from golemp2p.core.agreement import AgreementState, Role
from golemp2p.core.ids import Address, DocumentId
from golemp2p.core.money import Amount
from golemp2p.core.payment import Acceptance, Document, PaymentNotice
from golemp2p.core.payment.auditfile import parse_header
from golemp2p.core.payment.vouchers import ChannelConfig, Voucher, VoucherDomain, check_voucher
from golemp2p.core.peer import recover_address
from golemp2p.core.properties import Properties
from golemp2p.core.receipt import Receipt, verify_receipt
from golemp2p.core.records import RecordKind, make_record, subscription_id_of, verify_record
from golemp2p.errors import GolemError, RemoteProtocolError
from golemp2p.market.agreements import signature_ok
from golemp2p.market.comparing import records_body
from golemp2p.net.record import seal, unseal
from golemp2p.payment.messages import document_message, document_of, notice_message, notice_of, parse
from golemp2p.storage.market import agreement_from_parts
from golemp2p.wire.p2p import channels as channel_wire
from golemp2p.wire.p2p import payment as wire
from golemp2p.wire.p2p.market import AgreementBody, ApproveBody, RecordBody
from tests.unit.audit.exchange import AGREEMENT, DOMAIN, START_MS, Exchange, fixed_key, glm, make_signed_agreement
from tests.unit.core.test_receipt import RECEIPT

REQUESTOR, PROVIDER = fixed_key(1), fixed_key(2)
NOW = START_MS / 1000
EXCHANGE = Exchange()
EXCHANGE.agree()
NOTE = EXCHANGE.note("n1", "0.6", usage="[100.0, 0.0]")
INVOICE = EXCHANGE.invoice("i1", "0.6")


@dataclass(frozen=True)
class Case:
    """``check`` raises GolemError for what is refused; ``names`` is in every reason."""

    data: bytes
    check: Callable[[bytes], None]
    names: str


def unpack(data: bytes, what: str) -> dict[str, Any]:
    """As the RPC does it: what is no msgpack does not get any further."""
    try:
        found = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as exc:
        raise RemoteProtocolError(f"{what}: not msgpack") from exc
    if not isinstance(found, dict):
        raise RemoteProtocolError(f"{what}: no map")
    return found


def record(kind: RecordKind) -> Case:
    properties: Properties = {
        "golem.runtime.name": "wasmtime",
        "golem.com.pricing.model.linear.coeffs": [0.0, 0.1, 0.5],
        "ü": True,
    }
    made = make_record(
        RecordKind.OFFER if kind is RecordKind.WITHDRAWAL else kind,
        subscription_id_of(PROVIDER.peer_id, b"n" * 16),
        PROVIDER.peer_id,
        properties,
        "(golem.inf.cpu.threads>1)",
        now=NOW,
        sequence=1,
    )
    if kind is RecordKind.WITHDRAWAL:
        made = made.withdrawn(now=NOW, sequence=2)
    made = replace(made, signature=PROVIDER.sign(made.digest(DOMAIN)))

    def check(data: bytes) -> None:
        body = unpack(data, "record")  # of a page of records, whose own fields are not signed
        (found,) = records_body({"records": [body], "more": False}).records
        verify_record(found.record(), DOMAIN, now=NOW)

    return Case(
        msgpack.packb(RecordBody.of(made).to_wire()),
        check,
        "record|malformed records|terms|PeerId|[Ss]ignature|property|withdrawal",
    )


def agreement() -> Case:
    signed = make_signed_agreement(REQUESTOR, PROVIDER)
    body = AgreementBody(
        id=signed.id,
        proposal="cd" * 32,
        content=signed.content,
        created_at=round(signed.created_at * 1000),
        valid_to=round(signed.valid_to * 1000),
        signature=signed.requestor_signature,
    )

    def check(data: bytes) -> None:
        try:
            found = AgreementBody.model_validate(unpack(data, "agreement"))
            if found.proposal != "cd" * 32:
                raise RemoteProtocolError("agreement of an unknown proposal")
            made = agreement_from_parts(
                Role.PROVIDER,
                found.id,
                found.content,
                requestor=REQUESTOR.peer_id,
                provider=PROVIDER.peer_id,
                created_at=found.created_at / 1000,
                valid_to=found.valid_to / 1000,
                state=AgreementState.PENDING,
            )
        except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise RemoteProtocolError(f"agreement: {exc}") from exc
        if not signature_ok(made, DOMAIN, found.signature, REQUESTOR.peer_id):
            raise RemoteProtocolError("agreement is not signed by its requestor")

    return Case(msgpack.packb(body.to_wire()), check, "agreement|property")


def approval() -> Case:
    signed = make_signed_agreement(REQUESTOR, PROVIDER)
    body = ApproveBody(id=signed.id, signature=signed.provider_signature)

    def check(data: bytes) -> None:
        try:
            found = ApproveBody.model_validate(unpack(data, "approval"))
        except ValidationError as exc:
            raise RemoteProtocolError(f"approval: {exc}") from exc
        if found.id != signed.id or not signature_ok(signed, DOMAIN, found.signature, PROVIDER.peer_id):
            raise RemoteProtocolError("approval is not signed by the agreement's provider")

    return Case(msgpack.packb(body.to_wire()), check, "approval")


def document(made: Document) -> Case:
    message = document_message(made, PROVIDER.sign(made.digest(DOMAIN)))
    name = type(message).__name__

    def check(data: bytes) -> None:
        found = parse(type(message), unpack(data, name))
        if recover(document_of(found).digest(DOMAIN), found.signature, name) != PROVIDER.address:
            raise RemoteProtocolError(f"{name}: the signature is not the provider's")

    return Case(msgpack.packb(message.model_dump()), check, f"{name}|usage|amount")


def acceptance() -> Case:
    made = Acceptance(NOTE, START_MS)
    message = wire.AcceptanceMessage(
        kind="debit_note", document_id=NOTE.id, accepted_at=START_MS, signature=REQUESTOR.sign(made.digest(DOMAIN))
    )
    known: dict[tuple[str, str], Document] = {("debit_note", NOTE.id): NOTE, ("invoice", INVOICE.id): INVOICE}

    def check(data: bytes) -> None:
        found = parse(wire.AcceptanceMessage, unpack(data, "AcceptanceMessage"))
        if (found.kind, found.document_id) not in known:
            raise RemoteProtocolError("AcceptanceMessage: unknown document")
        accepted = Acceptance(known[found.kind, found.document_id], found.accepted_at)
        if recover(accepted.digest(DOMAIN), found.signature, "AcceptanceMessage") != REQUESTOR.address:
            raise RemoteProtocolError("AcceptanceMessage: the signature is not the requestor's")

    return Case(msgpack.packb(message.model_dump()), check, "AcceptanceMessage")


def notice() -> Case:
    made = PaymentNotice(
        "p1", REQUESTOR.address, PROVIDER.address, NOTE.platform, "0x" + "5e" * 32,
        ((AGREEMENT, glm("0.6")),), (DocumentId("i1"),), START_MS,
    )  # fmt: skip
    message = notice_message(made, REQUESTOR.sign(made.digest(DOMAIN)))

    def check(data: bytes) -> None:
        found = parse(wire.PaymentNoticeMessage, unpack(data, "PaymentNoticeMessage"))
        if recover(notice_of(found).digest(DOMAIN), found.signature, "PaymentNoticeMessage") != REQUESTOR.address:
            raise RemoteProtocolError("PaymentNoticeMessage: the signature is not its sender's")

    return Case(msgpack.packb(message.model_dump()), check, "PaymentNoticeMessage|amount|payment notice")


def voucher() -> Case:
    domain = VoucherDomain(31337, Address("0x" + "c0" * 20))
    config = ChannelConfig(REQUESTOR.address, PROVIDER.address, fixed_key(3).address, 86_400, b"s" * 32)
    made = Voucher(config.id, glm("0.6"), fixed_key(3).sign(domain.digest(config.id, glm("0.6"))))

    def check(data: bytes) -> None:
        found = unpack(data, "voucher")
        if set(found) != {"channel_id", "cumulative", "signature"}:
            raise RemoteProtocolError("voucher: other fields")
        message = parse(channel_wire.VoucherMessage, {**found, "agreement_id": AGREEMENT, "total": "1"})
        cumulative = Amount(int(message.cumulative))
        check_voucher(domain, config, Voucher(bytes.fromhex(message.channel_id[2:]), cumulative, message.signature))

    packed = {
        "channel_id": "0x" + made.channel_id.hex(),
        "cumulative": str(made.cumulative),
        "signature": made.signature,
    }
    return Case(msgpack.packb(packed), check, "voucher|VoucherMessage|[Ss]ignature")


def receipt() -> Case:
    def check(data: bytes) -> None:
        found = Receipt.from_document(unpack(data, "receipt"))
        verify_receipt(found)
        if found != RECEIPT:  # another provider's, of something else: not the one that we ask for
            raise RemoteProtocolError("receipt is another")

    return Case(msgpack.packb(RECEIPT.to_document()), check, "receipt|PeerId|[Ss]ignature")


def identity() -> Case:
    key = f"peer/{PROVIDER.peer_id}/about"
    data = seal(PROVIDER, "local", key, b"\x00\x01", now_s=NOW, ttl_s=600)

    def check(data: bytes) -> None:
        unseal(data, "local", key, now_s=NOW)

    return Case(data, check, "DHT record|[Ss]ignature")


def audit_header() -> Case:
    def check(data: bytes) -> None:
        found = parse_header(data.decode(errors="surrogateescape"))
        if found.node != PROVIDER.peer_id:
            raise RemoteProtocolError("header of another node")

    return Case(
        EXCHANGE.payee.lines[0].encode(), check, "header|JSON|journal|fields|malformed|type|PeerId|[Ss]ignature"
    )


def recover(digest: bytes, signature: bytes, what: str) -> Address:
    try:
        return recover_address(digest, signature)
    except RemoteProtocolError as exc:
        raise RemoteProtocolError(f"{what}: {exc.message}") from exc


CASES = {
    "offer": record(RecordKind.OFFER),
    "demand": record(RecordKind.DEMAND),
    "withdrawal": record(RecordKind.WITHDRAWAL),
    "agreement": agreement(),
    "approval": approval(),
    "debit note": document(NOTE),
    "invoice": document(INVOICE),
    "acceptance": acceptance(),
    "payment notice": notice(),
    "voucher": voucher(),
    "receipt": receipt(),
    "identity record": identity(),
    "audit header": audit_header(),
}


@pytest.mark.parametrize("name", CASES)
def test_the_untouched_document_is_taken(name: str) -> None:
    CASES[name].check(CASES[name].data)


@pytest.mark.parametrize("name", CASES)
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_one_changed_byte_is_refused_with_a_reason_that_names_it(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    raw = bytearray(case.data)
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(GolemError) as caught:
        case.check(bytes(raw))
    assert re.search(case.names, caught.value.message), caught.value.message


@pytest.mark.parametrize("name", CASES)
@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_cut_document_is_refused(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    with pytest.raises(GolemError):
        case.check(case.data[: data.draw(st.integers(0, len(case.data) - 1))])
