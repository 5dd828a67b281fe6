"""What the payment service writes down, each in the transaction that makes it true (core/payment/journal.py)."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from golemp2p.core.agreement import Agreement
from golemp2p.core.eip712 import Domain
from golemp2p.core.payment import Acceptance, Document, Leg, PaymentNotice, Side
from golemp2p.core.payment import journal as bodies
from golemp2p.core.payment.journal import EntryKind
from golemp2p.storage import journal
from golemp2p.storage.payment import StoredDocument


def document(connection: Connection, agreement: Agreement, stored: StoredDocument, domain: Domain) -> None:
    """A debit note or an invoice, issued or received; before the first one of an agreement the agreement itself."""
    if not journal.has(connection, EntryKind.AGREEMENT, agreement.id):
        body = bodies.agreement_body(agreement, domain)
        journal.append(connection, EntryKind.AGREEMENT, body, agreement_id=agreement.id, now=stored.stored_at)
    kind, body = stored.document.kind.value, bodies.document_body(stored.side, stored.document, stored.signature)
    journal.append(connection, kind, body, agreement_id=agreement.id, now=stored.stored_at)


def acceptance(
    connection: Connection, side: Side, accepted: Acceptance, signature: bytes, domain: Domain, *, now: float
) -> None:
    body = bodies.acceptance_body(side, accepted, domain, signature)
    journal.append(connection, EntryKind.ACCEPTANCE, body, agreement_id=accepted.document.agreement_id, now=now)


def rejection(connection: Connection, side: Side, refused: Document, code: str, message: str, *, now: float) -> None:
    body = bodies.rejection_body(side, refused, code, message)
    journal.append(connection, EntryKind.REJECTION, body, agreement_id=refused.agreement_id, now=now)


def cancellation(connection: Connection, side: Side, cancelled: Document, *, now: float) -> None:
    body = bodies.cancellation_body(side, cancelled)
    journal.append(connection, EntryKind.CANCELLATION, body, agreement_id=cancelled.agreement_id, now=now)


def notice(connection: Connection, side: Side, told: PaymentNotice, signature: bytes, *, now: float) -> None:
    """Sent or received; the payer's node writes it just before :func:`payment`."""
    body = bodies.notice_body(side, told, signature)
    journal.append(connection, EntryKind.PAYMENT_NOTICE, body, agreement_id=_only(told), now=now)


def payment(
    connection: Connection,
    side: Side,
    told: PaymentNotice,
    *,
    chain_id: int,
    block_number: int | None,
    block_hash: str | None,
    legs: Sequence[Leg] = (),
    now: float,
) -> None:
    """Finally on the chain. ``legs``: what the payee has found there; the payer gives none."""
    body = bodies.payment_body(
        side,
        told.id,
        chain_id=chain_id,
        transaction=told.transaction,
        block_number=block_number,
        block_hash=block_hash,
        legs=legs,
    )
    journal.append(connection, EntryKind.PAYMENT, body, agreement_id=_only(told), now=now)


def refused_payment(connection: Connection, side: Side, told: PaymentNotice, reason: str, *, now: float) -> None:
    body = bodies.refusal_body(side, told.id, told.transaction, reason)
    journal.append(connection, EntryKind.PAYMENT_REFUSED, body, agreement_id=_only(told), now=now)


def _only(told: PaymentNotice) -> str:
    """The agreement, when the notice is about one alone."""
    return told.shares[0][0] if len(told.shares) == 1 else ""
