"""`golemp2p agreement`: contracts and their signatures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from golemp2p import limits
from golemp2p.cli.common import (
    ApiUrl,
    AppKeyOption,
    AsJson,
    DataDir,
    ExitCode,
    echo,
    echo_json,
    facts,
    say,
    table,
    with_client,
)
from golemp2p.errors import NotFoundError, UsageError

app = typer.Typer(help="Agreements of this node.", no_args_is_help=True)


@app.command("list", epilog="Example: golemp2p agreement list --json")
def list_agreements(
    state: Annotated[str | None, typer.Option("--state", help="e.g. Approved, Terminated.")] = None,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """All agreements, newest first."""
    found = with_client(data_dir, api_url, app_key, lambda c: c.market.agreements(state))
    if as_json:
        echo_json(found)
    else:
        rows = [(a["id"], a["role"], a["state"], a["timestamp"]) for a in found]
        table(("agreement", "we are", "state", "made"), rows)


@app.command(epilog="Example: golemp2p agreement show ID --verify --save contract.json")
def show(
    agreement: Annotated[str, typer.Argument(help="Id of the agreement.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check both signatures; exit code 1 if one is wrong.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write all that `agreement verify` needs to this file.")
    ] = None,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """One agreement. --verify recomputes both EIP-712 signatures here, from the signed bytes alone."""
    from golemp2p.cli.document import check_document

    found = with_client(data_dir, api_url, app_key, lambda c: c.node.agreement(agreement))
    if save is not None:
        try:
            save.write_text(json.dumps(found, indent=2) + "\n")
        except OSError as exc:
            raise UsageError(f"cannot write {save}: {exc.strerror}") from exc
    checks = check_document(found) if verify else None
    if as_json:
        echo_json({**found, "verified": checks} if verify else found)
    else:
        parts = found["agreement"]
        facts(
            [
                ("agreement", parts["agreementId"]),
                ("state", parts["state"]),
                ("requestor", parts["demand"]["requestorId"]),
                ("provider", parts["offer"]["providerId"]),
                ("made", parts["timestamp"]),
                ("approved", parts.get("approvedDate", "-")),
                ("runtime", parts["offer"]["properties"].get("golem.runtime.name", "-")),
                ("end", (found["endReason"] or {}).get("message", "-")),
            ]
        )
        if checks is not None:
            _say_checks(checks)
    if checks is not None:
        _conclude(checks)


@app.command(epilog="Example: golemp2p agreement verify contract.json")
def verify(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="What `agreement show --save` wrote; - for stdin.")],
    as_json: AsJson = False,
) -> None:
    """Check both signatures of a saved agreement, without a node and without a network; exit code 1 if one is wrong.

    The signatures cover the terms, the parties, the id, the times, the network's name and the chain; not the state.
    """
    from golemp2p.cli.document import check_document, read_document

    found = read_document(_read(file))
    checks = check_document(found)
    if as_json:
        echo_json({"agreementId": found["agreement"].get("agreementId"), "verified": checks})
    else:
        facts(
            [
                ("agreement", found["agreement"].get("agreementId", "-")),
                ("requestor", found.get("requestor", "-")),
                ("provider", found.get("provider", "-")),
                ("signed for", f"network {found.get('network', '-')}, chain {found.get('chainId', '-')}"),
            ]
        )
        _say_checks(checks)
    _conclude(checks)


def _read(file: str) -> str:
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as data:
            raw = data.read(limits.MAX_AGREEMENT_FILE_BYTES + 1)
    except FileNotFoundError as exc:
        raise NotFoundError(f"there is no file {file}") from exc
    except OSError as exc:
        raise UsageError(f"cannot read {file}: {exc.strerror}") from exc
    if len(raw) > limits.MAX_AGREEMENT_FILE_BYTES:
        raise UsageError(f"{file} is too large for an agreement", hint=f"at most {limits.MAX_AGREEMENT_FILE_BYTES}")
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise UsageError(f"{file} is not an agreement: it is no UTF-8") from exc


def _say_checks(checks: dict[str, bool]) -> None:
    for side in ("requestor", "provider"):
        echo(f"{side}'s signature: {'valid' if checks[side] else 'NOT VALID'}")
    echo(f"terms shown: {'as signed' if checks['terms'] else 'NOT AS SIGNED'}")


def _conclude(checks: dict[str, bool]) -> None:
    if not all(checks.values()):
        say("this agreement is not valid: a signature is missing or wrong, or other terms are shown than were signed")
        raise typer.Exit(ExitCode.FAILED)
