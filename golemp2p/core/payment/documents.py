"""Debit notes, invoices, acceptances and payment notices: the facts, and the EIP-712 messages that are signed.

Times inside documents are whole milliseconds since the epoch (0: none), amounts integers of the smallest unit, and
the usage vector the exact JSON text that was signed: nothing is re-encoded on its way. See protocols/payment.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from golemp2p.core.eip712 import Domain, Struct, Value, digest
from golemp2p.core.ids import ActivityId, Address, AgreementId, DocumentId
from golemp2p.core.money import Amount
from golemp2p.errors import UsageError


class DocumentKind(StrEnum):
    DEBIT_NOTE = "debit_note"
    INVOICE = "invoice"

    @property
    def noun(self) -> str:
        return "debit note" if self is DocumentKind.DEBIT_NOTE else "invoice"


DEBIT_NOTE_STRUCT: Final = Struct(
    "DebitNote",
    (
        ("string", "id"),
        ("string", "previousId"),
        ("string", "agreementId"),
        ("string", "activityId"),
        ("address", "payer"),
        ("address", "payee"),
        ("string", "platform"),
        ("uint128", "totalAmountDue"),
        ("string", "usage"),
        ("uint64", "dueAt"),
        ("uint64", "issuedAt"),
    ),
)
INVOICE_STRUCT: Final = Struct(
    "Invoice",
    (
        ("string", "id"),
        ("string", "agreementId"),
        ("string[]", "activityIds"),
        ("address", "payer"),
        ("address", "payee"),
        ("string", "platform"),
        ("uint128", "amount"),
        ("uint64", "dueAt"),
        ("uint64", "issuedAt"),
    ),
)
ACCEPTANCE_STRUCT: Final = Struct(
    "Acceptance",
    (
        ("string", "documentId"),
        ("bytes32", "document"),  # the digest that the issuer signed: an acceptance is of these very words
        ("string", "agreementId"),
        ("address", "payer"),
        ("address", "payee"),
        ("string", "platform"),
        ("uint128", "amount"),
        ("uint64", "acceptedAt"),
    ),
)
PAYMENT_NOTICE_STRUCT: Final = Struct(
    "PaymentNotice",
    (
        ("string", "id"),
        ("address", "payer"),
        ("address", "payee"),
        ("string", "platform"),
        ("bytes32", "transaction"),
        ("uint128", "amount"),
        ("string[]", "agreementIds"),
        ("string[]", "amounts"),  # decimal integers of the smallest unit, one for each agreement
        ("string[]", "documentIds"),
        ("uint64", "paidAt"),
    ),
)


@dataclass(frozen=True)
class Document:
    """A debit note or an invoice, as its issuer wrote it."""

    kind: DocumentKind
    id: DocumentId
    agreement_id: AgreementId
    activity_ids: tuple[ActivityId, ...]  # exactly one for a debit note
    payer: Address
    payee: Address
    platform: str
    amount: Amount  # cumulative: of the activity (debit note), of the agreement (invoice)
    issued_at_ms: int
    due_at_ms: int = 0  # 0: not payable before the invoice (debit notes only)
    usage: str = "[]"  # JSON array of numbers, in the order of the agreed usage vector
    previous_id: str = ""

    @property
    def activity_id(self) -> ActivityId:
        return self.activity_ids[0]

    @property
    def payable(self) -> bool:
        """Whether acceptance makes it due: invoices always, debit notes when they carry a due date."""
        return self.kind is DocumentKind.INVOICE or self.due_at_ms > 0

    @property
    def usage_vector(self) -> list[float]:
        """Raises UsageError when the usage text is not a JSON array of finite numbers."""
        return parse_usage(self.usage)

    def digest(self, domain: Domain) -> bytes:
        struct = INVOICE_STRUCT if self.kind is DocumentKind.INVOICE else DEBIT_NOTE_STRUCT
        return digest(domain, struct, self.message())

    def message(self) -> dict[str, Value]:
        """The message of its struct."""
        common: dict[str, Value] = {
            "id": self.id,
            "agreementId": self.agreement_id,
            "payer": self.payer,
            "payee": self.payee,
            "platform": self.platform,
            "dueAt": self.due_at_ms,
            "issuedAt": self.issued_at_ms,
        }
        if self.kind is DocumentKind.INVOICE:
            return {**common, "activityIds": list(self.activity_ids), "amount": self.amount}
        return {
            **common,
            "previousId": self.previous_id,
            "activityId": self.activity_id,
            "totalAmountDue": self.amount,
            "usage": self.usage,
        }


@dataclass(frozen=True)
class Acceptance:
    """The payer's promise to pay up to the cumulative amount of one document."""

    document: Document
    accepted_at_ms: int

    def digest(self, domain: Domain) -> bytes:
        return digest(domain, ACCEPTANCE_STRUCT, self.message(domain))

    def message(self, domain: Domain) -> dict[str, Value]:
        """The message of its struct; the domain is part of what the document's digest says."""
        d = self.document
        return {
            "documentId": d.id,
            "document": d.digest(domain),
            "agreementId": d.agreement_id,
            "payer": d.payer,
            "payee": d.payee,
            "platform": d.platform,
            "amount": d.amount,
            "acceptedAt": self.accepted_at_ms,
        }


@dataclass(frozen=True)
class PaymentNotice:
    """The payer's word that one transaction pays these agreements. The payee believes the chain, not the word."""

    id: str
    payer: Address
    payee: Address
    platform: str
    transaction: str  # "0x" + 64 hex
    shares: tuple[tuple[AgreementId, Amount], ...]  # what each agreement gets; they add up to the transfer
    document_ids: tuple[DocumentId, ...]
    paid_at_ms: int

    @property
    def amount(self) -> Amount:
        return Amount(sum(amount for _, amount in self.shares))

    def digest(self, domain: Domain) -> bytes:
        return digest(domain, PAYMENT_NOTICE_STRUCT, self.message())

    def message(self) -> dict[str, Value]:
        """The message of its struct."""
        return {
            "id": self.id,
            "payer": self.payer,
            "payee": self.payee,
            "platform": self.platform,
            "transaction": bytes.fromhex(self.transaction[2:]),
            "amount": self.amount,
            "agreementIds": [str(agreement) for agreement, _ in self.shares],
            "amounts": [str(amount) for _, amount in self.shares],
            "documentIds": [str(i) for i in self.document_ids],
            "paidAt": self.paid_at_ms,
        }


def parse_usage(text: str) -> list[float]:
    """A usage vector's JSON text. Raises UsageError."""
    try:
        # NaN and Infinity are not JSON; Python's parser must be told.
        values = json.loads(text, parse_constant=_not_a_number)
    except ValueError as exc:
        raise UsageError(f"usage {text[:80]!r} is not a JSON array of numbers") from exc
    if not isinstance(values, list) or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e30 for v in values
    ):
        raise UsageError(f"usage {text[:80]!r} is not a JSON array of numbers")
    return [float(v) for v in values]


def _not_a_number(name: str) -> float:
    raise ValueError(name)
