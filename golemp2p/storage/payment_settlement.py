"""Tables of the settlement engine: what is owed, batches and their legs, nonce slots, signed bytes.

A batch is what one transaction does: legs (payees) or an order. A slot is one nonce of one account, and the batch that
it carries; when a foreign transaction takes the nonce, the batch gets another slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.ids import Address, PeerId
from golemp2p.core.money import ZERO, Amount
from golemp2p.core.payment import Group, Obligation, SlotState
from golemp2p.storage.orders import OrderState, orders
from golemp2p.storage.payment import AmountText, Parties, allocations, charges
from golemp2p.storage.schema import metadata

obligations = sa.Table(
    "pay_obligation",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("agreement_id", sa.Text, nullable=False, index=True),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("payer", sa.Text, nullable=False),
    sa.Column("payee", sa.Text, nullable=False),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("amount", AmountText, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("batch_id", sa.Text, index=True),  # NULL: nobody pays it yet
    sa.Column("settled", sa.Boolean, nullable=False, default=False),
    sa.Column("due_at", sa.Float),
    sa.Column("deposit", sa.Text),  # to be paid from it, not from the account
)
slots = sa.Table(
    "pay_slot",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("batch_id", sa.Text, nullable=False, index=True),
    sa.Column("mode", sa.Text, nullable=False),  # a Mode
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("chain_id", sa.Integer, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("nonce", sa.Integer, nullable=False),
    sa.Column("payee", sa.Text, nullable=False),  # when it has one leg, else ""
    sa.Column("amount", AmountText, nullable=False),  # tokens that leave the account
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("sent_at", sa.Float),
    sa.Column("transaction", sa.Text),
    sa.Column("block_number", sa.Integer),
    sa.Column("block_hash", sa.Text),
    sa.Column("fee_wei", AmountText),
    # What it calls: for another bid, and another nonce. NULL in slots of older versions.
    sa.Column("target", sa.Text),
    sa.Column("data", sa.LargeBinary),
    sa.Column("gas", sa.Integer),
    sa.Column("value", AmountText),
    sa.UniqueConstraint("chain_id", "account", "nonce"),
)
legs = sa.Table(
    "pay_leg",
    metadata,
    sa.Column("batch_id", sa.Text, primary_key=True),
    sa.Column("payee", sa.Text, primary_key=True),
    sa.Column("peer", sa.Text, primary_key=True),
    sa.Column("amount", AmountText, nullable=False),
)
versions = sa.Table(
    "pay_tx_version",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("slot_id", sa.Integer, sa.ForeignKey("pay_slot.id"), nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("raw", sa.LargeBinary, nullable=False),  # empty: found on the chain, not made here
    sa.Column("max_fee", AmountText, nullable=False),
    sa.Column("tip", AmountText, nullable=False),
    sa.Column("signed_at", sa.Float),
    sa.UniqueConstraint("slot_id", "version"),
)


class Mode(StrEnum):
    """What a slot's transaction is."""

    TRANSFER = "transfer"  # one plain ERC-20 transfer to one payee
    BATCH = "batch"  # BatchPayer.payOnce, with an id on the chain
    MULTI = "multi"  # Golem's multi-transfer
    DEPOSIT = "deposit"  # one payee, from tokens that somebody locked for us
    ORDER = "order"  # what somebody ordered


OPEN_SLOTS = (SlotState.SIGNED, SlotState.SENT, SlotState.MINED)


@dataclass(frozen=True)
class Slot:
    """One nonce of one account, and the batch that it carries."""

    id: int
    batch_id: str
    mode: Mode
    platform: str
    chain_id: int
    account: Address
    nonce: int
    payee: Address  # "" when there are several, or none
    amount: Amount
    state: SlotState
    created_at: float
    sent_at: float | None
    transaction: str | None
    block_number: int | None
    block_hash: str | None
    target: Address | None
    data: bytes | None
    gas: int | None
    value: Amount | None


@dataclass(frozen=True)
class Version:
    """Signed bytes; the newest one of a slot is broadcast."""

    hash: str
    raw: bytes
    max_fee: int
    tip: int
    signed_at: float | None


# --- debts --------------------------------------------------------------------------------------------------------


