"""What was signed away, and when: the record that spending caps are checked against. Written where money is signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from golemp2p.core.ids import AgreementId
from golemp2p.core.money import Amount
from golemp2p.storage.payment import AmountText
from golemp2p.storage.schema import metadata

spending = sa.Table(
    "pay_spending",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("agreement_id", sa.Text, nullable=False),  # "": under none
    sa.Column("amount", AmountText, nullable=False),
    sa.Column("reference", sa.Text, nullable=False, index=True),  # the batch, the channel
    sa.Column("daily", sa.Boolean, nullable=False),  # leaves the account: a voucher's tokens left it with the deposit
    sa.Index("ix_pay_spending_day", "platform", "at"),
    sa.Index("ix_pay_spending_agreement", "agreement_id", "platform"),
)


@dataclass(frozen=True)
class Spend:
    """A part of what a signature gives away. ``agreement_id`` "": under no agreement."""

    platform: str
    agreement_id: AgreementId | str
    amount: Amount
    reference: str
    daily: bool = True  # counts against the day's cap


def add(connection: Connection, spends: Sequence[Spend], *, now: float) -> None:
    if spends:
        rows = [
            {
                "at": now,
                "platform": s.platform,
                "agreement_id": s.agreement_id,
                "amount": s.amount,
                "reference": s.reference,
                "daily": s.daily,
            }
            for s in spends
        ]
        connection.execute(sa.insert(spending), rows)


def forget(connection: Connection, reference: str) -> None:
    """It was signed and can never move money any more (finally reverted)."""
    connection.execute(sa.delete(spending).where(spending.c.reference == reference))


def since(connection: Connection, platform: str, moment: float) -> list[tuple[float, Amount]]:
    """(when, how much) left the account, oldest first."""
    c = spending.c
    query = sa.select(c.at, c.amount).where(c.platform == platform, c.at > moment, c.daily).order_by(c.at)
    return [(at, amount) for at, amount in connection.execute(query)]


def under(connection: Connection, platform: str, agreement_id: str) -> Amount:
    """All that was signed away under one agreement."""
    c = spending.c
    query = sa.select(c.amount).where(c.agreement_id == agreement_id, c.platform == platform)
    return Amount(sum(connection.execute(query).scalars()))
