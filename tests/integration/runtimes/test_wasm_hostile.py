"""Programs that mean harm: to the compiler, to the host, to the node's time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import trio
import wasmtime

from golemp2p import limits
from golemp2p.runtimes.base import EndReason, Limits, RuntimeFailureError
from golemp2p.runtimes.wasm.launch import start_worker
from golemp2p.runtimes.wasm.runtime import WasmInstance, WasmRuntime
from tests.integration.runtimes import wats
from tests.integration.runtimes.contract import Payload, RuntimeContract


def compile_bomb(steps: int, variables: int) -> bytes:
    """275 kB of valid module (8000 steps, 2000 variables) keep Cranelift's register allocation busy for 16 s."""
    body = []
    for step in range(steps):
        a, b, c = step % variables, (step * 7 + 3) % variables, (step * 13 + 5) % variables
        body.append(
            f"(if (i64.lt_s (local.get {a}) (local.get {b}))"
            f" (then (local.set {c} (i64.add (i64.mul (local.get {a}) (local.get {b})) (local.get {c}))))"
            f" (else (local.set {b} (i64.rotl (local.get {c}) (local.get {a})))))"
        )
    names = " ".join(["i64"] * variables)
    start = f'(func (export "_start") (local {names}) {"".join(body)} (i64.store (i32.const 0) (local.get 0)))'
    return bytes(wasmtime.wat2wasm(f'(module (memory (export "memory") 1) {start})'))


@pytest.fixture(scope="module")
def bomb() -> Payload:
    return Payload(compile_bomb(8_000, 2_000))


@pytest.fixture
def runtime(tmp_path: Path) -> WasmRuntime:
    return WasmRuntime(tmp_path / "cache")


contract = RuntimeContract()


@contextmanager
def no_children_left() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert left == []


async def longest_stall(task_status: trio.TaskStatus[list[float]] = trio.TASK_STATUS_IGNORED) -> None:
    """How long the node could do nothing else, at most."""
    worst = [0.0]
    task_status.started(worst)
    while True:
        before_s = trio.current_time()
        await trio.sleep(0.01)
        worst[0] = max(worst[0], trio.current_time() - before_s - 0.01)


async def test_a_compile_bomb_is_killed_when_its_time_is_up_and_not_tried_again(
    runtime: WasmRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: Payload
) -> None:
    monkeypatch.setattr(limits, "COMPILE_WALL_S", 2.0)
    with no_children_left():
        async with trio.open_nursery() as nursery:
            worst = await nursery.start(longest_stall)
            with trio.fail_after(10), pytest.raises(RuntimeFailureError, match="longer than 2 s"):
                async with contract.deployed(runtime, bomb, tmp_path):
                    pass
            nursery.cancel_scope.cancel()
        assert worst[0] < 1.0  # the node goes on meanwhile; the cores are shared with the bomb
        (tmp_path / "instance").rmdir()
        with trio.fail_after(1.0), pytest.raises(RuntimeFailureError, match="not again now"):
            async with contract.deployed(runtime, bomb, tmp_path):
                pass
    assert list((tmp_path / "cache").glob("*.cwasm")) == []
    assert list((tmp_path / "cache").glob("*.part")) == []


async def test_what_the_compiler_of_a_killed_node_left_is_removed(runtime: WasmRuntime, tmp_path: Path) -> None:
    old, new = tmp_path / "cache" / ".old.part", tmp_path / "cache" / ".new.part"
    for part in (old, new):
        part.mkdir()
        (part / "module").touch()
    os.utime(old, (0, 0))
    await runtime.clean_up()
    assert (old.exists(), new.exists()) == (False, True)


async def test_a_compile_bomb_is_killed_when_its_cpu_time_is_up(
    runtime: WasmRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: Payload
) -> None:
    monkeypatch.setattr(limits, "COMPILE_CPU_S", 1)
    with no_children_left(), pytest.raises(RuntimeFailureError, match="out of CPU time"):
        async with contract.deployed(runtime, bomb, tmp_path):
            pass


async def test_a_compile_bomb_is_stopped_by_its_memory(
    runtime: WasmRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: Payload
) -> None:
    monkeypatch.setattr(limits, "COMPILE_MEMORY_BYTES", 96 * 2**20)
    with no_children_left(), pytest.raises(RuntimeFailureError, match="most likely out of memory"):
        async with contract.deployed(runtime, bomb, tmp_path):
            pass


