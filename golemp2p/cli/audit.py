"""`golemp2p audit`: the journal of money, for who does not take anybody's word."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golemp2p import limits
from golemp2p.cli.common import AsJson, DataDir, ExitCode, echo, echo_json, facts, locations_of, say, table
from golemp2p.cli.init import PasswordFile, read_password
from golemp2p.core.money import format_amount
from golemp2p.errors import NotFoundError, RemoteProtocolError, UsageError

if TYPE_CHECKING:
    from golemp2p.core.payment.audit import Auditor, Report

app = typer.Typer(help="The journal of agreements, bills, acceptances and payments.", no_args_is_help=True)


@app.command(epilog="Example: golemp2p audit export books.jsonl --agreement ID")
def export(
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    agreement: Annotated[str, typer.Option("--agreement", help="What is about this agreement alone.")] = "",
    data_dir: DataDir = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Write this node's journal to a file that anybody can check. The node's key signs it.

    Works on the data directory, with or without a node running on it, and changes nothing there.
    """
    from golemp2p.identity import unlock_keystore
    from golemp2p.storage.export import open_snapshot, write_export

    where = locations_of(data_dir)
    if not where.keystore.exists():  # before a password is asked for
        raise UsageError(f"there is no node in {where.data}", hint="say where: --data-dir")
    key = unlock_keystore(where.keystore, read_password(password_file, where))
    with open_snapshot(where.database) as connection:
        try:
            with file.open("x", encoding="utf-8", newline="\n") as out:
                try:
                    header = write_export(connection, out, signer=key, now=time.time(), agreement_id=agreement)
                except BaseException:  # also Ctrl-C: half a journal is none
                    file.unlink()
                    raise
        except FileExistsError as exc:
            raise UsageError(f"{file} exists already", hint="choose another name") from exc
        except OSError as exc:
            raise UsageError(f"cannot write {file}: {exc.strerror}") from exc
    if as_json:
        echo_json({"file": str(file), "node": header.node, "entries": header.entries, "head": header.head})
    else:
        facts([("file", file), ("node", header.node), ("entries", header.entries), ("head", header.head)])


@app.command(epilog="Example: golemp2p audit verify books.jsonl --json")
def verify(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="What `audit export` wrote; - for stdin.")],
    as_json: AsJson = False,
) -> None:
    """Check an exported journal without a node and without a network; exit code 1 if anything does not hold.

    Every hash, every signature, and whether agreements, bills, acceptances and payments fit together.
    """
    from golemp2p.core.payment.audit import Auditor

    lines = _lines(file)
    try:
        auditor = Auditor(next(lines, ""))
    except RemoteProtocolError as exc:
        if as_json:
            echo_json({"ok": False, "findings": [{"entry": 0, "agreement": "", "reason": exc.message}]})
        else:
            echo(f"WRONG: {exc.message}")
        say("this file does not hold")
        raise typer.Exit(ExitCode.FAILED) from exc
    report = _feed(auditor, lines)
    if as_json:
        echo_json(_document(report))
    else:
        _show(report)
    if not report.ok:
        say(f"this journal does not hold: {report.findings_total} findings")
        raise typer.Exit(ExitCode.FAILED)


def _feed(auditor: Auditor, lines: Iterator[str]) -> Report:
    for number, line in enumerate(lines):
        if number >= limits.MAX_AUDIT_ENTRIES:
            raise UsageError(f"the file has more than {limits.MAX_AUDIT_ENTRIES} entries")
        auditor.add(line)
    return auditor.report()


def _lines(file: str) -> Iterator[str]:
    from golemp2p.core.payment.auditfile import lines_of

    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as data:
            yield from lines_of(data)
    except FileNotFoundError as exc:
        raise NotFoundError(f"there is no file {file}") from exc
    except OSError as exc:
        raise UsageError(f"cannot read {file}: {exc.strerror}") from exc


def _document(report: Report) -> dict[str, object]:
    header = report.header
    return {
        "ok": report.ok,
        "node": header.node,
        "agreement": header.agreement_id,
        "network": header.domain.network,
        "chainId": header.domain.chain_id,
        "entries": report.entries,
        "exportedAtMs": header.exported_at_ms,
        "agreements": [
            {
                "agreement": account.agreement_id,
                "side": account.side.value,
                "counterpart": account.counterpart,
                "platform": account.platform,
                "documents": account.documents,
                "billed": format_amount(account.billed),
                "accepted": format_amount(account.accepted),
                "vouched": format_amount(account.vouched),
                "paid": format_amount(account.paid),
                "open": format_amount(account.open),
            }
            for account in report.accounts
        ],
        "findings": [
            {"entry": finding.entry, "agreement": finding.agreement_id, "reason": finding.reason}
            for finding in report.findings
        ],
        "findingsTotal": report.findings_total,
    }


def _show(report: Report) -> None:
    header = report.header
    facts(
        [
            ("node", header.node),
            (
                "signed for",
                f"network {header.domain.network}, chain {header.domain.chain_id}" if header.domain.network else "-",
            ),
            ("about", header.agreement_id or "all agreements"),
            ("entries", report.entries),
        ]
    )
    rows = [
        (
            account.agreement_id[:16],
            "we pay" if account.side.value == "payer" else "we are paid",
            account.counterpart,
            account.platform,
            *(
                format_amount(amount)
                for amount in (account.billed, account.accepted, account.vouched, account.paid, account.open)
            ),
        )
        for account in report.accounts
    ]
    table(("agreement", "side", "with", "platform", "billed", "accepted", "vouched", "paid", "open"), rows)
    for finding in report.findings:
        where = f"entry {finding.entry}" if finding.entry else "the file"
        about = f", agreement {finding.agreement_id}" if finding.agreement_id else ""
        echo(f"WRONG: {where}{about}: {finding.reason}")
    if report.findings_total > len(report.findings):
        echo(f"... and {report.findings_total - len(report.findings)} more")
    if report.ok:
        echo("verified: every hash, every signature, and all of it fits together")
