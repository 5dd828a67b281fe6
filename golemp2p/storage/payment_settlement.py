"""Tables of the settlement engine: what is owed, batches, nonce slots, signed bytes, payments made and received."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from golemp2p.core.ids import Address, AgreementId, DocumentId, PeerId
from golemp2p.core.money import Amount
from golemp2p.core.payment import Leg, PaymentNotice, Side, SlotState
from golemp2p.storage.payment import AmountText, Parties
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
)
slots = sa.Table(
    "pay_slot",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("batch_id", sa.Text, nullable=False, index=True),
    sa.Column("mode", sa.Text, nullable=False),  # "transfer": one plain transfer to one payee
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("chain_id", sa.Integer, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("nonce", sa.Integer, nullable=False),
    sa.Column("payee", sa.Text, nullable=False),
    sa.Column("amount", AmountText, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("sent_at", sa.Float),
    sa.Column("transaction", sa.Text),
    sa.Column("block_number", sa.Integer),
    sa.Column("block_hash", sa.Text),
    sa.Column("fee_wei", AmountText),
    sa.UniqueConstraint("chain_id", "account", "nonce"),
)
versions = sa.Table(
    "pay_tx_version",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("slot_id", sa.Integer, sa.ForeignKey("pay_slot.id"), nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("raw", sa.LargeBinary, nullable=False),
    sa.Column("max_fee", AmountText, nullable=False),
    sa.Column("tip", AmountText, nullable=False),
    sa.UniqueConstraint("slot_id", "version"),
)
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
class Obligation:
    id: int
    agreement_id: AgreementId
    peer: PeerId
    payer: Address
    payee: Address
    platform: str
    amount: Amount
    created_at: float


@dataclass(frozen=True)
class Slot:
    """One nonce of one account, and the batch it pays."""

    id: int
    batch_id: str
    mode: str
    platform: str
    chain_id: int
    account: Address
    nonce: int
    payee: Address
    amount: Amount
    state: SlotState
    created_at: float
    sent_at: float | None
    transaction: str | None
    block_number: int | None
    block_hash: str | None


@dataclass(frozen=True)
class StoredPayment:
    notice: PaymentNotice
    side: Side
    peer: PeerId
    signature: bytes
    state: str
    reason: str
    stored_at: float


def add_obligation(connection: Connection, parties: Parties, amount: Amount, *, now: float) -> None:
    connection.execute(
        sa.insert(obligations).values(
            agreement_id=parties.agreement_id,
            peer=parties.peer,
            payer=parties.payer,
            payee=parties.payee,
            platform=parties.platform,
            amount=amount,
            created_at=now,
        )
    )


def unplanned_obligations(connection: Connection, platform: str) -> list[Obligation]:
    """Oldest first; what no batch pays yet."""
    c = obligations.c
    return _obligations(connection, sa.and_(c.platform == platform, c.batch_id.is_(None)))


def batch_obligations(connection: Connection, batch_id: str) -> list[Obligation]:
    return _obligations(connection, obligations.c.batch_id == batch_id)


def _obligations(connection: Connection, where: sa.ColumnElement[bool]) -> list[Obligation]:
    names = list(Obligation.__dataclass_fields__)
    rows = connection.execute(sa.select(*(obligations.c[n] for n in names)).where(where).order_by(obligations.c.id))
    return [Obligation(**row._mapping) for row in rows]


def settle_batch(connection: Connection, batch_id: str) -> None:
    connection.execute(sa.update(obligations).where(obligations.c.batch_id == batch_id).values(settled=True))


def free_batch(connection: Connection, batch_id: str) -> None:
    """Its obligations are owed again, by a later batch."""
    connection.execute(
        sa.update(obligations).where(obligations.c.batch_id == batch_id, ~obligations.c.settled).values(batch_id=None)
    )


def platforms_with_work(connection: Connection) -> set[str]:
    """Where something is owed or under way."""
    owed = sa.select(obligations.c.platform).where(obligations.c.batch_id.is_(None))
    busy = sa.select(slots.c.platform).where(slots.c.state.in_(OPEN_SLOTS))
    return {row[0] for row in connection.execute(sa.union(owed, busy))}


OPEN_SLOTS = (SlotState.PLANNED, SlotState.SIGNED, SlotState.SENT, SlotState.MINED)


def open_slot(
    connection: Connection,
    *,
    batch_id: str,
    obligation_ids: Sequence[int],
    mode: str,
    platform: str,
    chain_id: int,
    account: Address,
    nonce: int,
    payee: Address,
    amount: Amount,
    now: float,
) -> None:
    """Take ``nonce`` for a new batch of these obligations. Fails when either is taken already."""
    taken = connection.execute(
        sa.update(obligations)
        .where(obligations.c.id.in_(obligation_ids), obligations.c.batch_id.is_(None))
        .values(batch_id=batch_id)
    ).rowcount
    assert taken == len(obligation_ids), "an obligation is paid by one batch"
    connection.execute(
        sa.insert(slots).values(
            batch_id=batch_id,
            mode=mode,
            platform=platform,
            chain_id=chain_id,
            account=account,
            nonce=nonce,
            payee=payee,
            amount=amount,
            state=SlotState.PLANNED,
            created_at=now,
        )
    )


def find_slots(connection: Connection, platform: str | None = None, *, states: Sequence[SlotState] = ()) -> list[Slot]:
    """By nonce."""
    names = list(Slot.__dataclass_fields__)
    query = sa.select(*(slots.c[n] for n in names)).order_by(slots.c.nonce)
    if platform is not None:
        query = query.where(slots.c.platform == platform)
    if states:
        query = query.where(slots.c.state.in_(states))
    return [Slot(**{**row._mapping, "state": SlotState(row.state)}) for row in connection.execute(query)]


def update_slot(connection: Connection, slot: Slot, *, fee_wei: int | None = None) -> None:
    """What changes in the life of a slot."""
    names = ("state", "sent_at", "transaction", "block_number", "block_hash")
    values: dict[str, object] = {n: getattr(slot, n) for n in names}
    if fee_wei is not None:
        values["fee_wei"] = fee_wei
    connection.execute(sa.update(slots).where(slots.c.id == slot.id).values(values))


def highest_nonce(connection: Connection, chain_id: int, account: Address) -> int | None:
    """The highest one that we ever took."""
    query = sa.select(sa.func.max(slots.c.nonce)).where(slots.c.chain_id == chain_id, slots.c.account == account)
    value: int | None = connection.execute(query).scalar()
    return value


def add_version(connection: Connection, slot_id: int, *, hash: str, raw: bytes, max_fee: int, tip: int) -> None:  # noqa: A002
    """The signed bytes: stored, and durable, before anybody sees them."""
    count = connection.execute(sa.select(sa.func.count()).where(versions.c.slot_id == slot_id)).scalar_one()
    connection.execute(
        sa.insert(versions).values(slot_id=slot_id, version=count, hash=hash, raw=raw, max_fee=max_fee, tip=tip)
    )


def get_versions(connection: Connection, slot_id: int) -> list[tuple[str, bytes]]:
    """(hash, raw), newest first."""
    query = sa.select(versions).where(versions.c.slot_id == slot_id).order_by(versions.c.version.desc())
    return [(r.hash, r.raw) for r in connection.execute(query)]


def insert_payment(connection: Connection, stored: StoredPayment) -> None:
    n = stored.notice
    connection.execute(
        sa.insert(payments).values(
            id=n.id,
            side=stored.side,
            peer=stored.peer,
            payer=n.payer,
            payee=n.payee,
            platform=n.platform,
            transaction=n.transaction,
            amount=n.amount,
            shares=[[agreement, str(amount)] for agreement, amount in n.shares],
            document_ids=list(n.document_ids),
            paid_at_ms=n.paid_at_ms,
            signature=stored.signature,
            state=stored.state,
            reason=stored.reason,
            stored_at=stored.stored_at,
        )
    )


def mark_payment(connection: Connection, payment_id: str, side: Side, *, state: str, reason: str = "") -> None:
    where = sa.and_(payments.c.id == payment_id, payments.c.side == side)
    connection.execute(sa.update(payments).where(where).values(state=state, reason=reason))


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
