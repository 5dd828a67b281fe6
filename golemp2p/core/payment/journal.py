"""The journal of money: what an entry is, how entries are chained, and the bodies of the kinds of entries.

An entry is JSON in one canonical spelling (RFC 8785, with whole numbers below 2^53 only: sorted names, no white space,
UTF-8 as it is). Its hash is the SHA-256 of the entry without ``hash``, and it names the hash of the entry before it:
nothing can be changed, removed or put in between without every later hash being another. See protocols/payment.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from golemp2p.core.agreement import Agreement
from golemp2p.core.eip712 import Domain, Struct, Value
from golemp2p.core.payment.claims import Leg
from golemp2p.core.payment.documents import (
    ACCEPTANCE_STRUCT,
    DEBIT_NOTE_STRUCT,
    INVOICE_STRUCT,
    PAYMENT_NOTICE_STRUCT,
    Acceptance,
    Document,
    DocumentKind,
    PaymentNotice,
)
from golemp2p.core.payment.machines import Side
from golemp2p.errors import RemoteProtocolError

GENESIS: Final = "00" * 32  # what the first entry names as the one before it
_MOST: Final = 2**53  # whole numbers that every JSON reader keeps exact

Body = Mapping[str, object]


class EntryKind(StrEnum):
    """The kinds whose bodies this version checks. Others may be in a journal: they are chained, and listed."""

    AGREEMENT = "agreement"
    DEBIT_NOTE = "debit_note"
    INVOICE = "invoice"
    CANCELLATION = "cancellation"  # an issued document that was never sent
    ACCEPTANCE = "acceptance"
    REJECTION = "rejection"
    PAYMENT_NOTICE = "payment_notice"
    PAYMENT = "payment"  # borne out by the chain, finally
    PAYMENT_REFUSED = "payment_refused"
    VOUCHER = "voucher"  # made or received
    CLAIM = "claim"  # of a channel, finally on the chain
    CHANNEL_CLOSED = "channel_closed"  # with vouchers beyond its deposit: the payer owes that in another way


def canonical(value: object) -> str:
    """The one spelling. Raises ValueError for what has none: fractions, large numbers, lone surrogates."""
    text = json.dumps(_checked(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    text.encode()  # a lone surrogate has no UTF-8
    return text


def _checked(value: object) -> object:
    match value:
        case None | bool() | str():
            return value
        case int() if -_MOST < value < _MOST:
            return int(value)
        case list() | tuple():
            return [_checked(item) for item in value]
        case dict() if all(isinstance(name, str) and name.isascii() for name in value):
            return {str(name): _checked(item) for name, item in value.items()}
    raise ValueError(f"{value!r:.80} has no place in a journal")


@dataclass(frozen=True)
class Entry:
    """``body`` is canonical JSON; ``agreement_id`` "" for what is about several; ``previous`` 64 hex digits."""

    seq: int  # from 1, without gaps
    time_ms: int
    kind: str
    agreement_id: str
    body: str
    previous: str

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(f"{self._head},{self._tail}".encode()).hexdigest()

    @property
    def line(self) -> str:
        """As it stands in an exported file, without the line's end."""
        return f'{self._head},"hash":"{self.hash}",{self._tail}'

    # Names are sorted: "hash" comes between "body" and "kind".
    @property
    def _head(self) -> str:
        return f'{{"agreement":{canonical(self.agreement_id)},"body":{self.body}'

    @property
    def _tail(self) -> str:
        return f'"kind":"{self.kind}","previous":"{self.previous}","seq":{self.seq},"time":{self.time_ms}}}'


# --- signed messages as JSON ----------------------------------------------------------------------------------------


def message_json(struct: Struct, message: Mapping[str, Value]) -> dict[str, object]:
    """uint128 and uint256 as decimal text, uint64 as numbers, bytes as 0x and hex, the rest as it is."""
    return {name: _value_json(kind, message[name]) for kind, name in struct.fields}


def _value_json(kind: str, value: Value) -> object:
    if kind in ("uint128", "uint256"):
        return str(value)
    return "0x" + value.hex() if isinstance(value, bytes) else value


def message_of(struct: Struct, found: object) -> dict[str, Value]:
    """The inverse of :func:`message_json`. Raises RemoteProtocolError naming the field that is wrong."""
    if not isinstance(found, dict) or set(found) != {name for _, name in struct.fields}:
        raise RemoteProtocolError(f"a {struct.name} has the fields {', '.join(name for _, name in struct.fields)}")
    return {name: _value_of(struct, kind, name, found[name]) for kind, name in struct.fields}


