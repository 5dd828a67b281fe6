from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import golemp2p.storage
from golemp2p.errors import UsageError
from golemp2p.storage import open_storage
from golemp2p.storage.migrate import HEAD, SCRIPTS, migrate
from golemp2p.storage.schema import metadata


def all_tables() -> sa.MetaData:
    for module in pkgutil.iter_modules(golemp2p.storage.__path__):
        if module.name != "migrations":
            importlib.import_module(f"golemp2p.storage.{module.name}")
    return metadata


def test_a_migrated_database_has_exactly_the_tables_of_the_code() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    migrate(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, all_tables()) == []
        found = sa.inspect(connection)
        for table in metadata.sorted_tables:
            keys = found.get_pk_constraint(table.name)["constrained_columns"]
            assert keys == [column.name for column in table.primary_key.columns], table.name
    engine.dispose()


def test_the_newest_script_is_the_version_that_the_code_asks_for() -> None:
    assert ScriptDirectory(str(SCRIPTS)).get_heads() == [HEAD]


async def test_a_database_of_a_newer_golemp2p_is_refused(tmp_path: Path) -> None:
    async with open_storage(tmp_path / "db") as storage:
        await storage.run(lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(UsageError, match="newer golemp2p"):
        async with open_storage(tmp_path / "db"):
            pass


async def test_opening_a_database_that_is_up_to_date_loads_no_alembic(tmp_path: Path) -> None:
    async with open_storage(tmp_path / "db"):
        pass
    code = f"""
import sys, trio
from pathlib import Path
from golemp2p.storage import open_storage
async def main():
    async with open_storage(Path({str(tmp_path / "db")!r})):
        pass
trio.run(main)
assert "alembic" not in sys.modules
assert "golemp2p.storage.market" not in sys.modules
"""
    await trio.run_process([sys.executable, "-c", code])
