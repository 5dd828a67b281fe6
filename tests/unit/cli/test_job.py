"""`golemp2p job run` looks before it pays."""

from __future__ import annotations

from pathlib import Path

import pytest

from golemp2p.cli.job import _check, _in_flags, _Order
from golemp2p.errors import DeadlineError, UsageError


def order(directory: Path, *fetch: str, output: str = "out") -> _Order:
    program = directory / "p.wasm"
    program.touch()
    return _Order(program, [], [], list(fetch), directory / output, {}, "1", 60, 10, 0, True)


def test_directories_of_results_are_made_first(tmp_path: Path) -> None:
    _check(order(tmp_path, "a", "deep/b"))
    assert (tmp_path / "out" / "deep").is_dir()


def test_without_results_no_directory_is_made(tmp_path: Path) -> None:
    _check(order(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("fetch", "output"), [("a", "p.wasm"), ("deep", "taken"), (".", "taken")])
def test_a_place_that_takes_no_result_is_refused(tmp_path: Path, fetch: str, output: str) -> None:
    (tmp_path / "taken" / "deep").mkdir(parents=True)
    with pytest.raises(UsageError):
        _check(order(tmp_path, fetch, output=output))


def test_hints_name_flags_not_parameters() -> None:
    assert _in_flags(DeadlineError("x", hint="allow more with timeout_s")).hint == "allow more with --timeout"
    assert _in_flags(DeadlineError("x", hint="wait longer with offers_timeout_s")).hint == "wait longer with --wait"
