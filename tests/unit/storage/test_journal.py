from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from golemp2p import limits
from golemp2p.cli.main import app
from golemp2p.core.payment.audit import audit
from golemp2p.core.payment.journal import GENESIS
from golemp2p.errors import NotFoundError, UsageError
from golemp2p.identity import create_keystore
from golemp2p.storage import Storage, journal, open_storage
from golemp2p.storage.export import open_snapshot, write_export
from tests.unit.audit.exchange import AGREEMENT, Exchange, Journal, full_exchange

OTHER = "0c" * 32
NOW = 1_800_000_000.0


async def fill(storage: Storage, of: Journal) -> None:
    def write(connection: sa.Connection) -> None:
        for e in of.entries:
            body = json.loads(e.body)
            journal.append(connection, e.kind, body, agreement_id=e.agreement_id, now=e.time_ms / 1000)

    await storage.run(write)


async def test_each_entry_names_the_one_before_it() -> None:
    exchange = full_exchange()
    async with open_storage(None) as storage:
        assert await storage.run(journal.head) == (0, GENESIS)
        await fill(storage, exchange.payee)
        found = await storage.run(lambda c: list(journal.read(c)))
        assert [entry for entry, _ in found] == exchange.payee.entries
        assert [stored for _, stored in found] == [entry.hash for entry in exchange.payee.entries]
        assert await storage.run(lambda c: journal.first_break(c, last=1_000)) == ""


async def test_an_entry_of_a_transaction_that_fails_is_not_in_the_chain() -> None:
    async with open_storage(None) as storage:
        await storage.run(lambda c: journal.append(c, "x", {}, agreement_id="", now=NOW))

        def fail(connection: sa.Connection) -> None:
            journal.append(connection, "x", {"lost": True}, agreement_id="", now=NOW)
            raise UsageError("no")

        with pytest.raises(UsageError):
            await storage.run(fail)
        entry = await storage.run(lambda c: journal.append(c, "x", {}, agreement_id="", now=NOW))
        assert entry.seq == 2
        assert await storage.run(lambda c: journal.first_break(c, last=10)) == ""


@pytest.mark.parametrize("body", [{"a": 1.5}, {"a": 2**60}, {"a": "\ud800"}, {"ä": 1}, {"a": b"x"}, {"a": {1: 2}}])
async def test_what_has_no_canonical_spelling_is_not_written(body: dict[str, object]) -> None:
    async with open_storage(None) as storage:
        with pytest.raises(ValueError):
            await storage.run(lambda c: journal.append(c, "x", body, agreement_id="", now=NOW))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("UPDATE pay_journal SET body = '{}' WHERE seq = 3", "entry 3 of the journal was changed"),
        ("DELETE FROM pay_journal WHERE seq = 3", "does not follow entry 2"),
        ("DELETE FROM pay_journal WHERE seq = 1", "entry 1 of the journal is missing"),
        (f"UPDATE pay_journal SET hash = '{GENESIS}' WHERE seq = 3", "entry 3 of the journal was changed"),
    ],
)
async def test_damage_is_found_at_the_start_and_in_the_export(damage: str, reason: str) -> None:
    exchange = full_exchange()
    async with open_storage(None) as storage:
        await fill(storage, exchange.payee)
        await storage.run(lambda c: c.execute(sa.text(damage)))
        assert reason in await storage.run(lambda c: journal.first_break(c, last=1_000))
        file = io.StringIO()
        await storage.run(lambda c: write_export(c, file, signer=exchange.payee.key, now=NOW))
        assert not audit(file.getvalue().split("\n")[:-1]).ok


async def test_only_the_last_entries_are_checked_at_the_start() -> None:
    async with open_storage(None) as storage:
        await fill(storage, full_exchange().payee)
        await storage.run(lambda c: c.execute(sa.text("UPDATE pay_journal SET body = '{}' WHERE seq = 1")))
        assert await storage.run(lambda c: journal.first_break(c, last=5)) == ""


