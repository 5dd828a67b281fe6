"""`golemp2p job run` from a terminal's point of view."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import wasmtime

from tests.e2e.net import GOLEMP2P, Net, environment
from tests.integration.runtimes.wats import ECHO, FLOOD, HELLO, LOOP, TICK_LOOP, TRAP

SAY_AND_FAIL = bytes(
    wasmtime.wat2wasm(
        """(module
        (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 64) "to out\\n") (data (i32.const 80) "to err\\n")
        (func $write (param $fd i32) (param $at i32)
          (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (i32.const 7))
          (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
        (func (export "_start")
          (call $write (i32.const 1) (i32.const 64)) (call $write (i32.const 2) (i32.const 80))
          (call $proc_exit (i32.const 3))))"""
    )
)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    for name, program in (
        ("fail", SAY_AND_FAIL),
        ("hello", HELLO),
        ("echo", ECHO),
        ("loop", LOOP),
        ("tick", TICK_LOOP),
        ("trap", TRAP),
        ("flood", FLOOD),
    ):
        (tmp_path / f"{name}.wasm").write_bytes(program)
    return tmp_path


def command(net: Net, *args: str) -> tuple[list[str], dict[str, str]]:
    requestor = net.requestor
    env = environment(
        YAGNA_APPKEY=requestor.app_key, YAGNA_API_URL=str(requestor.facts["rest_url"]), YAGNA_PAYMENT_NETWORK="local"
    )
    return [*GOLEMP2P, "job", "run", *args], env


def job(net: Net, programs: Path, *args: str) -> subprocess.CompletedProcess[str]:
    line, env = command(net, *args)
    return subprocess.run(line, env=env, cwd=programs, capture_output=True, text=True, timeout=60, check=False)


def test_output_and_exit_code_are_the_programs(net: Net, programs: Path) -> None:
    ended = job(net, programs, "fail.wasm")
    assert ended.returncode == 3
    assert ended.stdout == "to out\n"
    assert ended.stderr.startswith("to err\n")
    assert "cost: 0." in ended.stderr


def test_arguments_environment_and_json(net: Net, programs: Path) -> None:
    ended = job(net, programs, "echo.wasm", "--arg", "one", "--env", "COLOUR=red=ish", "--json", "--", "--two", "three")
    found = json.loads(ended.stdout)
    assert found["stdout"].split("\0")[:5] == ["echo.wasm", "one", "--two", "three", "COLOUR=red=ish"]
    assert (ended.returncode, found["exit_code"]) == (0, 0)
    assert found["agreement_id"]
    assert found["invoice_id"]


def test_files_go_and_come_back(net: Net, programs: Path) -> None:
    (programs / "data.bin").write_bytes(bytes(range(256)) * 100)
    out = programs / "out"
    ended = job(net, programs, "hello.wasm", "--input", "data.bin", "--fetch", "data.bin", "--output", str(out))
    assert ended.returncode == 0, ended.stderr
    assert (out / "data.bin").read_bytes() == (programs / "data.bin").read_bytes()
    missing = job(net, programs, "hello.wasm", "--fetch", "nothing")
    assert missing.returncode == 1
    assert "there is no file" in missing.stderr


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["trap.wasm"], 134, "trap: wasm"),
        (["loop.wasm", "--timeout", "3"], 124, "longer than 3 s"),
        (["hello.wasm", "--max-price", "0.0000001"], 5, "too expensive"),
        (["hello.wasm", "--max-price", "1000000"], 5, "cannot be made"),
        (["hello.wasm", "--min-memory", "64", "--wait", "1"], 6, "(golem.inf.mem.gib>=64) fails for 2 of them"),
        (["hello.wasm", "--min-memory", "64", "--wait", "1"], 6, "wait longer with --wait"),
        (["absent.wasm"], 3, "there is no file absent.wasm"),
        (["hello.wasm", "--fetch", "x", "--output", "hello.wasm"], 2, "cannot make the directory"),
        (["hello.wasm", "--env", "novalue"], 2, "NAME=VALUE"),
        (["hello.wasm", "--fetch", "../x"], 2, "without .."),
        (["hello.wasm", "--api-url", "http://127.0.0.1:1"], 4, "no node answers"),
        (["hello.wasm", "--app-key", "wrong-key"], 2, "app-key"),
    ],
)
def test_what_went_wrong_is_told_and_coded(net: Net, programs: Path, args: list[str], code: int, told: str) -> None:
    ended = job(net, programs, *args)
    assert ended.returncode == code, ended.stderr
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ctrl_c_cleans_up_and_pays(net: Net, programs: Path) -> None:
    line, env = command(net, "tick.wasm")
    process = subprocess.Popen(
        line, env=env, cwd=programs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "tick\n"  # live: the program never ends
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert time.monotonic() - began < 10
    agreement = stderr.partition("agreement ")[2].split()[0]
    shown = json.loads(net.requestor.command("agreement", "show", agreement, "--json").stdout)
    assert shown["agreement"]["state"] == "Terminated"
    invoices = json.loads(net.requestor.command("payment", "invoices", "--json").stdout)
    ours = [invoice for invoice in invoices if agreement in json.dumps(invoice)]
    assert [invoice["status"] in ("ACCEPTED", "SETTLED") for invoice in ours] == [True]


def test_a_reader_that_leaves_ends_the_job_without_a_traceback(net: Net, programs: Path) -> None:
    line, env = command(net, "flood.wasm")
    process = subprocess.Popen(line, env=env, cwd=programs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(10)
    process.stdout.close()  # `job run … | head -c 10`
    assert process.wait(timeout=30) == 141
    assert process.stderr is not None
    said = process.stderr.read().decode()
    process.stderr.close()
    assert "Traceback" not in said
    assert "cost: 0." in said


def test_ctrl_c_is_heard_while_nobody_reads(net: Net, programs: Path) -> None:
    line, env = command(net, "flood.wasm")
    process = subprocess.Popen(line, env=env, cwd=programs, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.read(10)  # it runs; the pipe is full at once
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 130
    process.stdout.close()
