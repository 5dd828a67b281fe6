"""`golemp2p verify`: receipts of deterministic runs."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from golemp2p import limits
from golemp2p.cli.common import AsJson, DataDir, ExitCode, echo, echo_json, facts, locations_of, run_async, say
from golemp2p.core.receipt import Receipt, verify_receipt
from golemp2p.errors import NotFoundError, RemoteProtocolError, UsageError

DEFAULT_VOLUME = "/golem/work"


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: golemp2p verify result.json --program tool.wasm --input inputs/")(verify)


def verify(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A receipt, or a result that holds one; - for stdin.")],
    program: Annotated[Path | None, typer.Option("--program", help="The WASM file: do the work again here.")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="[VOLUME=]DIR", help=f"The files it was given; VOLUME is {DEFAULT_VOLUME}."),
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="Seconds for the re-run.")] = 3600.0,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check a provider's receipt of a deterministic run; exit code 1 if it is wrong.

    Without --program only the signature is checked: that this provider says so. With it the program runs here again,
    and output, files, exit code and fuel must be the same.
    """
    receipt = read_receipt(_read(file))
    problems: list[str] = []
    try:
        verify_receipt(receipt)
    except RemoteProtocolError as exc:
        problems.append(str(exc))
    if program is not None and not problems:
        problems = _run_again(receipt, program, _directories(inputs or []), data_dir, timeout_s)
    if as_json:
        again = program is not None
        echo_json({"receipt": receipt.to_document(), "verified": not problems, "rerun": again, "problems": problems})
    else:
        _show(receipt)
        for problem in problems:
            echo(f"WRONG: {problem}")
        if not problems:
            echo("verified: " + ("signed by the provider" if program is None else "signed, and the same came out here"))
    if problems:
        say("this receipt does not hold")
        raise typer.Exit(ExitCode.FAILED)


def read_receipt(text: str) -> Receipt:
    """A receipt's document, or any object with one under ``receipt``. Raises UsageError."""
    try:
        found = json.loads(text)
        if isinstance(found, dict) and isinstance(found.get("receipt"), dict):
            found = found["receipt"]
        if isinstance(found, dict) and isinstance(found.get("agreement"), dict):
            raise UsageError("this is an agreement, not a receipt", hint="golemp2p agreement verify FILE")
        return Receipt.from_document(found)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"this is not a receipt: {exc}") from exc
    except RemoteProtocolError as exc:
        raise UsageError(f"this is not a receipt: {exc.message}") from exc


def _run_again(
    receipt: Receipt, program: Path, inputs: dict[str, Path], data_dir: Path | None, timeout_s: float
) -> list[str]:
    from golemp2p.runtimes.wasm.rerun import differences, rerun

    claimed, cache = receipt.evidence, locations_of(data_dir).modules

    async def main() -> list[str]:
        return differences(claimed, await rerun(claimed, program, inputs, cache, timeout_s=timeout_s))

    return run_async(main)


def _directories(inputs: list[str]) -> dict[str, Path]:
    found = {}
    for text in inputs:
        volume, separator, directory = text.partition("=")
        if not separator or not volume.startswith("/"):
            volume, directory = DEFAULT_VOLUME, text
        if not Path(directory).is_dir():
            raise NotFoundError(f"there is no directory {directory}")
        found[volume] = Path(directory)
    return found


def _read(file: str) -> str:
    most_bytes = 4 * limits.MAX_RECEIPT_BYTES
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as data:
            raw = data.read(most_bytes + 1)
    except FileNotFoundError as exc:
        raise NotFoundError(f"there is no file {file}") from exc
    except OSError as exc:
        raise UsageError(f"cannot read {file}: {exc.strerror}") from exc
    if len(raw) > most_bytes:
        raise UsageError(f"{file} is too large for a receipt", hint=f"at most {most_bytes} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise UsageError(f"{file} is not a receipt: it is no UTF-8") from exc


def _show(receipt: Receipt) -> None:
    told: list[tuple[str, Any]] = [
        ("provider", f"{receipt.provider} ({receipt.provider_address})"),
        ("agreement", receipt.agreement_id),
        ("signed", datetime.fromtimestamp(receipt.issued_at, UTC).isoformat(timespec="seconds")),
        ("signed for", f"network {receipt.domain.network}, chain {receipt.domain.chain_id}"),
    ]
    try:
        evidence = receipt.evidence
    except RemoteProtocolError:
        pass
    else:
        told += [
            ("program", evidence.program),
            ("command", json.dumps(list(evidence.argv), ensure_ascii=False)),
            ("ended", f"{evidence.reason}, code {evidence.exit_code}, {evidence.fuel} units of fuel"),
            ("stdout", evidence.stdout),
            ("engine", f"{evidence.engine}, {evidence.config}, {evidence.architecture}"),
        ]
    facts(told)
