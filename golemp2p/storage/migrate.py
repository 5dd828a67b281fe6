"""Bring a database to the newest schema. Alembic (0.36 s to import) is loaded only when there is work to do."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from golemp2p.errors import UsageError

HEAD: Final = "0004"  # a test compares this with the migration scripts
SCRIPTS: Final = Path(__file__).parent / "migrations"


def current_revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return revision


def migrate(engine: Engine) -> None:
    """Upgrade to HEAD. Raises UsageError for a database of a newer golemp2p."""
    revision = current_revision(engine)
    if revision == HEAD:
        return
    if revision is not None and revision > HEAD:
        raise UsageError(
            f"the database is of a newer golemp2p (schema {revision}, this one knows {HEAD})",
            hint="upgrade golemp2p",
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
