"""What the auditor keeps of an agreement, and the checks that need no more than that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from golemp2p.core.agreement import Agreement
from golemp2p.core.eip712 import Domain, Struct, Value, digest
from golemp2p.core.ids import ActivityId, Address
from golemp2p.core.money import ZERO, Amount, format_amount, linear_cost
from golemp2p.core.payment.auditterms import SignedAgreement
from golemp2p.core.payment.documents import DEBIT_NOTE_STRUCT, parse_usage
from golemp2p.core.payment.journal import message_of
from golemp2p.core.payment.ledger import Ledger
from golemp2p.core.payment.machines import Side
from golemp2p.core.payment.policy import exceeds
from golemp2p.core.peer import recover_address
from golemp2p.errors import RemoteProtocolError, UsageError


@dataclass
class Document:
    """``amount`` and what else its entry says; dead: rejected or never sent."""

    struct: Struct
    message: dict[str, Value]
    digest: bytes
    entry: int
    dead: bool = False
    accepted: bool = False

    @property
    def is_note(self) -> bool:
        return self.struct is DEBIT_NOTE_STRUCT

    @property
    def amount(self) -> Amount:
        return amount_of(self.message["totalAmountDue" if self.is_note else "amount"])

    @property
    def activity(self) -> ActivityId:
        return ActivityId(str(self.message["activityId"]))


@dataclass
class Book:
    """One agreement from one side."""

    terms: SignedAgreement
    side: Side
    ledger: Ledger = field(default_factory=Ledger)
    documents: dict[str, Document] = field(default_factory=dict)
    notes: dict[ActivityId, list[Document]] = field(default_factory=dict)  # of each activity, oldest first
    platform: str = ""
    last_payment: int = 0  # its entry
    vouched: Amount = ZERO
    claimed: Amount = ZERO  # the part of what is paid that came through channels
    uncovered: Amount = ZERO  # the part of what was vouched for that no claim can ever pay: owed in another way
    last_voucher: int = 0  # its entry

    def last_note(self, activity: ActivityId) -> Document | None:
        return next((note for note in reversed(self.notes.get(activity, [])) if not note.dead), None)

    def invoice(self) -> Document | None:
        return next((d for d in self.documents.values() if not d.is_note and not d.dead), None)


@dataclass
class Notice:
    message: dict[str, Value]
    shares: list[tuple[Book, Amount]]
    decided: bool = False


def check_price(agreement: Agreement, bill: Document, notes: Iterable[Document], where: str) -> None:
    """What was accepted is not above the agreed price of the usage that ``notes`` report. Raises."""
    if bill.amount == ZERO:
        return
    try:
        usages = [parse_usage(str(note.message["usage"])) for note in notes]
        price = sum(linear_cost(agreement.price_coeffs, usage) for usage in usages)
    except UsageError as exc:
        raise RemoteProtocolError(f"the price of {where} cannot be checked: {exc.message}") from exc
    if exceeds(bill.amount, price):
        raise RemoteProtocolError(
            f"{format_amount(bill.amount)} was accepted, more than the agreed price of the usage that {where} report"
            f" ({format_amount(price)})"
        )


def check_parties(book: Book, message: Mapping[str, Value], noun: str, *, agreement: bool = True) -> None:
    terms = book.terms
    if agreement:
        require(message["agreementId"] == terms.id, f"the {noun} is about another agreement")
    require(
        message["payer"] == terms.payer and message["payee"] == terms.payee,
        f"the {noun}'s payer or payee is not the agreement's",
    )
    require(str(message["platform"]) in terms.platforms, f"the {noun}'s platform is not the agreed one")


def signed(struct: Struct, body: dict[str, Any]) -> dict[str, Value]:
    require_fields(body, "side", "message", "signature")
    return message_of(struct, body["message"])


def check_signature(
    domain: Domain,
    struct: Struct,
    message: Mapping[str, Value],
    body: Mapping[str, Any],
    signer: Address,
    what: str,
    whose: str,
) -> None:
    try:
        signature = bytes.fromhex(body["signature"])
        if (
            signature.hex() == body["signature"]
            and recover_address(digest(domain, struct, message), signature) == signer
        ):
            return
    except (ValueError, TypeError, RemoteProtocolError):
        pass  # however malformed, it is not the one that it should be
    raise RemoteProtocolError(f"{what} is not signed by the {whose}: something in it was changed")


def require_fields(body: Mapping[str, Any], *names: str) -> None:
    if set(body) != set(names):
        raise RemoteProtocolError(f"the body has the fields {', '.join(names)} and no others")


def side_of(body: Mapping[str, Any]) -> Side:
    try:
        return Side(body["side"])
    except (KeyError, ValueError) as exc:
        raise RemoteProtocolError("side is neither payer nor payee") from exc


def require(holds: bool, reason: str) -> None:
    if not holds:
        raise RemoteProtocolError(reason)


def whole(text: object) -> int:
    require(isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 80, "an amount is malformed")
    return int(str(text))


def amount_of(value: Value) -> Amount:
    assert isinstance(value, int)
    return Amount(value)


def texts_of(value: Value) -> list[str]:
    assert isinstance(value, list)
    return value


def bytes_of(value: Value) -> bytes:
    assert isinstance(value, bytes)
    return value
