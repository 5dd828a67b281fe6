"""golemp2p image, but for push, which needs a node (tests/integration/images)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from golemp2p.cli.image import app
from golemp2p.errors import NotFoundError, UsageError
from tests.unit.images.making import small_tree


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("GOLEMP2P_CACHE_DIR", str(tmp_path / "cache"))
    return CliRunner()


def test_an_image_is_built_listed_inspected_and_removed(run: CliRunner, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "tree")
    arguments = ["build", str(tree), "-t", "tool:1", "--cmd", "sh -c 'echo hi'", "-e", "A=b=c", "--workdir", "/tmp"]
    built = run.invoke(app, arguments)
    assert built.exit_code == 0, built.output
    digest = built.stdout.strip()
    assert len(digest) == 64
    assert "left out: deep/pipe" in built.stderr
    (listed,) = json.loads(run.invoke(app, ["ls", "--json"]).stdout)
    assert (listed["sha3_256"], listed["names"]) == (digest, ["tool:1"])
    assert "tool:1" in run.invoke(app, ["ls"]).stdout
    shown = json.loads(run.invoke(app, ["inspect", digest[:10], "--json"]).stdout)
    assert shown["config"]["cmd"] == ["sh", "-c", "echo hi"]
    assert ["A", "b=c"] in shown["config"]["env"]
    assert "sh -c 'echo hi'" in run.invoke(app, ["inspect", "tool:1"]).stdout
    removed = json.loads(run.invoke(app, ["rm", "tool:1", "--json"]).stdout)
    assert removed == {"sha3_256": digest, "names": [], "removed": True}
    assert json.loads(run.invoke(app, ["ls", "--json"]).stdout) == []


@pytest.mark.parametrize(
    "arguments",
    [["-t", "Bad Name"], ["--cmd", "'open"], ["--env", "novalue"], ["--workdir", "relative"]],
)
def test_wrong_arguments_are_said_before_the_work(run: CliRunner, tmp_path: Path, arguments: list[str]) -> None:
    result = run.invoke(app, ["build", str(tmp_path), *arguments])
    assert isinstance(result.exception, UsageError)


def test_what_is_not_there_is_not_found(run: CliRunner) -> None:
    for command in ("inspect", "push", "rm"):
        assert isinstance(run.invoke(app, [command, "nothing"]).exception, NotFoundError)