def add_obligation(
    connection: Connection,
    parties: Parties,
    amount: Amount,
    *,
    now: float,
    due_at: float | None = None,
    deposit: str | None = None,
) -> None:
    connection.execute(
        sa.insert(obligations).values(
            agreement_id=parties.agreement_id,
            peer=parties.peer,
            payer=parties.payer,
            payee=parties.payee,
            platform=parties.platform,
            amount=amount,
            created_at=now,
            due_at=due_at,
            deposit=deposit,
        )
    )


def deposit_in_use(connection: Connection, deposit: str) -> bool:
    """Whether a debt is still to be paid from it, or something accepted that is not payable yet."""
    query = sa.select(obligations.c.id).where(obligations.c.deposit == deposit, ~obligations.c.settled).limit(1)
    reserved = (
        sa.select(charges.c.agreement_id)
        .join(allocations, allocations.c.id == charges.c.allocation_id)
        .where(allocations.c.deposit == deposit, charges.c.reserved != ZERO)
        .limit(1)
    )
    return connection.execute(query).first() is not None or connection.execute(reserved).first() is not None


def unplanned_obligations(connection: Connection, platform: str) -> list[Obligation]:
    """Oldest first; what no batch pays yet."""
    c = obligations.c
    return _obligations(connection, sa.and_(c.platform == platform, c.batch_id.is_(None)))


def batch_obligations(connection: Connection, batch_id: str) -> list[Obligation]:
    return _obligations(connection, obligations.c.batch_id == batch_id)


def _obligations(connection: Connection, where: sa.ColumnElement[bool]) -> list[Obligation]:
    names = list(Obligation.__dataclass_fields__)
    rows = connection.execute(sa.select(*(obligations.c[n] for n in names)).where(where).order_by(obligations.c.id))
    return [Obligation(*row) for row in rows]


def settle_batch(connection: Connection, batch_id: str) -> None:
    connection.execute(sa.update(obligations).where(obligations.c.batch_id == batch_id).values(settled=True))


def free_batch(connection: Connection, batch_id: str) -> None:
    """Its obligations are owed again, by a later batch."""
    connection.execute(
        sa.update(obligations).where(obligations.c.batch_id == batch_id, ~obligations.c.settled).values(batch_id=None)
    )


def take_debts(connection: Connection, batch_id: str, groups: Sequence[Group]) -> None:
    """They are paid by this batch. Fails when one is paid by another already."""
    ids = [debt.id for group in groups for debt in group.debts]
    taken = 0
    for start in range(0, len(ids), 500):  # below SQLite's limit of variables
        some = obligations.c.id.in_(ids[start : start + 500])
        update = sa.update(obligations).where(some, obligations.c.batch_id.is_(None)).values(batch_id=batch_id)
        taken += connection.execute(update).rowcount
    assert taken == len(ids), "an obligation is paid by one batch"
    rows = [{"batch_id": batch_id, "payee": g.payee, "peer": g.peer, "amount": g.amount} for g in groups]
    connection.execute(sa.insert(legs), rows)


def get_legs(connection: Connection, batch_id: str) -> list[tuple[Address, PeerId, Amount]]:
    found = connection.execute(sa.select(legs).where(legs.c.batch_id == batch_id))
    return [(Address(r.payee), PeerId(r.peer), r.amount) for r in found]


def platforms_with_work(connection: Connection) -> set[str]:
    """Where something is owed, ordered or under way."""
    owed = sa.select(obligations.c.platform).where(obligations.c.batch_id.is_(None))
    busy = sa.select(slots.c.platform).where(slots.c.state.in_(OPEN_SLOTS))
    ordered = sa.select(orders.c.platform).where(orders.c.state == OrderState.WAITING)
    return {row[0] for row in connection.execute(sa.union(owed, busy, ordered))}


# --- slots --------------------------------------------------------------------------------------------------------


def insert_slot(
    connection: Connection,
    *,
    batch_id: str,
    mode: Mode,
    platform: str,
    chain_id: int,
    account: Address,
    nonce: int,
    payee: str,
    amount: Amount,
    target: Address,
    data: bytes,
    gas: int,
    value: int,
    now: float,
) -> Slot:
    """Take ``nonce``. Fails when it is taken already."""
    values = {
        "batch_id": batch_id,
        "mode": mode,
        "platform": platform,
        "chain_id": chain_id,
        "account": account,
        "nonce": nonce,
        "payee": payee,
        "amount": amount,
        "state": SlotState.SIGNED,
        "created_at": now,
        "target": target,
        "data": data,
        "gas": gas,
        "value": Amount(value),
    }
    inserted = connection.execute(sa.insert(slots).values(values)).inserted_primary_key
    assert inserted is not None
    (slot,) = _slots(connection, slots.c.id == inserted[0])
    return slot


