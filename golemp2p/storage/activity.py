"""Tables and functions of the activities: the last known state of each, and what the provider's agent must hear."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.activity import ActivityState
from golemp2p.core.agreement import Role
from golemp2p.core.ids import ActivityId, AgreementId, PeerId
from golemp2p.storage.schema import metadata

activities = sa.Table(
    "activities",
    metadata,
    # A node that buys from itself has both sides of one activity.
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("role", sa.String, primary_key=True),
    sa.Column("agreement_id", sa.String, nullable=False, index=True),
    sa.Column("peer", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("reason", sa.String),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("usage", sa.String, nullable=False),
)

activity_events = sa.Table(
    "activity_events",
    metadata,
    # Microseconds since the epoch, unique and increasing: agents echo the last eventDate to ask for later ones.
    sa.Column("moment", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event", sa.String, nullable=False),
    sa.Column("activity_id", sa.String, nullable=False),
    sa.Column("agreement_id", sa.String, nullable=False),
)


@dataclass(frozen=True)
class ActivityRecord:
    """One activity from one side. ``usage`` is in the order of the agreement's usage vector."""

    id: ActivityId
    role: Role
    agreement_id: AgreementId
    peer: PeerId
    state: ActivityState
    created_at: float
    reason: str | None = None
    ended_at: float | None = None
    usage: tuple[float, ...] = ()


@dataclass(frozen=True)
class AgentEvent:
    """``event`` is CreateActivity or DestroyActivity; ``moment_us`` is unique and increasing."""

    moment_us: int
    event: str
    activity_id: ActivityId
    agreement_id: AgreementId


def put_activity(connection: Connection, record: ActivityRecord) -> None:
    values = {
        "id": record.id,
        "role": record.role.value,
        "agreement_id": record.agreement_id,
        "peer": record.peer,
        "state": record.state.value,
        "reason": record.reason,
        "created_at": record.created_at,
        "ended_at": record.ended_at,
        "usage": json.dumps(record.usage),
    }
    statement = insert(activities).values(values)
    connection.execute(statement.on_conflict_do_update(index_elements=["id", "role"], set_=values))


def get_activity(connection: Connection, activity_id: ActivityId, role: Role) -> ActivityRecord | None:
    row = connection.execute(
        sa.select(activities).where(activities.c.id == activity_id, activities.c.role == role.value)
    ).one_or_none()
    return None if row is None else _record(row)


def list_activities(
    connection: Connection, role: Role, *, live_only: bool, limit: int = 10_000
) -> list[ActivityRecord]:
    """Newest first."""
    query = sa.select(activities).where(activities.c.role == role.value)
    if live_only:
        query = query.where(activities.c.state != ActivityState.TERMINATED.value)
    rows = connection.execute(query.order_by(activities.c.created_at.desc()).limit(limit))
    return [_record(row) for row in rows]


def add_agent_event(
    connection: Connection, now: float, event: str, activity_id: ActivityId, agreement_id: AgreementId
) -> AgentEvent:
    """Append; the moment is now, or just after the last one. The oldest beyond MAX_PROVIDER_EVENTS go."""
    last = connection.execute(sa.select(sa.func.max(activity_events.c.moment))).scalar() or 0
    moment_us = max(round(now * 1e6), last + 1)
    connection.execute(
        activity_events.insert().values(
            moment=moment_us, event=event, activity_id=activity_id, agreement_id=agreement_id
        )
    )
    # An agent that was away for longer looks at the activities themselves.
    old = sa.select(activity_events.c.moment).order_by(activity_events.c.moment.desc())
    too_old = old.offset(limits.MAX_PROVIDER_EVENTS).limit(1).scalar_subquery()
    connection.execute(activity_events.delete().where(activity_events.c.moment <= too_old))
    return AgentEvent(moment_us, event, activity_id, agreement_id)


def agent_events_after(connection: Connection, moment_us: int, limit: int) -> Sequence[AgentEvent]:
    """Ascending, strictly later than ``moment_us``."""
    rows = connection.execute(
        sa.select(activity_events)
        .where(activity_events.c.moment > moment_us)
        .order_by(activity_events.c.moment)
        .limit(limit)
    )
    return [AgentEvent(row.moment, row.event, row.activity_id, row.agreement_id) for row in rows]


def _record(row: sa.Row[tuple[object, ...]]) -> ActivityRecord:
    return ActivityRecord(
        id=ActivityId(row.id),
        role=Role(row.role),
        agreement_id=AgreementId(row.agreement_id),
        peer=PeerId(row.peer),
        state=ActivityState(row.state),
        created_at=row.created_at,
        reason=row.reason,
        ended_at=row.ended_at,
        usage=tuple(float(value) for value in json.loads(row.usage)),
    )
