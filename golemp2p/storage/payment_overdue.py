"""Bills of ours that were accepted and should have been paid by now."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from golemp2p.core.ids import Address, AgreementId, DocumentId
from golemp2p.core.money import Amount
from golemp2p.core.payment import DocumentKind, DocumentState, Side
from golemp2p.storage.payment import documents


@dataclass(frozen=True)
class OverdueBill:
    """``amount``: of the document; a debit note's is the activity's total so far. ``due_at``: since the epoch."""

    kind: DocumentKind
    id: DocumentId
    agreement_id: AgreementId
    platform: str
    payer: Address
    amount: Amount
    due_at: float


def _open(before_ms: int | None) -> list[sa.ColumnElement[bool]]:
    c = documents.c
    where = [c.state == DocumentState.ACCEPTED, c.side == Side.PAYEE, c.due_at_ms > 0]
    return where if before_ms is None else [*where, c.due_at_ms < before_ms]


def overdue_bills(connection: Connection, *, due_before: float, limit: int) -> list[OverdueBill]:
    """The longest overdue first."""
    c = documents.c
    names = ("kind", "id", "agreement_id", "platform", "payer", "amount", "due_at_ms")
    query = sa.select(*(c[n] for n in names)).where(*_open(int(due_before * 1000))).order_by(c.due_at_ms).limit(limit)
    return [
        OverdueBill(
            DocumentKind(r.kind),
            DocumentId(r.id),
            AgreementId(r.agreement_id),
            r.platform,
            Address(r.payer),
            r.amount,
            r.due_at_ms / 1000,
        )
        for r in connection.execute(query)
    ]


def next_due(connection: Connection, *, after: float) -> float | None:
    """When the next accepted bill is due; None: none is."""
    query = sa.select(sa.func.min(documents.c.due_at_ms)).where(
        *_open(None), documents.c.due_at_ms >= int(after * 1000)
    )
    found: int | None = connection.execute(query).scalar()
    return None if found is None else found / 1000