async def test_a_journal_longer_than_a_page_is_exported_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOURNAL_PAGE", 4)
    exchange = full_exchange()
    async with open_storage(None) as storage:
        await fill(storage, exchange.payer)
        file = io.StringIO()
        header = await storage.run(lambda c: write_export(c, file, signer=exchange.payer.key, now=NOW))
        lines = file.getvalue().split("\n")[:-1]
        assert lines[1:] == exchange.payer.lines[1:]
        assert (header.entries, header.head_seq) == (len(exchange.payer.entries), len(exchange.payer.entries))
        assert audit(lines).ok


async def test_an_export_about_one_agreement_has_its_part_of_shared_payments() -> None:
    exchange = Exchange()
    for number, agreement in enumerate((AGREEMENT, OTHER)):
        exchange.agree(agreement)
        exchange.accept(exchange.note(f"n{number}", "0.6", usage="[100.0, 0.0]", agreement_id=agreement, payable=True))
    exchange.pay("p", {AGREEMENT: "0.6", OTHER: "0.6"})
    async with open_storage(None) as storage:
        await fill(storage, exchange.payer)
        file = io.StringIO()
        await storage.run(lambda c: write_export(c, file, signer=exchange.payer.key, now=NOW, agreement_id=OTHER))
        report = audit(file.getvalue().split("\n")[:-1])
        assert report.findings == ()
        assert [(a.agreement_id, a.paid == a.accepted) for a in report.accounts] == [(OTHER, True)]
        assert report.entries == 5
        with pytest.raises(NotFoundError):
            await storage.run(lambda c: write_export(c, file, signer=exchange.payer.key, now=NOW, agreement_id="no"))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "password").write_text("secret\n")
    return tmp_path / "data"


async def fill_data_dir(data_dir: Path, exchange: Exchange) -> None:
    create_keystore(data_dir / "key.json", exchange.payee.key, "secret", light=True)
    async with open_storage(data_dir / "node.sqlite") as storage:
        await fill(storage, exchange.payee)


async def test_export_works_beside_a_writing_node_and_without_one(data_dir: Path) -> None:
    exchange = full_exchange()
    await fill_data_dir(data_dir, exchange)
    without = data_dir.parent / "without.jsonl"
    command = ["audit", "export", "--data-dir", str(data_dir)]
    result = CliRunner().invoke(app, [*command, str(without)])
    assert result.exit_code == 0, result.output
    assert without.read_text().split("\n")[1:-1] == exchange.payee.lines[1:]
    async with open_storage(data_dir / "node.sqlite") as storage:
        await storage.run(lambda c: journal.append(c, "later", {}, agreement_id="", now=NOW))
        beside = data_dir.parent / "beside.jsonl"
        assert CliRunner().invoke(app, [*command, str(beside)]).exit_code == 0
        await storage.run(lambda c: journal.append(c, "later", {}, agreement_id="", now=NOW))
    for file in (without, beside):
        assert CliRunner().invoke(app, ["audit", "verify", str(file)]).exit_code == 0
    assert json.loads(beside.read_text().split("\n")[0])["entries"] == len(exchange.payee.entries) + 1
    again = CliRunner().invoke(app, [*command, str(beside)])
    assert isinstance(again.exception, UsageError)
    assert "exists already" in again.exception.message


async def test_an_export_that_fails_leaves_no_file(data_dir: Path) -> None:
    await fill_data_dir(data_dir, full_exchange())
    file = data_dir.parent / "x.jsonl"
    result = CliRunner().invoke(
        app, ["audit", "export", "--data-dir", str(data_dir), "--agreement", "nothing", str(file)]
    )
    assert isinstance(result.exception, NotFoundError)
    assert not file.exists()


def test_reading_never_makes_a_database(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError), open_snapshot(tmp_path / "node.sqlite"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_another_version_is_not_read(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'db'}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR)"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('0001')"))
    engine.dispose()
    with pytest.raises(UsageError, match="another golemp2p"), open_snapshot(tmp_path / "db"):
        pass