def find_slots(connection: Connection, platform: str | None = None, *, states: Sequence[SlotState] = ()) -> list[Slot]:
    """By nonce."""
    where = []
    if platform is not None:
        where.append(slots.c.platform == platform)
    if states:
        where.append(slots.c.state.in_(states))
    return _slots(connection, *where)


def account_slots(connection: Connection, chain_id: int, account: Address) -> list[Slot]:
    """All that this account ever sent, by nonce."""
    return _slots(connection, slots.c.chain_id == chain_id, slots.c.account == account)


def known_transactions(connection: Connection, hashes: Sequence[str]) -> set[str]:
    """Which of these we signed (whatever version of a slot it is)."""
    found: set[str] = set()
    for start in range(0, len(hashes), 500):  # below SQLite's limit of variables
        query = sa.select(versions.c.hash).where(versions.c.hash.in_(hashes[start : start + 500]))
        found.update(connection.execute(query).scalars())
    return found


def slots_of(connection: Connection, batch_id: str) -> list[Slot]:
    return _slots(connection, slots.c.batch_id == batch_id)


def _slots(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Slot]:
    names = list(Slot.__dataclass_fields__)
    query = sa.select(*(slots.c[n] for n in names)).where(*where).order_by(slots.c.nonce)
    return [
        Slot(**{**row._mapping, "mode": Mode(row.mode), "state": SlotState(row.state)})
        for row in connection.execute(query)
    ]


def update_slot(connection: Connection, slot: Slot, *, fee_wei: int | None = None) -> None:
    """What changes in the life of a slot."""
    names = ("state", "sent_at", "transaction", "block_number", "block_hash")
    values: dict[str, object] = {n: getattr(slot, n) for n in names}
    if fee_wei is not None:
        values["fee_wei"] = fee_wei
    connection.execute(sa.update(slots).where(slots.c.id == slot.id).values(values))


def slot_fees(connection: Connection, transactions: Sequence[str]) -> dict[str, int]:
    """What our mined transactions cost, in wei."""
    query = sa.select(slots.c.transaction, slots.c.fee_wei).where(slots.c.transaction.in_(transactions))
    return {r.transaction: r.fee_wei for r in connection.execute(query) if r.fee_wei is not None}


def highest_nonce(connection: Connection, chain_id: int, account: Address) -> int | None:
    """The highest one that we ever took."""
    query = sa.select(sa.func.max(slots.c.nonce)).where(slots.c.chain_id == chain_id, slots.c.account == account)
    value: int | None = connection.execute(query).scalar()
    return value


def add_version(connection: Connection, slot_id: int, version: Version) -> None:
    """The signed bytes: stored, and durable, before anybody sees them."""
    count = connection.execute(sa.select(sa.func.count()).where(versions.c.slot_id == slot_id)).scalar_one()
    values = {name: getattr(version, name) for name in Version.__dataclass_fields__}
    connection.execute(insert(versions).values(slot_id=slot_id, version=count, **values))


def final_versions(connection: Connection, chain_id: int, account: Address, *, first: int, end: int) -> list[Version]:
    """What was mined for good with nonces ``first`` to ``end`` - 1, by nonce; of whatever platform."""
    c = slots.c
    query = (
        sa.select(versions)
        .join(slots, c.id == versions.c.slot_id)
        .where(c.chain_id == chain_id, c.account == account, c.nonce >= first, c.nonce < end)
        .where(c.state == SlotState.FINAL, c.transaction == versions.c.hash, versions.c.raw != b"")
        .order_by(c.nonce)
        .limit(limits.MAX_SLOTS_IN_FLIGHT)
    )
    return [Version(r.hash, r.raw, r.max_fee, r.tip, r.signed_at) for r in connection.execute(query)]


def get_versions(connection: Connection, slot_id: int) -> list[Version]:
    """Newest first."""
    query = sa.select(versions).where(versions.c.slot_id == slot_id).order_by(versions.c.version.desc())
    return [Version(r.hash, r.raw, r.max_fee, r.tip, r.signed_at) for r in connection.execute(query)]