async def test_cancelling_a_deploy_kills_its_compiler(runtime: WasmRuntime, tmp_path: Path, bomb: Payload) -> None:
    with no_children_left():
        with trio.move_on_after(0.5) as scope:
            async with contract.deployed(runtime, bomb, tmp_path):
                pass
        assert scope.cancelled_caught


async def test_a_host_call_that_does_not_return_is_killed_from_outside(runtime: WasmRuntime, tmp_path: Path) -> None:
    """No epoch reaches a guest that waits in a host call; what ends it is the end of its process."""
    sleeper = Payload(
        wats.program(
            '(data (i32.const 528) "\\01") (data (i32.const 536) "\\00\\00\\00\\00\\00\\00\\00\\10")'
            '(func (export "_start")'
            " (drop (call $poll_oneoff (i32.const 512) (i32.const 700) (i32.const 1) (i32.const 740))))"
        )
    )
    async with contract.deployed(runtime, sleeper, tmp_path, Limits(wall_s=0.3)) as instance:
        with trio.fail_after(30):
            status, _ = await contract.run(instance, sleeper)
        assert status.reason is EndReason.WALL_LIMIT


async def test_the_fuel_of_a_metered_program_that_ran_too_long_is_known(runtime: WasmRuntime, tmp_path: Path) -> None:
    """Up to its last call of a function: what it used since is in a register, and lost."""
    calls = Payload(wats.program('(func $f) (func (export "_start") (loop (call $f) (br 0)))'))
    async with contract.deployed(runtime, calls, tmp_path, Limits(wall_s=0.3)) as instance:
        status, _ = await contract.run(instance, calls)
        assert status.reason is EndReason.WALL_LIMIT
        assert instance.usage().fuel > 1_000_000


async def test_a_worker_is_fenced_by_the_kernel(runtime: WasmRuntime, tmp_path: Path) -> None:
    """Landlock and seccomp are in the kernel of the project's machines; where they are not this fails and says so."""
    async with contract.deployed(runtime, Payload(wats.HELLO), tmp_path) as instance:
        assert isinstance(instance, WasmInstance)
        worker = start_worker(tmp_path)
        try:
            await worker.send(instance._order(["main"]))
            await worker.child.wait()
            outcome = await worker.outcome()
        finally:
            await worker.aclose()
        assert outcome is not None
        assert outcome["fences"] == ["capabilities", "landlock", "seccomp"]


FENCED = """
import os, socket, sys, wasmtime
from golemp2p.runtimes.wasm import fence
assert fence.confine([sys.argv[1]], [sys.argv[2]]) == ("capabilities", "landlock", "seccomp")
def refused(what, call):
    try:
        call()
    except PermissionError:
        return
    print("not refused:", what)
refused("reading /etc/passwd", lambda: open("/etc/passwd"))
refused("listing /", lambda: os.listdir("/"))
refused("writing what is readable", lambda: open(sys.argv[1], "a"))
refused("writing beside", lambda: open(sys.argv[2] + "-beside", "w"))
refused("a socket", lambda: socket.socket())
refused("a unix socket", lambda: socket.socket(socket.AF_UNIX))
refused("a program", lambda: os.execv("/bin/true", ["true"]))
refused("a child", lambda: os.posix_spawn("/bin/true", ["true"], {}))
refused("a signal to the parent", lambda: os.kill(os.getppid(), 0))
refused("root's rights", lambda: os.chown(sys.argv[2], 12345, 12345))
refused("another root", lambda: os.chroot(sys.argv[2]))
open(sys.argv[1]).close()
open(sys.argv[2] + "/new", "w").close()
os.rename(sys.argv[2] + "/new", sys.argv[2] + "/newer")
print("done")
"""


def test_the_fence_refuses_what_a_program_does_not_need(tmp_path: Path) -> None:
    readable, writable = tmp_path / "readable", tmp_path / "writable"
    readable.touch()
    writable.mkdir()
    done = subprocess.run(
        [sys.executable, "-I", "-c", FENCED, str(readable), str(writable)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert not Path(f"{writable}-beside").exists()
