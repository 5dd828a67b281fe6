"""`golemp2p job run` looks before it pays."""

from __future__ import annotations

from pathlib import Path

import pytest

from golemp2p.cli.job import Input, Order, Output, _in_flags, check, parse_input, parse_outputs, parse_size_gib
from golemp2p.errors import DeadlineError, UsageError


def order(directory: Path, *fetch: str, output: str = "out") -> Order:
    program = directory / "p.wasm"
    program.touch()
    return Order([], program=program, outputs=parse_outputs(list(fetch), directory / output, []))


def test_directories_of_results_are_made_first(tmp_path: Path) -> None:
    check(order(tmp_path, "a", "deep/b"))
    assert (tmp_path / "out" / "deep").is_dir()


def test_without_results_no_directory_is_made(tmp_path: Path) -> None:
    check(order(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("fetch", "output"), [("a", "p.wasm"), ("deep", "taken"), (".", "taken")])
def test_a_place_that_takes_no_result_is_refused(tmp_path: Path, fetch: str, output: str) -> None:
    (tmp_path / "taken" / "deep").mkdir(parents=True)
    with pytest.raises(UsageError):
        check(order(tmp_path, fetch, output=output))


def test_hints_name_flags_not_parameters() -> None:
    assert _in_flags(DeadlineError("x", hint="allow more with timeout_s")).hint == "allow more with --timeout"
    assert _in_flags(DeadlineError("x", hint="wait longer with offers_timeout_s")).hint == "wait longer with --wait"


def test_inputs_and_outputs_read_like_dockers_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:b").touch()
    assert parse_input("a:b") == Input(Path("a:b"), "a:b")  # it exists under this name
    assert parse_input("x.txt") == Input(Path("x.txt"), "x.txt")
    assert parse_input("dir/x:/etc/y") == Input(Path("dir/x"), "/etc/y")
    assert parse_input("dir/x:in/") == Input(Path("dir/x"), "in/x")
    assert parse_outputs([], Path(), ["results/:out", "log:deep/log"]) == [
        Output("results", Path("out"), is_directory=True),
        Output("log", Path("deep/log")),
    ]
    for bad in (":x", "x:", "../x:y"):
        with pytest.raises(UsageError):
            parse_outputs([], Path(), [bad])


def test_a_directory_of_results_must_be_new(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    wanted = order(tmp_path)
    wanted.outputs = [Output("results", tmp_path / "out", is_directory=True)]
    with pytest.raises(UsageError, match="there already"):
        check(wanted)


@pytest.mark.parametrize(("text", "gib"), [("512m", 0.5), ("2g", 2.0), ("1.5GiB", 1.5), ("1073741824", 1.0)])
def test_sizes_are_written_as_docker_writes_them(text: str, gib: float) -> None:
    assert parse_size_gib(text, "--memory") == gib


@pytest.mark.parametrize("text", ["", "lots", "-1g", "0", "1x", "1gg", "1", "900k"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        parse_size_gib(text, "--memory")


def test_a_flag_that_would_do_nothing_is_refused(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    wanted.cpus = 0.5
    with pytest.raises(UsageError, match="--cpus"):
        check(wanted)


def test_inputs_stay_in_the_working_directory(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    wanted.inputs = [parse_input(f"{tmp_path}/..")]
    with pytest.raises(UsageError, match="--input"):
        check(wanted)


def test_a_receipt_that_cannot_be_kept_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    for place in (tmp_path / "missing" / "receipt.json", tmp_path):
        wanted.receipt = place
        with pytest.raises(UsageError, match="receipt"):
            check(wanted)
