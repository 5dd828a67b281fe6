"""The market's tables: own records, agreements with both signatures, agreement events, undelivered words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from golemp2p.core.agreement import Agreement, AgreementState, Role
from golemp2p.core.ids import AgreementId, PeerId, SubscriptionId
from golemp2p.core.properties import flatten
from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.storage.schema import metadata

own_records = sa.Table(
    "own_records",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("issuer", sa.String, nullable=False),
    sa.Column("subnet", sa.String, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("issued_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)

agreements = sa.Table(
    "agreements",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("requestor", sa.String, nullable=False),
    sa.Column("provider", sa.String, nullable=False),
    sa.Column("demand_id", sa.String, nullable=False),
    sa.Column("offer_id", sa.String, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("valid_to", sa.Float, nullable=False),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("requestor_signature", sa.LargeBinary, nullable=False),
    sa.Column("provider_signature", sa.LargeBinary, nullable=False),
    sa.Column("approved_at", sa.Float),
    sa.Column("ended_at", sa.Float),
    sa.Column("end_reason", sa.String),
    sa.Column("terminator", sa.String),
    sa.Column("session_id", sa.String),
)

agreement_events = sa.Table(
    "agreement_events",
    metadata,
    # Microseconds since the epoch, unique and increasing: clients echo the last eventDate to ask for later ones.
    sa.Column("moment", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("agreement_id", sa.String, nullable=False),
    sa.Column("event", sa.String, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("terminator", sa.String),
    sa.Column("session_id", sa.String),
)

market_outbox = sa.Table(
    "market_outbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("peer", sa.String, nullable=False),
    sa.Column("method", sa.String, nullable=False),
    sa.Column("agreement_id", sa.String, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)


def put_own_record(connection: Connection, record: MarketRecord) -> None:
    row = {
        "id": record.id,
        "kind": record.kind.value,
        "issuer": record.issuer,
        "subnet": record.subnet,
        "content": record.content,
        "sequence": record.sequence,
        "issued_at": record.issued_at,
        "expires_at": record.expires_at,
        "signature": record.signature,
    }
    statement = insert(own_records).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))


def remove_own_record(connection: Connection, record_id: SubscriptionId) -> None:
    connection.execute(own_records.delete().where(own_records.c.id == record_id))


def own_record_rows(connection: Connection) -> list[MarketRecord]:
    return [
        MarketRecord(
            RecordKind(row.kind),
            SubscriptionId(row.id),
            PeerId(row.issuer),
            row.subnet,
            row.content,
            row.sequence,
            row.issued_at,
            row.expires_at,
            row.signature,
        )
        for row in connection.execute(own_records.select())
    ]


def put_agreement(connection: Connection, agreement: Agreement) -> None:
    row = {
        "id": agreement.id,
        "role": agreement.role.value,
        "requestor": agreement.requestor,
        "provider": agreement.provider,
        "demand_id": agreement.demand_id,
        "offer_id": agreement.offer_id,
        "content": agreement.content,
        "created_at": agreement.created_at,
        "valid_to": agreement.valid_to,
        "state": agreement.state.value,
        "requestor_signature": agreement.requestor_signature,
        "provider_signature": agreement.provider_signature,
        "approved_at": agreement.approved_at,
        "ended_at": agreement.ended_at,
        "end_reason": None if agreement.end_reason is None else json.dumps(dict(agreement.end_reason)),
        "terminator": agreement.terminator,
        "session_id": agreement.session_id,
    }
    statement = insert(agreements).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))


def agreement_from_parts(role: Role, agreement_id: str, content: bytes, **rest: Any) -> Agreement:
    """Build an Agreement from its signed content (see market.agreements.make_content)."""
    document = json.loads(content)
    demand, offer = document["demand"], document["offer"]
    return Agreement(
        id=AgreementId(agreement_id),
        role=role,
        demand_id=SubscriptionId(demand["demandId"]),
        offer_id=SubscriptionId(offer["offerId"]),
        demand=flatten(demand["properties"]),
        offer=flatten(offer["properties"]),
        demand_constraints=demand["constraints"],
        offer_constraints=offer["constraints"],
        content=content,
        **rest,
    )


def _agreement(row: Any) -> Agreement:
    return agreement_from_parts(
        Role(row.role),
        row.id,
        row.content,
        requestor=PeerId(row.requestor),
        provider=PeerId(row.provider),
        created_at=row.created_at,
        valid_to=row.valid_to,
        state=AgreementState(row.state),
        requestor_signature=row.requestor_signature,
        provider_signature=row.provider_signature,
        approved_at=row.approved_at,
        ended_at=row.ended_at,
        end_reason=None if row.end_reason is None else json.loads(row.end_reason),
        terminator=row.terminator,
        session_id=row.session_id,
    )


def get_agreement(connection: Connection, agreement_id: AgreementId) -> Agreement | None:
    row = connection.execute(agreements.select().where(agreements.c.id == agreement_id)).first()
    return None if row is None else _agreement(row)


def list_agreements(connection: Connection, states: Sequence[AgreementState] | None = None) -> list[Agreement]:
    query = agreements.select().order_by(agreements.c.created_at)
    if states is not None:
        query = query.where(agreements.c.state.in_([s.value for s in states]))
    return [_agreement(row) for row in connection.execute(query)]


@dataclass(frozen=True)
class AgreementNews:
    """One agreement event; ``moment`` in microseconds since the epoch."""

    moment: int
    agreement_id: AgreementId
    event: str
    reason: Mapping[str, Any] | None
    terminator: str | None


def add_agreement_event(
    connection: Connection,
    now: float,
    agreement: Agreement,
    event: str,
    reason: Mapping[str, object] | None,
    terminator: str | None,
) -> int:
    last = connection.execute(sa.select(sa.func.max(agreement_events.c.moment))).scalar() or 0
    moment = max(round(now * 1_000_000), last + 1)
    connection.execute(
        agreement_events.insert().values(
            moment=moment,
            agreement_id=agreement.id,
            event=event,
            reason=None if reason is None else json.dumps(dict(reason)),
            terminator=terminator,
            session_id=agreement.session_id,
        )
    )
    return moment


def agreement_events_after(
    connection: Connection, after: int, session_id: str | None, limit: int
) -> list[AgreementNews]:
    query = agreement_events.select().where(agreement_events.c.moment > after)
    if session_id is not None:
        query = query.where(agreement_events.c.session_id == session_id)
    rows = connection.execute(query.order_by(agreement_events.c.moment).limit(limit))
    return [
        AgreementNews(
            row.moment,
            AgreementId(row.agreement_id),
            row.event,
            None if row.reason is None else json.loads(row.reason),
            row.terminator,
        )
        for row in rows
    ]


@dataclass(frozen=True)
class Undelivered:
    """A word to a peer that it has not acknowledged yet."""

    id: int
    peer: PeerId
    method: str
    agreement_id: AgreementId
    body: bytes  # msgpack
    created_at: float


def add_undelivered(
    connection: Connection, peer: PeerId, method: str, agreement_id: AgreementId, body: bytes, now: float
) -> None:
    connection.execute(
        market_outbox.insert().values(peer=peer, method=method, agreement_id=agreement_id, body=body, created_at=now)
    )


def undelivered(connection: Connection) -> list[Undelivered]:
    rows = connection.execute(market_outbox.select().order_by(market_outbox.c.id))
    return [
        Undelivered(r.id, PeerId(r.peer), r.method, AgreementId(r.agreement_id), r.body, r.created_at) for r in rows
    ]


def remove_undelivered(connection: Connection, row_id: int) -> None:
    connection.execute(market_outbox.delete().where(market_outbox.c.id == row_id))
