from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
import trio
import trio.testing
from sqlalchemy.engine import Connection

from golemp2p.errors import UsageError
from golemp2p.storage import Storage, open_storage
from golemp2p.storage import app_keys as rows
from golemp2p.storage.engine import StorageError

WRITER = """
import sys, trio
from pathlib import Path
from golemp2p.storage import open_storage
from golemp2p.storage.app_keys import put_app_key

async def main():
    async with open_storage(Path(sys.argv[1])) as storage:
        for number in range(10_000):
            await storage.run(lambda c: put_app_key(c, f"k{number:06}", f"secret{number}", (), float(number)))
            print(number, flush=True)

trio.run(main)
"""


async def names(storage: Storage) -> list[str]:
    return [name for name, _, _ in await storage.run(rows.list_app_keys)]


async def test_a_job_that_raises_undoes_only_itself(tmp_path: Path) -> None:
    async with open_storage(tmp_path / "db") as storage:

        def fails(connection: Connection) -> None:
            rows.put_app_key(connection, "bad", "x", (), 1.0)
            raise ZeroDivisionError

        async def one(name: str) -> None:
            await storage.run(lambda c: rows.put_app_key(c, name, name, (), 1.0))

        async def bad() -> None:
            with pytest.raises(ZeroDivisionError):
                await storage.run(fails)

        async with trio.open_nursery() as nursery:
            for name in ("a", "b"):
                nursery.start_soon(one, name)
            nursery.start_soon(bad)
            for name in ("c", "d"):
                nursery.start_soon(one, name)
        assert sorted(await names(storage)) == ["a", "b", "c", "d"]


async def test_a_database_error_is_told_to_its_job_and_spares_the_others(tmp_path: Path) -> None:
    async with open_storage(tmp_path / "db") as storage:
        await storage.run(lambda c: rows.put_app_key(c, "one", "same", (), 1.0))
        with pytest.raises(StorageError, match="refused"):
            await storage.run(lambda c: rows.put_app_key(c, "two", "same", (), 1.0))
        assert await names(storage) == ["one"]


async def test_jobs_that_wait_together_share_a_commit(tmp_path: Path) -> None:
    async with open_storage(tmp_path / "db") as storage:

        async def one(number: int) -> None:
            await storage.run(lambda c: rows.put_app_key(c, str(number), str(number), (), 1.0))

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(one, number)
        statistics = storage.statistics()
        assert statistics.jobs == 100
        assert statistics.commits <= 10
        assert len(await names(storage)) == 100


async def test_what_was_handed_over_is_done_though_everything_is_cancelled(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_storage(tmp_path / "db") as storage, trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(storage.run, lambda c, n=number: rows.put_app_key(c, str(n), str(n), (), 1.0))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    async with open_storage(tmp_path / "db") as storage:
        assert len(await names(storage)) == 50


async def test_a_closed_database_says_so(tmp_path: Path) -> None:
    async with open_storage(tmp_path / "db") as storage:
        pass
    with pytest.raises(StorageError, match="closed"):
        await names(storage)


async def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "db")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - killed below
    assert child.stdout is not None
    acknowledged = -1
    for line in child.stdout:
        acknowledged = int(line)
        if acknowledged >= 25:
            os.kill(child.pid, signal.SIGKILL)
            break
    rest = child.stdout.read().split()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    acknowledged = int(rest[-1]) if rest else acknowledged
    async with open_storage(tmp_path / "db") as storage:
        kept = await names(storage)
        assert await storage.run(lambda c: c.execute(sa.text("PRAGMA integrity_check")).scalar()) == "ok"
    assert [f"k{n:06}" for n in range(acknowledged + 1)] == kept[: acknowledged + 1]


async def test_only_the_owner_can_read_the_database(tmp_path: Path) -> None:
    async with open_storage(tmp_path / "db") as storage:
        await names(storage)
        modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("db", "db-wal", "db-shm")}
        assert modes == {"db": 0o600, "db-wal": 0o600, "db-shm": 0o600}


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"certainly not SQLite" * 1000)
    with pytest.raises(UsageError, match="cannot open the database"):
        async with open_storage(tmp_path / "db"):
            pass
