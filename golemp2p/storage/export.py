"""Writing the journal out to a file (core/payment/auditfile.py), beside a running node or without one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Final, Protocol
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.eip712 import Domain
from golemp2p.core.ids import PeerId
from golemp2p.core.payment.auditfile import Header, list_hash
from golemp2p.core.payment.journal import Entry, EntryKind
from golemp2p.errors import NotFoundError, UsageError
from golemp2p.storage import journal
from golemp2p.storage.migrate import HEAD, current_revision

_DECIDED: Final = frozenset({EntryKind.PAYMENT.value, EntryKind.PAYMENT_REFUSED.value})


class _Signer(Protocol):
    @property
    def peer_id(self) -> PeerId: ...

    def sign(self, digest: bytes) -> bytes: ...


@contextmanager
def open_snapshot(path: Path) -> Iterator[Connection]:
    """The database as it is now, for reading only; a node may write meanwhile. Raises NotFoundError, UsageError."""
    if not path.exists():
        raise NotFoundError(f"there is no database {path}", hint="is this the data directory of a node?")
    uri = f"file:{quote(str(path))}?mode=ro"
    engine = sa.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, timeout=limits.DB_BUSY_TIMEOUT_S)
    )
    try:
        revision = current_revision(engine)
        if revision != HEAD:
            raise UsageError(
                f"the database {path} is of another golemp2p (schema {revision}, this one reads {HEAD})",
                hint="start the node once with this version",
            )
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")  # one moment for all that is read
            yield connection
    except sa.exc.SQLAlchemyError as exc:
        raise UsageError(f"cannot read the database {path}: {exc}") from exc
    finally:
        engine.dispose()


def write_export(
    connection: Connection, file: IO[str], *, signer: _Signer, now: float, agreement_id: str = ""
) -> Header:
    """The whole journal, or what it has about one agreement. Raises NotFoundError for an unknown agreement."""
    hashes, domain = [], Domain("", 0)
    for entry, stored in _selected(connection, agreement_id):
        hashes.append(stored)
        if entry.kind == EntryKind.AGREEMENT:
            body = json.loads(entry.body)
            domain = Domain(body["network"], body["chainId"])
    if agreement_id and not hashes:
        raise NotFoundError(f"the journal has nothing about agreement {agreement_id}")
    head_seq, head = journal.head(connection)
    header = Header(
        domain,
        signer.peer_id,
        agreement_id,
        len(hashes),
        list_hash(hashes),
        head_seq,
        head,
        round(now * 1000),
    )
    header = replace(header, signature=signer.sign(header.digest()))
    file.write(header.line + "\n")
    for entry, stored in _selected(connection, agreement_id):
        # With the stored hash: what was changed in the database must show, not be signed anew.
        file.write(entry.line.replace(entry.hash, stored, 1) if entry.hash != stored else entry.line)
        file.write("\n")
    return header


def _selected(connection: Connection, agreement_id: str) -> Iterator[tuple[Entry, str]]:
    notices: set[object] = set()  # of several agreements, ours among them
    for entry, stored in journal.read(connection):
        mine = agreement_id in ("", entry.agreement_id)
        if mine or (entry.agreement_id == "" and _concerns(entry, agreement_id, notices)):
            yield entry, stored


def _concerns(entry: Entry, agreement_id: str, notices: set[object]) -> bool:
    body = json.loads(entry.body)
    if entry.kind == EntryKind.PAYMENT_NOTICE and agreement_id in body["message"]["agreementIds"]:
        notices.add(body["message"]["id"])
        return True
    if entry.kind in (EntryKind.CLAIM, EntryKind.CHANNEL_CLOSED):
        return any(agreement == agreement_id for agreement, _ in body["agreements"])
    return entry.kind in _DECIDED and body["noticeId"] in notices
