"""Orders: transactions that this node's account is to send for somebody. The settlement engine sends each once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from golemp2p.core.ids import Address
from golemp2p.core.money import ZERO, Amount
from golemp2p.storage.payment import AmountText
from golemp2p.storage.schema import metadata

orders = sa.Table(
    "pay_order",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("gas", sa.Integer, nullable=False),
    sa.Column("value", AmountText, nullable=False),
    sa.Column("tokens", AmountText, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("transaction", sa.Text),
    sa.Column("problem", sa.Text, nullable=False, default=""),
    sa.Column("created_at", sa.Float, nullable=False),
)


class OrderState(StrEnum):
    WAITING = "waiting"
    SENT = "sent"
    FINAL = "final"
    FAILED = "failed"


@dataclass(frozen=True)
class Order:
    """A transaction that this node's account is to send. ``tokens``: of ours that it moves; ``what``: for people."""

    key: str  # the caller's: ordered twice, it is sent once
    platform: str
    to: Address
    data: bytes
    tokens: Amount
    what: str
    detail: Mapping[str, str] = field(default_factory=dict)
    gas: int = 0  # 0: the engine estimates
    value: int = 0
    state: OrderState = OrderState.WAITING
    transaction: str | None = None
    problem: str = ""
    created_at: float = 0.0


def place_order(connection: Connection, order: Order, *, now: float) -> None:
    """Part of the transaction that makes it wanted; tell ``context.debts`` after it. Ordered before: nothing."""
    connection.execute(
        insert(orders)
        .values(
            key=order.key,
            platform=order.platform,
            target=order.to,
            data=order.data,
            gas=order.gas,
            value=Amount(order.value),
            tokens=order.tokens,
            what=order.what,
            detail=dict(order.detail),
            state=OrderState.WAITING,
            problem="",
            created_at=now,
        )
        .on_conflict_do_nothing(index_elements=["key"])
    )


def get_order(connection: Connection, key: str) -> Order | None:
    found = _orders(connection, orders.c.key == key)
    return found[0] if found else None


def find_orders(connection: Connection, *, platform: str | None = None, state: OrderState | None = None) -> list[Order]:
    """Oldest first."""
    where = []
    if platform is not None:
        where.append(orders.c.platform == platform)
    if state is not None:
        where.append(orders.c.state == state)
    return _orders(connection, *where)


def _orders(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Order]:
    return [
        Order(
            key=r.key,
            platform=r.platform,
            to=Address(r.target),
            data=r.data,
            tokens=r.tokens,
            what=r.what,
            detail=r.detail,
            gas=r.gas,
            value=int(r.value),
            state=OrderState(r.state),
            transaction=r.transaction,
            problem=r.problem,
            created_at=r.created_at,
        )
        for r in connection.execute(sa.select(orders).where(*where).order_by(orders.c.seq))
    ]


def mark_order(
    connection: Connection, key: str, state: OrderState, *, transaction: str | None = None, problem: str = ""
) -> None:
    values: dict[str, object] = {"state": state, "problem": problem}
    if transaction is not None:
        values["transaction"] = transaction
    connection.execute(sa.update(orders).where(orders.c.key == key).values(values))


def ordered_tokens(connection: Connection, platform: str) -> Amount:
    """What waiting orders will take of the account's tokens."""
    return Amount(
        sum(order.tokens for order in find_orders(connection, platform=platform, state=OrderState.WAITING)) or ZERO
    )
