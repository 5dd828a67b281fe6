"""JSON of /payment-api/v1, in yagna's shapes (protocols/rest/README.md). Amounts are decimal strings."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from golemp2p import limits
from golemp2p.wire.rest.base import RestModel, Timestamp

AmountIn = str | int | float  # yagna takes JSON numbers too; text is exact, so clients send text


class PlatformParts(RestModel):
    driver: str | None = None
    network: str | None = None
    token: str | None = None


class Deposit(RestModel):
    """Tokens that somebody locked for this node's account. ``id``: in hex."""

    id: str
    contract: str
    validate_: dict[str, Any] | None = Field(default=None, alias="validate")


class DepositUpdate(RestModel):
    validate_: dict[str, Any] | None = Field(default=None, alias="validate")


class NewAllocation(RestModel):
    """Clients leave spentAmount, remainingAmount and allocationId as empty strings."""

    allocation_id: str = ""
    address: str | None = None
    payment_platform: str | PlatformParts | None = None
    total_amount: AmountIn
    timeout: Timestamp | None = None
    make_deposit: bool = False
    deposit: Deposit | None = None


class AllocationUpdate(RestModel):
    total_amount: AmountIn | None = None
    timeout: Timestamp | None = None
    deposit: DepositUpdate | None = None


class Allocation(RestModel):
    allocation_id: str
    address: str
    payment_platform: str
    total_amount: str
    spent_amount: str
    remaining_amount: str
    timestamp: Timestamp
    timeout: Timestamp | None = None
    make_deposit: bool = False
    deposit: Deposit | None = None


class Account(RestModel):
    platform: str
    address: str
    driver: str
    network: str
    token: str
    send: bool
    receive: bool


class DecorationProperty(RestModel):
    key: str
    value: str


class Decoration(RestModel):
    properties: list[DecorationProperty]
    constraints: list[str]


class NewDebitNote(RestModel):
    """``agreementId`` and ``debitNoteId`` are golemp2p's: the second makes a repeated request harmless."""

    debit_note_id: str | None = None
    agreement_id: str | None = None
    activity_id: str
    total_amount_due: AmountIn
    usage_counter_vector: list[float] | None = None
    payment_due_date: Timestamp | None = None


class NewInvoice(RestModel):
    """``invoiceId`` is golemp2p's: it makes a repeated request harmless."""

    invoice_id: str | None = None
    agreement_id: str
    activity_ids: list[str] | None = None
    amount: AmountIn
    payment_due_date: Timestamp | None = None


class DebitNote(RestModel):
    debit_note_id: str
    issuer_id: str
    recipient_id: str
    payee_addr: str
    payer_addr: str
    payment_platform: str
    previous_debit_note_id: str | None = None
    timestamp: Timestamp
    agreement_id: str
    activity_id: str
    total_amount_due: str
    usage_counter_vector: list[float]
    payment_due_date: Timestamp | None = None
    status: str
    status_reason: str | None = None  # golemp2p's: why it is rejected, or why the node leaves it to the agent


class Invoice(RestModel):
    invoice_id: str
    issuer_id: str
    recipient_id: str
    payee_addr: str
    payer_addr: str
    payment_platform: str
    timestamp: Timestamp
    agreement_id: str
    activity_ids: list[str]
    amount: str
    payment_due_date: Timestamp
    status: str
    status_reason: str | None = None


class Acceptance(RestModel):
    total_amount_accepted: AmountIn
    allocation_id: str


class Rejection(RestModel):
    rejection_reason: str = "UNSOLICITED_SERVICE"
    total_amount_accepted: AmountIn = "0"
    message: Annotated[str, Field(max_length=limits.MAX_REASON_CHARS)] | None = None


class PaymentEvent(RestModel):
    """One of invoiceId and debitNoteId is set."""

    event_type: str
    event_date: Timestamp
    invoice_id: str | None = None
    debit_note_id: str | None = None
    rejection: dict[str, Any] | None = None


class AgreementPayment(RestModel):
    agreement_id: str
    amount: str


class Payment(RestModel):
    """``status``, ``statusReason`` and ``transaction`` are golemp2p's; ``details`` is the transaction hash, base64."""

    payment_id: str
    payer_id: str
    payee_id: str
    payer_addr: str
    payee_addr: str
    payment_platform: str
    amount: str
    timestamp: Timestamp
    agreement_payments: list[AgreementPayment]
    activity_payments: list[AgreementPayment]
    document_ids: list[str]
    details: str
    transaction: str
    status: str
    status_reason: str | None = None


class PlatformStatus(RestModel):
    """golemp2p's: what settlement is doing; ``problem`` is absent when all is well."""

    platform: str
    owed: str
    in_flight: int
    problem: str | None = None


class Balance(RestModel):
    """golemp2p's: amounts are absent, with the reason in ``problem``, when the chain does not answer."""

    platform: str
    address: str
    amount: str | None = None
    gas: str | None = None
    problem: str | None = None


class DriverStatus(RestModel):
    """Something that keeps payments from going on; none is good. ``message`` is golemp2p's."""

    kind: str
    driver: str
    network: str
    message: str
