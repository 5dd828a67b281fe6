"""App-keys on disk. They are bearer secrets of local agents; the file is readable by its owner alone."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from golemp2p.storage.schema import metadata

app_keys = sa.Table(
    "app_keys",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("key", sa.String, nullable=False, unique=True),
    sa.Column("cors_origins", sa.String, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)


def put_app_key(connection: Connection, name: str, key: str, cors_origins: tuple[str, ...], now: float) -> None:
    row = {"name": name, "key": key, "cors_origins": " ".join(cors_origins), "created_at": now}
    connection.execute(insert(app_keys).values(row).on_conflict_do_update(index_elements=["name"], set_=row))


def remove_app_key(connection: Connection, name: str) -> None:
    connection.execute(app_keys.delete().where(app_keys.c.name == name))


def list_app_keys(connection: Connection) -> list[tuple[str, str, tuple[str, ...]]]:
    rows = connection.execute(app_keys.select().order_by(app_keys.c.created_at))
    return [(row.name, row.key, tuple(row.cors_origins.split())) for row in rows]