def _value_of(struct: Struct, kind: str, name: str, found: object) -> Value:
    match kind, found:
        case (("uint128" | "uint256"), str()) if _is_decimal(found) and int(found) < 1 << int(kind[4:]):
            return int(found)
        case "uint64", int() if type(found) is int and 0 <= found < _MOST:
            return found
        case "address", str() if _is_hex(found, 40):
            return found
        case "bytes32", str() if _is_hex(found, 64):
            return bytes.fromhex(found[2:])
        case "string", str():
            return found
        case "bool", bool():
            return found
        case "string[]", list() if all(isinstance(item, str) for item in found):
            return [str(item) for item in found]
    raise RemoteProtocolError(f"{struct.name}.{name} is no {kind}: {found!r:.80}")


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 80 and (text == "0" or text[0] != "0")


def _is_hex(text: str, digits: int) -> bool:
    return len(text) == digits + 2 and text.startswith("0x") and not set(text[2:]) - set("0123456789abcdef")


def signed_body(side: Side, struct: Struct, message: Mapping[str, Value], signature: bytes) -> dict[str, object]:
    """Of every entry that holds a signed message. ``side``: which end of the payment wrote it down; a node that buys
    from itself writes both."""
    return {"side": side.value, "message": message_json(struct, message), "signature": signature.hex()}


# --- bodies ---------------------------------------------------------------------------------------------------------


def agreement_body(agreement: Agreement, domain: Domain) -> dict[str, object]:
    """What both sides signed, to the byte, and the domain in which they and all documents under it are signed."""
    message = agreement.signed_message()
    return {
        "network": domain.network,
        "chainId": domain.chain_id,
        "id": agreement.id,
        "requestor": agreement.requestor,
        "provider": agreement.provider,
        "content": agreement.content.decode(),
        "createdAt": message["createdAt"],
        "validTo": message["validTo"],
        "requestorSignature": agreement.requestor_signature.hex(),
        "providerSignature": agreement.provider_signature.hex(),
    }


def document_struct(kind: DocumentKind) -> Struct:
    return DEBIT_NOTE_STRUCT if kind is DocumentKind.DEBIT_NOTE else INVOICE_STRUCT


def document_body(side: Side, document: Document, signature: bytes) -> dict[str, object]:
    return signed_body(side, document_struct(document.kind), document.message(), signature)


def acceptance_body(side: Side, acceptance: Acceptance, domain: Domain, signature: bytes) -> dict[str, object]:
    return signed_body(side, ACCEPTANCE_STRUCT, acceptance.message(domain), signature)


def cancellation_body(side: Side, document: Document) -> dict[str, object]:
    return {"side": side.value, "documentId": document.id}


def rejection_body(side: Side, document: Document, code: str, message: str) -> dict[str, object]:
    return {"side": side.value, "documentId": document.id, "code": code, "message": message}


def notice_body(side: Side, notice: PaymentNotice, signature: bytes) -> dict[str, object]:
    return signed_body(side, PAYMENT_NOTICE_STRUCT, notice.message(), signature)


def payment_body(
    side: Side,
    notice_id: str,
    *,
    chain_id: int,
    transaction: str,
    block_number: int | None,
    block_hash: str | None,
    legs: Sequence[Leg] = (),
) -> dict[str, object]:
    """``legs``: the Transfer events that pay this notice, as the payee found them; the payer gives none.

    No block: another transaction than the one sent last did the batch; the payer knows it by its hash alone.
    """
    return {
        "side": side.value,
        "noticeId": notice_id,
        "chainId": chain_id,
        "transaction": transaction,
        "blockNumber": block_number,
        "blockHash": block_hash,
        "legs": [
            {
                "logIndex": leg.log_index,
                "token": leg.token,
                "from": leg.sender,
                "to": leg.recipient,
                "amount": str(leg.amount),
            }
            for leg in legs
        ],
    }


def refusal_body(side: Side, notice_id: str, transaction: str, reason: str) -> dict[str, object]:
    return {"side": side.value, "noticeId": notice_id, "transaction": transaction, "reason": reason}


def parse_object(text: str) -> dict[str, Any]:
    """An object in canonical spelling. Raises RemoteProtocolError."""
    try:
        found = json.loads(text, parse_float=_no_fraction, parse_constant=_no_fraction)
        if isinstance(found, dict) and canonical(found) == text:
            return found
    except (ValueError, RecursionError) as exc:
        raise RemoteProtocolError(f"not canonical JSON: {exc}") from exc
    raise RemoteProtocolError("not an object in canonical JSON: another spelling, or a name given twice")


def _no_fraction(text: str) -> float:
    raise ValueError(f"{text[:20]} is not a whole number")
