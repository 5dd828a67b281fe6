"""The journal of money as a table: one row for each entry, written in the transaction that makes the fact true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.payment.journal import GENESIS, Entry, canonical
from golemp2p.storage.schema import metadata

journal = sa.Table(
    "pay_journal",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("time_ms", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("agreement_id", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # canonical JSON
    sa.Column("previous", sa.Text, nullable=False),  # 64 hex digits
    sa.Column("hash", sa.Text, nullable=False),
    sa.Index("ix_pay_journal_agreement", "agreement_id", "kind"),
)
# Made once: making a statement costs more than executing it.
_INSERT: Final = sa.insert(journal)
_HAS: Final = (
    sa.select(journal.c.seq)
    .where(journal.c.agreement_id == sa.bindparam("about"), journal.c.kind == sa.bindparam("what"))
    .limit(1)
)
_LAST: Final = sa.select(journal.c.seq, journal.c.hash).order_by(journal.c.seq.desc()).limit(1)


def append(connection: Connection, kind: str, body: Mapping[str, object], *, agreement_id: str, now: float) -> Entry:
    """``agreement_id``: "" for what is about several. ``body``: text, whole numbers, booleans, lists and objects.

    The last row is read in this very transaction, and there is one writer: the chain cannot fork.
    """
    last = connection.execute(_LAST).first()
    seq, previous = (1, GENESIS) if last is None else (last.seq + 1, last.hash)
    entry = Entry(seq, round(now * 1000), kind, agreement_id, canonical(dict(body)), previous)
    connection.execute(
        _INSERT,
        {
            "seq": entry.seq,
            "time_ms": entry.time_ms,
            "kind": entry.kind,
            "agreement_id": entry.agreement_id,
            "body": entry.body,
            "previous": entry.previous,
            "hash": entry.hash,
        },
    )
    return entry


def has(connection: Connection, kind: str, agreement_id: str) -> bool:
    return connection.execute(_HAS, {"about": agreement_id, "what": kind}).first() is not None


def head(connection: Connection) -> tuple[int, str]:
    """Number and hash of the last entry; (0, GENESIS) when there is none."""
    last = connection.execute(_LAST).first()
    return (0, GENESIS) if last is None else (last.seq, last.hash)


def read(connection: Connection, *, after: int = 0) -> Iterator[tuple[Entry, str]]:
    """Entries in order, each with the hash that is stored for it. Reads in pages: a journal may be large."""
    while True:
        rows = connection.execute(
            sa.select(journal).where(journal.c.seq > after).order_by(journal.c.seq).limit(limits.JOURNAL_PAGE)
        ).all()
        for row in rows:
            yield Entry(row.seq, row.time_ms, row.kind, row.agreement_id, row.body, row.previous), row.hash
        if not rows:
            return
        after = rows[-1].seq


def first_break(connection: Connection, *, last: int) -> str:
    """What is wrong with the chain within the ``last`` entries; "" when nothing is."""
    top, _ = head(connection)
    expected: tuple[int, str] | None = None
    after = max(0, top - last)
    for entry, stored in read(connection, after=after):
        if expected is not None and (entry.seq, entry.previous) != expected:
            return f"entry {entry.seq} of the journal does not follow entry {expected[0] - 1}"
        if expected is None and (entry.seq != after + 1 or (after == 0 and entry.previous != GENESIS)):
            return f"entry {after + 1} of the journal is missing"
        if entry.hash != stored:
            return f"entry {entry.seq} of the journal was changed after it was written"
        expected = (entry.seq + 1, stored)
    return ""
