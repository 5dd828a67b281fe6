"""`golemp2p match`: the market's own matcher on a constraint and properties."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from golemp2p.cli.common import echo, echo_json, facts, say
from golemp2p.errors import UsageError


def add_to(app: typer.Typer) -> None:
    @app.command(
        epilog="Example: echo '{\"golem.inf.mem.gib\": 4.0}' | golemp2p match '(golem.inf.mem.gib>=0.5)' - --explain"
    )
    def match(
        constraint: Annotated[str | None, typer.Argument(help="The constraint; not with --batch.")] = None,
        properties: Annotated[str, typer.Argument(help="JSON file with properties, - for stdin.")] = "-",
        explain: Annotated[
            bool, typer.Option("--explain", help="Also the clauses to blame and missing names.")
        ] = False,
        batch: Annotated[
            bool,
            typer.Option("--batch", help="JSON lines {constraint, properties} from stdin (or the file) to stdout."),
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    ) -> None:
        """Print true, false or undefined: does the constraint hold for the properties? By the market's own matcher."""
        if batch:
            _batch(constraint or "-", explain=explain)
            return
        if constraint is None:
            raise UsageError("no constraint given", hint="golemp2p match '(name=value)' PROPERTIES.json")
        outcome = _judge(constraint, _load(_read(properties)), explain=explain)
        if as_json:
            echo_json(outcome)
        else:
            echo(outcome["result"])
            if explain and outcome["result"] != "true":
                facts(
                    [
                        ("clauses", " ".join(outcome["clauses"]) or "-"),
                        ("unresolved", " ".join(outcome["unresolved"]) or "-"),
                    ]
                )


def _judge(constraint: str, properties: dict[str, Any], *, explain: bool) -> dict[str, Any]:
    from golemp2p.core.constraints import evaluate, parse
    from golemp2p.core.constraints import explain as explain_why
    from golemp2p.core.properties import flatten

    expression, flat = parse(constraint), flatten(properties)
    if not explain:
        return {"result": evaluate(expression, flat).value}
    why = explain_why(expression, flat)
    return {"result": why.result.value, "clauses": list(why.clauses), "unresolved": list(why.unresolved)}


def _batch(source: str, *, explain: bool) -> None:
    """A line that cannot be judged answers {"error": …}; the others go on."""
    try:
        lines = sys.stdin.buffer if source == "-" else Path(source).open("rb")  # noqa: SIM115 - stdin is not ours
    except OSError as exc:
        raise UsageError(f"cannot read the pairs: {exc}") from exc
    failures = 0
    with lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                outcome = _judge(*_pair(line), explain=explain)
            except UsageError as exc:
                failures += 1
                outcome = {"result": "error", "error": str(exc), "line": number}
            print(json.dumps(outcome))
    if failures:
        say(f"{failures} lines could not be judged")
        raise typer.Exit(2)


def _pair(line: bytes) -> tuple[str, dict[str, Any]]:
    pair = _load(line)
    constraint, properties = pair.get("constraint"), pair.get("properties")
    if not isinstance(constraint, str) or not isinstance(properties, dict):
        raise UsageError("a line is {constraint: string, properties: object}")
    return constraint, properties


def _read(name: str) -> str:
    try:
        return (sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()).decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read the properties: {exc}") from exc


def _load(text: str | bytes) -> dict[str, Any]:
    try:
        document = json.loads(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise UsageError("the properties are not a JSON object")
    return document
