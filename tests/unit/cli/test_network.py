"""`golemp2p network` and what finds the node of a data directory, through the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from golemp2p.cli.main import main

Golemp2p = Callable[..., tuple[int, str, str]]


@pytest.fixture
def golemp2p(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Golemp2p:
    """The command in this process: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOLEMP2P_DATA_DIR", str(tmp_path / "data"))

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["golemp2p", *words])
        try:
            main()
            code: object = 0
        except SystemExit as exc:
            code = exc.code or 0
        said = capsys.readouterr()
        assert isinstance(code, int)
        return code, said.out, said.err.replace("\n", " ")

    return run


def test_leaving_the_active_network_says_what_comes_next_and_another_is_chosen_by_its_name(
    golemp2p: Golemp2p,
) -> None:
    for name in ("one", "two"):
        golemp2p("network", "create", name, "--private", "-o", f"{name}.toml")
        assert golemp2p("network", "join", f"{name}.toml")[0] == 0
    left = golemp2p("network", "leave", "two")[2]
    assert "golemp2p network join one" in left
    assert "running" not in left  # nothing is
    assert "None of them is chosen" in golemp2p("network", "list")[2]
    assert golemp2p("network", "join", "one")[0] == 0
    (found,) = json.loads(golemp2p("network", "list", "--json")[1])
    assert found["active"] is True
    assert found["private"] is True


def test_a_place_that_cannot_be_written_is_said_without_a_traceback(golemp2p: Golemp2p) -> None:
    code, _, said = golemp2p("network", "create", "lab", "-o", "/proc/nowhere/lab.toml")
    assert code == 2
    assert "cannot write /proc/nowhere/lab.toml" in said


def test_a_hint_about_names_is_for_names(golemp2p: Golemp2p) -> None:
    assert "a-z" in golemp2p("network", "create", "No!")[2]
    assert "a-z" not in golemp2p("network", "create", "lab", "--bootstrap", "foo")[2]


def test_commands_for_a_node_say_that_a_bootnode_is_none(golemp2p: Golemp2p, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "running.json").write_text(json.dumps({"pid": os.getpid(), "peer_id": "16U"}))
    code, _, said = golemp2p("status")
    assert code == 4
    assert "a bootnode is running on" in said
