"""Tables of payment notices, made and received, and of the chain's events that have paid for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from golemp2p.core.ids import Address, AgreementId, DocumentId, PeerId
from golemp2p.core.money import Amount
from golemp2p.core.payment import Leg, PaymentNotice, Side
from golemp2p.storage.payment import AmountText
from golemp2p.storage.schema import metadata

payments = sa.Table(
    "pay_payment",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("side", sa.Text, primary_key=True),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("payer", sa.Text, nullable=False),
    sa.Column("payee", sa.Text, nullable=False),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("transaction", sa.Text, nullable=False),
    sa.Column("amount", AmountText, nullable=False),
    sa.Column("shares", sa.JSON, nullable=False),  # [[agreement id, decimal text], ...]
    sa.Column("document_ids", sa.JSON, nullable=False),
    sa.Column("paid_at_ms", sa.Integer, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("stored_at", sa.Float, nullable=False),
)
incoming = sa.Table(
    "pay_incoming",
    metadata,
    sa.Column("chain_id", sa.Integer, primary_key=True),
    sa.Column("transaction", sa.Text, primary_key=True),
    sa.Column("log_index", sa.Integer, primary_key=True),
    sa.Column("payment_id", sa.Text, nullable=False),
    sa.Column("amount", AmountText, nullable=False),
)

# Of a payment: the payee's node has a CLAIMED one until the chain bears it out.
CLAIMED, CONFIRMED, REFUSED = "claimed", "confirmed", "refused"


@dataclass(frozen=True)
class StoredPayment:
    notice: PaymentNotice
    side: Side
    peer: PeerId
    signature: bytes
    state: str
    reason: str
    stored_at: float


def insert_payment(connection: Connection, stored: StoredPayment, *, replaces: bool = False) -> None:
    """``replaces``: a notice of a peer's that has taken the id of what we saw on the chain ourselves."""
    n = stored.notice
    values = {
        "id": n.id,
        "side": stored.side,
        "peer": stored.peer,
        "payer": n.payer,
        "payee": n.payee,
        "platform": n.platform,
        "transaction": n.transaction,
        "amount": n.amount,
        "shares": [[agreement, str(amount)] for agreement, amount in n.shares],
        "document_ids": list(n.document_ids),
        "paid_at_ms": n.paid_at_ms,
        "signature": stored.signature,
        "state": stored.state,
        "reason": stored.reason,
        "stored_at": stored.stored_at,
    }
    statement = insert(payments).values(values)
    if replaces:
        statement = statement.on_conflict_do_update(index_elements=["id", "side"], set_=values)
    connection.execute(statement)


def mark_payment(connection: Connection, payment_id: str, side: Side, *, state: str, reason: str = "") -> None:
    where = sa.and_(payments.c.id == payment_id, payments.c.side == side)
    connection.execute(sa.update(payments).where(where).values(state=state, reason=reason))


def count_refused(connection: Connection, peer: PeerId) -> int:
    """Notices of ``peer`` that the chain did not bear out."""
    c = payments.c
    query = sa.select(sa.func.count()).where(c.peer == peer, c.side == Side.PAYEE, c.state == REFUSED)
    return connection.execute(query).scalar_one()


def find_payments(
    connection: Connection,
    *,
    id: str | None = None,  # noqa: A002 - the column
    side: Side | None = None,
    state: str | None = None,
    after: float | None = None,
    limit: int | None = None,
) -> list[StoredPayment]:
    """Oldest first. ``after``: stored later than that moment in whole microseconds, which is what agents are shown."""
    c = payments.c
    query = sa.select(payments).order_by(c.stored_at)
    for column, value in ((c.id, id), (c.side, side), (c.state, state)):
        if value is not None:
            query = query.where(column == value)
    if after is not None:
        query = query.where(c.stored_at > after + 6e-7)
    if limit is not None:
        query = query.limit(limit)
    return [
        StoredPayment(
            PaymentNotice(
                id=r.id,
                payer=Address(r.payer),
                payee=Address(r.payee),
                platform=r.platform,
                transaction=r.transaction,
                shares=tuple((AgreementId(a), Amount(int(v))) for a, v in r.shares),
                document_ids=tuple(DocumentId(d) for d in r.document_ids),
                paid_at_ms=r.paid_at_ms,
            ),
            Side(r.side),
            PeerId(r.peer),
            r.signature,
            r.state,
            r.reason,
            r.stored_at,
        )
        for r in connection.execute(query)
    ]


def count_claimed(connection: Connection, peer: PeerId) -> int:
    """Payment notices of ``peer`` that the chain has not borne out yet."""
    c = payments.c
    query = sa.select(sa.func.count()).where(c.state == CLAIMED, c.side == Side.PAYEE, c.peer == peer)
    return connection.execute(query).scalar_one()


def used_log_indices(connection: Connection, chain_id: int, transaction: str) -> set[int]:
    query = sa.select(incoming.c.log_index).where(
        incoming.c.chain_id == chain_id, incoming.c.transaction == transaction
    )
    return set(connection.execute(query).scalars())


def use_legs(connection: Connection, chain_id: int, transaction: str, legs: Sequence[Leg], payment_id: str) -> None:
    """Fails when a leg has paid for something already."""
    for leg in legs:
        connection.execute(
            sa.insert(incoming).values(
                chain_id=chain_id,
                transaction=transaction,
                log_index=leg.log_index,
                payment_id=payment_id,
                amount=Amount(leg.amount),
            )
        )
