"""Tables of allocations, documents, ledgers, events and undelivered messages, and the functions over them.

Amounts are decimal text of the smallest unit (a uint128 does not fit SQLite's integers). Every function works inside
the transaction of ``connection``; the service composes several into one. Settlement has its own module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection
from sqlalchemy.types import TypeDecorator

from golemp2p.core.ids import ActivityId, Address, AgreementId, AllocationId, DocumentId, PeerId
from golemp2p.core.money import ZERO, Amount
from golemp2p.core.payment import (
    AllocationState,
    Charge,
    Document,
    DocumentKind,
    DocumentState,
    Ledger,
    NoteTotals,
    Side,
)
from golemp2p.storage.schema import metadata


class AmountText(TypeDecorator[Amount]):
    """An Amount as decimal text."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Amount | None, dialect: object) -> str | None:
        return None if value is None else str(int(value))

    def process_result_value(self, value: str | None, dialect: object) -> Amount | None:
        return None if value is None else Amount(int(value))


allocations = sa.Table(
    "pay_allocation",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("total", AmountText, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("timeout_at", sa.Float),
    sa.Column("make_deposit", sa.Boolean, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("deposit", sa.Text),  # "contract/0xid" of somebody's locked tokens that it is paid from
)
charges = sa.Table(
    "pay_charge",
    metadata,
    sa.Column("agreement_id", sa.Text, primary_key=True),
    sa.Column("allocation_id", sa.Text, primary_key=True, index=True),
    sa.Column("reserved", AmountText, nullable=False),
    sa.Column("spent", AmountText, nullable=False),
)
ledgers = sa.Table(
    "pay_ledger",
    metadata,
    sa.Column("agreement_id", sa.Text, primary_key=True),
    sa.Column("side", sa.Text, primary_key=True),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("payer", sa.Text, nullable=False),
    sa.Column("payee", sa.Text, nullable=False),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("invoice", AmountText),
    # A query by sums wants accepted as a column; it always equals Ledger.accepted.
    sa.Column("accepted", AmountText, nullable=False),
    sa.Column("scheduled", AmountText, nullable=False),
    sa.Column("paid", AmountText, nullable=False),
)
note_totals = sa.Table(
    "pay_note_total",
    metadata,
    sa.Column("agreement_id", sa.Text, primary_key=True),
    sa.Column("side", sa.Text, primary_key=True),
    sa.Column("activity_id", sa.Text, primary_key=True),
    sa.Column("accepted", AmountText, nullable=False),
    sa.Column("payable", AmountText, nullable=False),
)
documents = sa.Table(
    "pay_document",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("side", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("agreement_id", sa.Text, nullable=False),
    sa.Column("activity_id", sa.Text),  # of a debit note
    sa.Column("activity_ids", sa.JSON, nullable=False),
    sa.Column("payer", sa.Text, nullable=False),
    sa.Column("payee", sa.Text, nullable=False),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("amount", AmountText, nullable=False),
    sa.Column("issued_at_ms", sa.Integer, nullable=False),
    sa.Column("due_at_ms", sa.Integer, nullable=False),
    sa.Column("usage", sa.Text, nullable=False),
    sa.Column("previous_id", sa.Text, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("session_id", sa.Text),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("stored_at", sa.Float, nullable=False),
    sa.Column("allocation_id", sa.Text),
    sa.Column("accepted_at_ms", sa.Integer),
    sa.Column("acceptance_signature", sa.LargeBinary),
    sa.UniqueConstraint("id", "side"),
    # The newest note of an activity, without reading the thousands before it.
    sa.Index("ix_pay_document_last_note", "agreement_id", "side", "activity_id", "seq"),
    sa.Index("ix_pay_document_session", "session_id", "allocation_id"),
)
events = sa.Table(
    "pay_event",
    metadata,
    sa.Column("date_us", sa.Integer, primary_key=True),  # microseconds since the epoch: unique and increasing
    sa.Column("side", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("document_id", sa.Text, nullable=False),
    sa.Column("session_id", sa.Text),
    sa.Column("detail", sa.JSON, nullable=False),
)
outbox = sa.Table(
    "pay_outbox",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),  # msgpack, as it goes over the wire
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("refusals", sa.Integer, nullable=False, default=0),
    sa.Column("next_at", sa.Float, nullable=False),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("dead", sa.Boolean, nullable=False, default=False),
    sa.Index("ix_pay_outbox_peer", "peer", "seq"),
)


_DEAD: Final = (DocumentState.REJECTED, DocumentState.CANCELLED)


@dataclass(frozen=True)
class Allocation:
    """A budget: of ``total``, ``spent`` is to be paid or paid, ``reserved`` is accepted but not payable yet."""

    id: AllocationId
    address: Address
    platform: str
    total: Amount
    created_at: float
    timeout_at: float | None
    make_deposit: bool
    state: AllocationState
    deposit: str | None = None  # "contract/0xid"
    reserved: Amount = ZERO
    spent: Amount = ZERO

    @property
    def remaining(self) -> Amount:
        return Amount(max(0, self.total - self.spent - self.reserved))


@dataclass(frozen=True)
class StoredDocument:
    """A document with what this node knows about it. ``side``: the payee's node issued it, the payer's received it."""

    document: Document
    side: Side
    peer: PeerId
    signature: bytes
    session_id: str | None
    state: DocumentState
    stored_at: float
    reason: str = ""
    allocation_id: AllocationId | None = None
    accepted_at_ms: int | None = None
    acceptance_signature: bytes | None = None


@dataclass(frozen=True)
class Parties:
    """Who pays whom how, under one agreement."""

    agreement_id: AgreementId
    side: Side
    peer: PeerId
    payer: Address
    payee: Address
    platform: str


@dataclass(frozen=True)
class PaymentEvent:
    date_us: int
    side: Side
    kind: DocumentKind
    type: str  # "Received", "Accepted", "Rejected", "Cancelled", "Failed", "Settled"
    document_id: DocumentId
    session_id: str | None
    detail: dict[str, object]


@dataclass(frozen=True)
class OutboxMessage:
    seq: int
    peer: PeerId
    method: str
    body: bytes
    attempts: int
    refusals: int
    next_at: float


# --- allocations --------------------------------------------------------------------------------------------------


def put_allocation(connection: Connection, allocation: Allocation) -> None:
    """Insert or replace (its charges stay)."""
    row = {c.name: getattr(allocation, c.name) for c in allocations.columns}
    connection.execute(insert(allocations).values(row).on_conflict_do_update(index_elements=["id"], set_=row))


def find_allocations(
    connection: Connection,
    *,
    id: AllocationId | None = None,  # noqa: A002 - the column
    only_live: bool = False,
) -> list[Allocation]:
    query = sa.select(allocations).order_by(allocations.c.created_at)
    if id is not None:
        query = query.where(allocations.c.id == id)
    if only_live:
        query = query.where(allocations.c.state == AllocationState.LIVE)
    rows = connection.execute(query).all()
    sums: dict[str, tuple[int, int]] = {}
    for charge in connection.execute(sa.select(charges).where(charges.c.allocation_id.in_([r.id for r in rows]))):
        reserved, spent = sums.get(charge.allocation_id, (0, 0))
        sums[charge.allocation_id] = (reserved + charge.reserved, spent + charge.spent)
    return [
        Allocation(
            **{
                **row._mapping,
                "state": AllocationState(row.state),
                "reserved": Amount(sums.get(row.id, (0, 0))[0]),
                "spent": Amount(sums.get(row.id, (0, 0))[1]),
            }
        )
        for row in rows
    ]


def get_charges(connection: Connection, agreement_id: AgreementId) -> list[Charge]:
    rows = connection.execute(sa.select(charges).where(charges.c.agreement_id == agreement_id))
    return [Charge(AllocationId(r.allocation_id), r.reserved, r.spent) for r in rows]


def put_charges(connection: Connection, agreement_id: AgreementId, new: Sequence[Charge]) -> None:
    for charge in new:
        row = {"reserved": charge.reserved, "spent": charge.spent}
        connection.execute(
            insert(charges)
            .values(agreement_id=agreement_id, allocation_id=charge.allocation, **row)
            .on_conflict_do_update(index_elements=["agreement_id", "allocation_id"], set_=row)
        )


# --- ledgers ------------------------------------------------------------------------------------------------------


def get_ledger(connection: Connection, agreement_id: AgreementId, side: Side) -> Ledger:
    """An empty one when nothing was accepted yet."""
    key = {"key_agreement": agreement_id, "key_side": side}
    row = connection.execute(_LEDGER, key).one_or_none()
    if row is None:
        return Ledger()
    notes = connection.execute(_NOTE_TOTALS, key)
    return Ledger(
        {ActivityId(n.activity_id): NoteTotals(n.accepted, n.payable) for n in notes},
        row.invoice,
        row.scheduled,
        row.paid,
    )


def put_ledger(connection: Connection, parties: Parties, ledger: Ledger, *, before: Ledger | None = None) -> None:
    """``before``: what is stored now; activities that are alike are not written again."""
    key = {"agreement_id": parties.agreement_id, "side": parties.side}
    names = {"peer": parties.peer, "payer": parties.payer, "payee": parties.payee, "platform": parties.platform}
    row = {
        "invoice": ledger.invoice,
        "accepted": ledger.accepted,
        "scheduled": ledger.scheduled,
        "paid": ledger.paid,
    }
    connection.execute(_PUT_LEDGER, {**key, **names, **row})
    known = {} if before is None else before.notes
    for activity, totals in ledger.notes.items():
        if known.get(activity) != totals:
            note = {"accepted": totals.accepted, "payable": totals.payable}
            connection.execute(_PUT_NOTE_TOTAL, {**key, "activity_id": activity, **note})


def get_parties(connection: Connection, agreement_id: AgreementId, side: Side) -> Parties | None:
    row = connection.execute(_LEDGER, {"key_agreement": agreement_id, "key_side": side}).one_or_none()
    if row is None:
        return None
    return Parties(agreement_id, side, PeerId(row.peer), Address(row.payer), Address(row.payee), row.platform)


def owed(connection: Connection, side: Side, *, platform: str) -> Amount:
    """Accepted and not finally paid, over all agreements of ``side``."""
    query = sa.select(ledgers.c.accepted, ledgers.c.paid).where(
        ledgers.c.side == side, ledgers.c.platform == platform, ledgers.c.accepted != ledgers.c.paid
    )
    return Amount(sum(max(0, row.accepted - row.paid) for row in connection.execute(query)))


def _of(
    table: sa.Table, agreement_id: AgreementId | sa.BindParameter[str], side: Side | sa.BindParameter[str]
) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.agreement_id == agreement_id, table.c.side == side)


def _upsert(table: sa.Table, *keys: str, changing: Sequence[str]) -> sa.Insert:
    """All columns as parameters; ``changing`` are written over what is there."""
    statement = insert(table)
    new = {name: statement.excluded[name] for name in changing}
    return statement.on_conflict_do_update(index_elements=list(keys), set_=new)


# What every note and acceptance executes is made once: making a statement costs five times what executing it does
# (83 us against 16). Parameters of conditions have names that no column has.
_KEY: Final[tuple[sa.BindParameter[str], sa.BindParameter[str]]] = (
    sa.bindparam("key_agreement"),
    sa.bindparam("key_side"),
)
_LEDGER: Final = sa.select(ledgers).where(_of(ledgers, *_KEY))
_NOTE_TOTALS: Final = sa.select(note_totals).where(_of(note_totals, *_KEY))
_PUT_LEDGER: Final = _upsert(ledgers, "agreement_id", "side", changing=("invoice", "accepted", "scheduled", "paid"))
_PUT_NOTE_TOTAL: Final = _upsert(note_totals, "agreement_id", "side", "activity_id", changing=("accepted", "payable"))


# --- documents ----------------------------------------------------------------------------------------------------


def insert_document(connection: Connection, stored: StoredDocument) -> None:
    d = stored.document
    row = {
        **{f: getattr(d, f) for f in _DOCUMENT_COLUMNS},
        **{f: getattr(stored, f) for f in _STORED_COLUMNS},
        "activity_id": d.activity_id if d.kind is DocumentKind.DEBIT_NOTE else None,
        "activity_ids": list(d.activity_ids),
    }
    connection.execute(_INSERT_DOCUMENT, row)


def update_document(connection: Connection, stored: StoredDocument) -> None:
    """What changes after receipt: never the document itself."""
    key = {"key_id": stored.document.id, "key_side": stored.side}
    connection.execute(_UPDATE_DOCUMENT, {**key, **{f: getattr(stored, f) for f in _CHANGING_COLUMNS}})


def find_documents(
    connection: Connection,
    *,
    kind: DocumentKind | None = None,
    id: DocumentId | None = None,  # noqa: A002 - the column
    side: Side | None = None,
    agreement_id: AgreementId | None = None,
    states: Sequence[DocumentState] = (),
    after: float | None = None,
    limit: int | None = None,
) -> list[StoredDocument]:
    """Oldest first. ``after``: issued later than that; times of issue have milliseconds."""
    c = documents.c
    query = sa.select(documents).order_by(c.seq)
    for column, value in ((c.kind, kind), (c.id, id), (c.side, side), (c.agreement_id, agreement_id)):
        if value is not None:
            query = query.where(column == value)
    if states:
        query = query.where(c.state.in_(states))
    if after is not None:
        query = query.where(c.issued_at_ms > int(after * 1000 + 0.001))  # what the float lost, not what the caller said
    if limit is not None:
        query = query.limit(limit)
    return [_stored(row) for row in connection.execute(query)]


def find_document(connection: Connection, document_id: DocumentId, side: Side) -> StoredDocument | None:
    row = connection.execute(_DOCUMENT, {"key_id": document_id, "key_side": side}).one_or_none()
    return None if row is None else _stored(row)


def last_note(
    connection: Connection, agreement_id: AgreementId, side: Side, activity_id: ActivityId
) -> Document | None:
    """The newest debit note of an activity that was not rejected."""
    key = {"key_agreement": agreement_id, "key_side": side, "key_activity": activity_id}
    row = connection.execute(_LAST_NOTE, key).one_or_none()
    return None if row is None else _stored(row).document


def last_notes(connection: Connection, agreement_id: AgreementId, side: Side) -> dict[ActivityId, Document]:
    """The newest debit note of each activity that was not rejected."""
    c = documents.c
    newest = sa.select(sa.func.max(c.seq)).where(
        _of(documents, agreement_id, side), c.activity_id.is_not(None), c.state.not_in(_DEAD)
    )
    query = sa.select(documents).where(c.seq.in_(newest.group_by(c.activity_id)))
    found = [_stored(row).document for row in connection.execute(query)]
    return {note.activity_id: note for note in found}


def count_notes(connection: Connection, agreement_id: AgreementId, side: Side) -> int:
    """Debit notes of an agreement, whatever became of them."""
    return connection.execute(_COUNT_NOTES, {"key_agreement": agreement_id, "key_side": side}).scalar_one()


def allocations_of_session(connection: Connection, session_id: str) -> set[AllocationId]:
    """Which have accepted a document of the session, live or not."""
    c = documents.c
    query = sa.select(c.allocation_id).where(c.session_id == session_id, c.allocation_id.is_not(None)).distinct()
    return {AllocationId(i) for i in connection.execute(query).scalars()}


def sessions_of_allocation(connection: Connection, allocation_id: AllocationId) -> set[str | None]:
    """Whose documents it has accepted; None stands for agreements without a session."""
    # All documents of an agreement have its session: one of them is enough.
    of_agreement = sa.select(documents.c.session_id).where(
        documents.c.agreement_id == charges.c.agreement_id, documents.c.side == Side.PAYER
    )
    query = sa.select(of_agreement.limit(1).scalar_subquery()).where(charges.c.allocation_id == allocation_id)
    return set(connection.execute(query.distinct()).scalars())


def received_before(connection: Connection, moment: float) -> tuple[list[StoredDocument], float | None]:
    """Unanswered documents of the payer stored until ``moment``, and when the next one after that was stored."""
    c = documents.c
    unanswered = sa.and_(c.state == DocumentState.RECEIVED, c.side == Side.PAYER)
    rows = connection.execute(sa.select(documents).where(unanswered, c.stored_at <= moment).order_by(c.seq))
    following = connection.execute(sa.select(sa.func.min(c.stored_at)).where(unanswered, c.stored_at > moment))
    return [_stored(row) for row in rows], following.scalar()


_DOCUMENT_COLUMNS = (
    "id", "kind", "agreement_id", "payer", "payee", "platform", "amount", "issued_at_ms", "due_at_ms", "usage",
    "previous_id",
)  # fmt: skip
_CHANGING_COLUMNS = ("state", "reason", "allocation_id", "accepted_at_ms", "acceptance_signature")
_STORED_COLUMNS = ("side", "peer", "signature", "session_id", "stored_at", *_CHANGING_COLUMNS)

_INSERT_DOCUMENT: Final = sa.insert(documents)
_THIS: Final = sa.and_(documents.c.id == sa.bindparam("key_id"), documents.c.side == sa.bindparam("key_side"))
_DOCUMENT: Final = sa.select(documents).where(_THIS)
_UPDATE_DOCUMENT: Final = (
    sa.update(documents).where(_THIS).values({name: sa.bindparam(name) for name in _CHANGING_COLUMNS})
)
_COUNT_NOTES: Final = sa.select(sa.func.count()).where(_of(documents, *_KEY), documents.c.activity_id.is_not(None))
_LAST_NOTE: Final = (
    sa.select(documents)
    .where(
        _of(documents, *_KEY),
        documents.c.activity_id == sa.bindparam("key_activity"),
        documents.c.state.not_in(_DEAD),
    )
    .order_by(documents.c.seq.desc())
    .limit(1)
)


def _stored(row: sa.Row[tuple[object, ...]]) -> StoredDocument:
    values = row._mapping
    document = Document(
        **{f: values[f] for f in _DOCUMENT_COLUMNS if f != "kind"},
        kind=DocumentKind(values["kind"]),
        activity_ids=tuple(ActivityId(a) for a in values["activity_ids"]),
    )
    stored = StoredDocument(document=document, **{f: values[f] for f in _STORED_COLUMNS})
    return replace(stored, side=Side(stored.side), state=DocumentState(stored.state))


# --- events -------------------------------------------------------------------------------------------------------


_LAST_EVENT: Final = sa.select(sa.func.max(events.c.date_us))
_INSERT_EVENT: Final = sa.insert(events)


def add_event(
    connection: Connection, stored: StoredDocument, type_: str, *, now: float, detail: dict[str, object] | None = None
) -> None:
    """Dates are unique and increasing on this node: clients ask for what is newer than the last date they saw."""
    last = connection.execute(_LAST_EVENT).scalar() or 0
    row = {
        "date_us": max(round(now * 1e6), last + 1),
        "side": stored.side,
        "kind": stored.document.kind,
        "type": type_,
        "document_id": stored.document.id,
        "session_id": stored.session_id,
        "detail": detail or {},
    }
    connection.execute(_INSERT_EVENT, row)


def find_events(
    connection: Connection,
    kind: DocumentKind,
    *,
    after_us: int,
    limit: int,
    session_id: str | None,
    types: dict[Side, frozenset[str]],
) -> list[PaymentEvent]:
    c = events.c
    wanted = sa.or_(*(sa.and_(c.side == side, c.type.in_(names)) for side, names in types.items()))
    query = sa.select(events).where(c.kind == kind, c.date_us > after_us, wanted).order_by(c.date_us).limit(limit)
    if session_id is not None:
        query = query.where(c.session_id == session_id)
    return [
        PaymentEvent(
            r.date_us, Side(r.side), DocumentKind(r.kind), r.type, DocumentId(r.document_id), r.session_id, r.detail
        )
        for r in connection.execute(query)
    ]


# --- outbox -------------------------------------------------------------------------------------------------------


_INSERT_MESSAGE: Final = sa.insert(outbox)


def add_message(connection: Connection, peer: PeerId, method: str, body: bytes, *, now: float) -> None:
    row = {"peer": peer, "method": method, "body": body, "created_at": now, "next_at": now}
    connection.execute(_INSERT_MESSAGE, row)


def waiting_peers(connection: Connection) -> dict[PeerId, float]:
    """Who has messages waiting, and when the oldest of each may be sent."""
    oldest = sa.select(sa.func.min(outbox.c.seq)).where(~outbox.c.dead).group_by(outbox.c.peer)
    query = sa.select(outbox.c.peer, outbox.c.next_at).where(outbox.c.seq.in_(oldest))
    return {PeerId(r.peer): r.next_at for r in connection.execute(query)}


def waiting_messages(connection: Connection, peer: PeerId, *, limit: int) -> list[OutboxMessage]:
    """To one peer, oldest first."""
    c = outbox.c
    query = sa.select(outbox).where(~c.dead, c.peer == peer).order_by(c.seq).limit(limit)
    return [
        OutboxMessage(r.seq, PeerId(r.peer), r.method, r.body, r.attempts, r.refusals, r.next_at)
        for r in connection.execute(query)
    ]


def remove_messages(connection: Connection, seqs: Sequence[int]) -> None:
    connection.execute(sa.delete(outbox).where(outbox.c.seq.in_(seqs)))


def postpone_message(
    connection: Connection, message: OutboxMessage, *, next_at: float, error: str, refused: bool, dead: bool
) -> None:
    connection.execute(
        sa.update(outbox)
        .where(outbox.c.seq == message.seq)
        .values(
            attempts=message.attempts + 1,
            refusals=message.refusals + (1 if refused else 0),
            next_at=next_at,
            error=error,
            dead=dead,
        )
    )
