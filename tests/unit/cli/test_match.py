"""`golemp2p match` as a person or a script runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

VECTORS = json.loads((Path(__file__).parents[3] / "protocols" / "vectors" / "constraints.json").read_text())


def run(*args: str, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "golemp2p.cli.main", "match", *args],
        input=stdin if isinstance(stdin, bytes) else stdin.encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize(
    ("constraint", "result"), [("(mem>=0.5)", "true"), ("(mem>8)", "false"), ("(cores>1)", "undefined")]
)
def test_the_result_is_one_word_on_stdout(constraint: str, result: str) -> None:
    done = run(constraint, "-", stdin='{"mem": 4.0}')
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{result}\n", "")


def test_properties_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"golem": {"mem": 4.0}}')
    assert run("(golem.mem=4)", str(tmp_path / "p.json")).stdout == "true\n"


def test_an_explanation_names_clauses_and_missing_names() -> None:
    done = run("(&(mem>8)(cores>1))", "--explain", stdin='{"mem": 4.0}')
    assert done.stdout.split("\n")[:2] == ["false", "clauses     (mem>8)"]
    done = run("(cores>1)", "--explain", stdin="{}")
    assert "unresolved  cores" in done.stdout


def test_json_is_for_programs() -> None:
    done = run("(cores>1)", "--json", "--explain", stdin="{}")
    assert json.loads(done.stdout) == {"result": "undefined", "clauses": ["(cores>1)"], "unresolved": ["cores"]}
    assert json.loads(run("()", "--json", stdin="{}").stdout) == {"result": "true"}


@pytest.mark.parametrize(
    ("args", "stdin", "complaint"),
    [
        (["(&(a=1)\n(b)"], "{}", "line 2, column 3"),
        ([""], "{}", "expected '('"),
        (["()"], "{not json", "not JSON"),
        (["()"], "[1]", "not a JSON object"),
        (["()"], "[" * 100_000, "not JSON"),
        (["()"], b"\xff\xfe", "cannot read"),
        (["()"], '{"a": [{}]}', "'a'"),
        (["()", "/no/such/file"], "", "cannot read"),
        ([], "{}", "no constraint"),
        (["--batch", "/no/such/file"], "", "cannot read"),
    ],
)
def test_wrong_input_is_told_on_stderr_with_exit_code_2(args: list[str], stdin: str | bytes, complaint: str) -> None:
    done = run(*args, stdin=stdin)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_batch_answers_line_by_line_and_goes_on_after_a_bad_one() -> None:
    good = {"constraint": "(a=1)", "properties": {"a": 1}}
    lines: list[bytes] = [
        json.dumps(good).encode(),
        b"",
        b"not json",
        b'{"constraint": "(a"}',
        b'{"constraint": "(a", "properties": {}}',
        b'\xff\xfe {"constraint": "()", "properties": {}}',
        json.dumps(good).encode(),
    ]
    done = run("--batch", stdin=b"\n".join(lines))
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["result"] for a in answers] == ["true", "error", "error", "error", "error", "true"]
    assert [a.get("line") for a in answers] == [None, 3, 4, 5, 6, None]
    assert "column 3" in answers[3]["error"]
    assert done.returncode == 2
    assert "4 lines" in done.stderr


def test_the_batch_is_the_markets_own_matcher() -> None:
    lines = [json.dumps({k: v[k] for k in ("constraint", "properties")}) for v in VECTORS["evaluate"]]
    done = run("--batch", "--explain", stdin="\n".join(lines))
    assert done.returncode == 0
    answers: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["result"] for a in answers] == [v["result"] for v in VECTORS["evaluate"]]
    assert [a["clauses"] for a in answers] == [v.get("clauses", []) for v in VECTORS["evaluate"]]


def test_ten_thousand_pairs_take_a_few_seconds() -> None:
    def pair(n: int) -> str:
        constraint = f"(&(golem.runtime.name=vm)(golem.inf.mem.gib>={n % 64})(golem.node=n*{n}))"
        properties = {"golem.runtime.name": "vm", "golem.inf.mem.gib": 32.0, "golem.node": f"node-{n}"}
        return json.dumps({"constraint": constraint, "properties": {**properties, **{f"p{i}": i for i in range(40)}}})

    lines = "\n".join(map(pair, range(10_000)))
    started = time.perf_counter()
    done = run("--batch", stdin=lines)
    took_s = time.perf_counter() - started
    assert len(done.stdout.splitlines()) == 10_000
    assert took_s < 5, took_s
