"""protocols/vectors/payment.json against the code, and our hand-made encodings against eth-account's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from golemp2p.core.eip712 import Domain, Struct
from golemp2p.core.ids import Address, AgreementId, DocumentId
from golemp2p.core.money import Amount
from golemp2p.core.payment import (
    ACCEPTANCE_STRUCT,
    ALLOCATION,
    DEBIT_NOTE_STRUCT,
    DOCUMENT,
    INVOICE_STRUCT,
    PAYMENT_NOTICE_STRUCT,
    SLOT,
    Acceptance,
    Fees,
    PaymentNotice,
)
from golemp2p.core.peer import recover_address
from golemp2p.identity.keys import NodeKey
from golemp2p.payment.drivers.transactions import Transaction
from golemp2p.payment.messages import document_message, document_of, notice_message, notice_of, parse
from golemp2p.wire.p2p import payment as wire

PROTOCOLS = Path(__file__).parents[3] / "protocols"
VECTORS: dict[str, Any] = json.loads((PROTOCOLS / "vectors" / "payment.json").read_text())
DOMAIN = Domain(VECTORS["domain"]["network"], VECTORS["domain"]["chainId"])
KEYS = {name: NodeKey(bytes.fromhex(secret)) for name, secret in VECTORS["keys"].items()}
STRUCTS = {s.name: s for s in (DEBIT_NOTE_STRUCT, INVOICE_STRUCT, ACCEPTANCE_STRUCT, PAYMENT_NOTICE_STRUCT)}
MODELS = {
    "DebitNote": wire.DebitNoteMessage,
    "Invoice": wire.InvoiceMessage,
    "PaymentNotice": wire.PaymentNoticeMessage,
}


def vector(name: str) -> dict[str, Any]:
    return next(v for v in VECTORS["messages"] if v["name"] == name)


@pytest.mark.parametrize("entry", VECTORS["messages"], ids=lambda v: v["name"])
def test_a_message_has_the_digest_and_signature_of_the_vector(entry: dict[str, Any]) -> None:
    key = KEYS[entry["signer"]]
    digest, signature = bytes.fromhex(entry["digest"]), bytes.fromhex(entry["signature"])
    body = msgpack.unpackb(bytes.fromhex(entry["msgpack"]))
    message: wire.Message
    match entry["struct"]:
        case "Acceptance":
            note = parse(wire.DebitNoteMessage, msgpack.unpackb(bytes.fromhex(vector("debit note")["msgpack"])))
            message = parse(wire.AcceptanceMessage, body)
            assert Acceptance(document_of(note), message.accepted_at).digest(DOMAIN) == digest
        case "PaymentNotice":
            message = parse(wire.PaymentNoticeMessage, body)
            assert notice_of(message).digest(DOMAIN) == digest
            assert notice_message(notice_of(message), signature) == message
        case struct:
            message = parse(wire.DebitNoteMessage if struct == "DebitNote" else wire.InvoiceMessage, body)
            assert isinstance(message, wire.DebitNoteMessage | wire.InvoiceMessage)
            assert document_of(message).digest(DOMAIN) == digest
            assert document_message(document_of(message), signature) == message
    assert STRUCTS[entry["struct"]].type_string == entry["type"]
    assert key.sign(digest) == signature
    assert recover_address(digest, signature) == key.address
    assert body["signature"] == signature
    assert msgpack.packb(message.model_dump()) == bytes.fromhex(entry["msgpack"])


@given(st.sampled_from(VECTORS["messages"]), st.data())
@settings(max_examples=200, deadline=None)
def test_one_changed_byte_is_refused_or_signed_by_nobody_we_know(entry: dict[str, Any], data: st.DataObject) -> None:
    signature = bytearray.fromhex(entry["signature"])
    place = data.draw(st.integers(0, 64))
    signature[place] ^= data.draw(st.integers(1, 255))
    try:
        signer = recover_address(bytes.fromhex(entry["digest"]), bytes(signature))
    except Exception as exc:  # noqa: BLE001 - any refusal is right, but it must be ours
        assert type(exc).__name__ == "RemoteProtocolError"
    else:
        # v = 27 and v = 0 name the same point.
        if place != 64:
            assert signer != KEYS[entry["signer"]].address


def typed_data(struct: Struct, message: dict[str, Any]) -> dict[str, Any]:
    return {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "salt", "type": "bytes32"},
            ],
            struct.name: [{"name": name, "type": kind} for kind, name in struct.fields],
        },
        "primaryType": struct.name,
        "domain": {**DOMAIN.fields},
        "message": message,
    }


def test_a_wallet_would_sign_the_same_payment_notice() -> None:
    notice = PaymentNotice(
        id="n",
        payer=Address("0x" + "0a" * 20),
        payee=Address("0x" + "0b" * 20),
        platform="erc20-local-tglm",
        transaction="0x" + "cd" * 32,
        shares=((AgreementId("x"), Amount(10**20)), (AgreementId("y"), Amount(1))),
        document_ids=(DocumentId("d"),),
        paid_at_ms=1,
    )
    message = {
        "id": "n",
        "payer": notice.payer,
        "payee": notice.payee,
        "platform": notice.platform,
        "transaction": bytes.fromhex(notice.transaction[2:]),
        "amount": 10**20 + 1,
        "agreementIds": ["x", "y"],
        "amounts": [str(10**20), "1"],
        "documentIds": ["d"],
        "paidAt": 1,
    }
    signable = encode_typed_data(full_message=typed_data(PAYMENT_NOTICE_STRUCT, message))
    theirs = keccak(b"\x19" + signable.version + signable.header + signable.body)
    assert notice.digest(DOMAIN) == theirs
    assert replace(notice, paid_at_ms=2).digest(DOMAIN) != theirs


@given(
    nonce=st.integers(0, 2**32),
    tip=st.integers(0, 2**40),
    max_fee=st.integers(0, 2**60),
    value=st.integers(0, 2**90),
    data=st.binary(max_size=100),
)
@settings(max_examples=50, deadline=None)
def test_our_transactions_are_byte_for_byte_those_of_eth_account(
    nonce: int, tip: int, max_fee: int, value: int, data: bytes
) -> None:
    key = KEYS["payer"]
    to = Address("0x" + "5a" * 20)
    ours = Transaction(31337, nonce, Fees(max_fee, tip), 100_000, to, value, data).sign(key)
    theirs = Account.sign_transaction(
        {
            "chainId": 31337,
            "nonce": nonce,
            "maxPriorityFeePerGas": tip,
            "maxFeePerGas": max_fee,
            "gas": 100_000,
            "to": bytes.fromhex(to[2:]),
            "value": value,
            "data": data,
        },
        key.secret,
    )
    assert (ours.raw, ours.hash) == (bytes(theirs.raw_transaction), "0x" + bytes(theirs.hash).hex())


def test_the_document_shows_the_tables_that_the_code_runs_on() -> None:
    text = (PROTOCOLS / "payment.md").read_text()
    for machine in (ALLOCATION, DOCUMENT, SLOT):
        assert machine.diagram() in text, f"protocols/payment.md: the diagram of {machine.name} is stale"
    for struct in STRUCTS.values():
        assert struct.type_string in text
