"""Messages of ``/golemp2p/payment/1`` (protocols/payment.md). Amounts are decimal text, signatures 65 bytes."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from golemp2p import limits

PROTOCOL: Final = "/golemp2p/payment/1"

SEND_DEBIT_NOTE: Final = "debit_note.send"
SEND_INVOICE: Final = "invoice.send"
ACCEPTANCE: Final = "acceptance"
REJECTION: Final = "rejection"
PAYMENT_NOTICE: Final = "payment.notice"
BATCH: Final = "batch"

Id = Annotated[str, Field(min_length=1, max_length=limits.MAX_ID_CHARS)]
Address = Annotated[str, Field(pattern=r"^0x[0-9a-f]{40}$")]
AmountText = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,38})$")]  # of the smallest unit
Milliseconds = Annotated[int, Field(ge=0, lt=2**53, strict=True)]
Signature = Annotated[bytes, Field(min_length=65, max_length=65, strict=True)]
TransactionHash = Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$")]


class Message(BaseModel):
    """Unknown fields are refused: what is not signed has no business here."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DebitNoteMessage(Message):
    id: Id
    previous_id: Annotated[str, Field(max_length=limits.MAX_ID_CHARS)] = ""
    agreement_id: Id
    activity_id: Id
    payer: Address
    payee: Address
    platform: Id
    total_amount_due: AmountText
    usage: Annotated[str, Field(max_length=limits.MAX_USAGE_TEXT_BYTES)]
    due_at: Milliseconds = 0
    issued_at: Milliseconds
    signature: Signature


class InvoiceMessage(Message):
    id: Id
    agreement_id: Id
    activity_ids: Annotated[list[Id], Field(max_length=limits.MAX_DOCUMENT_ACTIVITIES)]
    payer: Address
    payee: Address
    platform: Id
    amount: AmountText
    due_at: Milliseconds = 0
    issued_at: Milliseconds
    signature: Signature


class AcceptanceMessage(Message):
    kind: Annotated[str, Field(pattern="^(debit_note|invoice)$")]
    document_id: Id
    accepted_at: Milliseconds
    signature: Signature


class RejectionMessage(Message):
    kind: Annotated[str, Field(pattern="^(debit_note|invoice)$")]
    document_id: Id
    code: Annotated[str, Field(max_length=limits.MAX_ID_CHARS)]
    message: Annotated[str, Field(max_length=limits.MAX_REASON_CHARS)]


class PaymentNoticeMessage(Message):
    id: Id
    payer: Address
    payee: Address
    platform: Id
    transaction: TransactionHash
    shares: Annotated[list[tuple[Id, AmountText]], Field(min_length=1, max_length=limits.MAX_NOTICE_SHARES)]
    document_ids: Annotated[list[Id], Field(max_length=limits.MAX_NOTICE_SHARES)]
    paid_at: Milliseconds
    signature: Signature


class BatchMessage(Message):
    """Several messages in one call: done in this order, up to the first that is refused."""

    messages: Annotated[
        list[tuple[Annotated[str, Field(max_length=limits.MAX_ID_CHARS)], dict[str, Any]]],
        Field(min_length=1, max_length=limits.MAX_BATCH_MESSAGES),
    ]


class BatchAnswer(Message):
    """``done``: how many; the one after them was refused with ``code``. Without a code all are done."""

    done: Annotated[int, Field(ge=0, le=limits.MAX_BATCH_MESSAGES, strict=True)]
    code: Annotated[str, Field(max_length=limits.MAX_ID_CHARS)] = ""
    message: Annotated[str, Field(max_length=limits.MAX_ERROR_CHARS)] = ""
    hint: Annotated[str, Field(max_length=limits.MAX_ERROR_CHARS)] = ""
