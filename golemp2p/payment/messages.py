"""Between the facts of core and the messages of the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from golemp2p.core.ids import ActivityId, Address, AgreementId, DocumentId
from golemp2p.core.money import MAX_AMOUNT, Amount
from golemp2p.core.payment import Document, DocumentKind, PaymentNotice
from golemp2p.errors import RemoteProtocolError, UsageError
from golemp2p.wire.p2p import payment as wire

M = TypeVar("M", bound=wire.Message)


def parse(model: type[M], body: Mapping[str, object]) -> M:
    """Raises RemoteProtocolError naming the field that is wrong."""
    try:
        return model.model_validate(body)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RemoteProtocolError(f"{model.__name__}: {where}: {first['msg']}") from exc


def _amount(text: str) -> Amount:
    if int(text) > MAX_AMOUNT:
        raise RemoteProtocolError(f"amount {text} is too large")
    return Amount(int(text))


def document_message(document: Document, signature: bytes) -> wire.DebitNoteMessage | wire.InvoiceMessage:
    common = {
        "id": document.id,
        "agreement_id": document.agreement_id,
        "payer": document.payer,
        "payee": document.payee,
        "platform": document.platform,
        "due_at": document.due_at_ms,
        "issued_at": document.issued_at_ms,
        "signature": signature,
    }
    if document.kind is DocumentKind.INVOICE:
        return wire.InvoiceMessage.model_validate(
            {**common, "activity_ids": list(document.activity_ids), "amount": str(document.amount)}
        )
    return wire.DebitNoteMessage.model_validate(
        {
            **common,
            "previous_id": document.previous_id,
            "activity_id": document.activity_id,
            "total_amount_due": str(document.amount),
            "usage": document.usage,
        }
    )


def document_of(message: wire.DebitNoteMessage | wire.InvoiceMessage) -> Document:
    """Raises RemoteProtocolError."""
    note = isinstance(message, wire.DebitNoteMessage)
    document = Document(
        kind=DocumentKind.DEBIT_NOTE if note else DocumentKind.INVOICE,
        id=DocumentId(message.id),
        agreement_id=AgreementId(message.agreement_id),
        activity_ids=(
            (ActivityId(message.activity_id),)
            if isinstance(message, wire.DebitNoteMessage)
            else tuple(ActivityId(a) for a in message.activity_ids)
        ),
        payer=Address(message.payer),
        payee=Address(message.payee),
        platform=message.platform,
        amount=_amount(message.total_amount_due if isinstance(message, wire.DebitNoteMessage) else message.amount),
        issued_at_ms=message.issued_at,
        due_at_ms=message.due_at,
        usage=message.usage if isinstance(message, wire.DebitNoteMessage) else "[]",
        previous_id=message.previous_id if isinstance(message, wire.DebitNoteMessage) else "",
    )
    try:
        document.usage_vector  # noqa: B018 - parsed for its error
    except UsageError as exc:
        raise RemoteProtocolError(exc.message) from exc
    return document


def notice_message(notice: PaymentNotice, signature: bytes) -> wire.PaymentNoticeMessage:
    return wire.PaymentNoticeMessage(
        id=notice.id,
        payer=notice.payer,
        payee=notice.payee,
        platform=notice.platform,
        transaction=notice.transaction,
        shares=[(agreement, str(amount)) for agreement, amount in notice.shares],
        document_ids=list(notice.document_ids),
        paid_at=notice.paid_at_ms,
        signature=signature,
    )


def notice_of(message: wire.PaymentNoticeMessage) -> PaymentNotice:
    """Raises RemoteProtocolError."""
    if len({agreement for agreement, _ in message.shares}) != len(message.shares):
        raise RemoteProtocolError("a payment notice names an agreement twice")
    return PaymentNotice(
        id=message.id,
        payer=Address(message.payer),
        payee=Address(message.payee),
        platform=message.platform,
        transaction=message.transaction,
        shares=tuple((AgreementId(a), _amount(v)) for a, v in message.shares),
        document_ids=tuple(DocumentId(d) for d in message.document_ids),
        paid_at_ms=message.paid_at,
    )
