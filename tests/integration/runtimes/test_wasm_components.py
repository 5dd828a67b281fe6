"""Runtime "wasmtime" with WASI preview 2 components: the whole contract, and what is their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from golemp2p.runtimes.base import EndReason, Limits, Runtime, RuntimeFailureError
from golemp2p.runtimes.wasm.runtime import WasmRuntime
from tests.integration.runtimes import components
from tests.integration.runtimes.contract import Payload, Payloads, RuntimeContract


class ComponentPayloads:
    hello = Payload(components.HELLO)
    exit_3 = Payload(components.EXIT)
    echo = Payload(components.ECHO)
    loop = Payload(components.LOOP)
    tick_loop = Payload(components.TICK_LOOP)
    bomb = Payload(components.BOMB)
    flood = Payload(components.FLOOD)
    broken = b"\0asm\x0d\0\x01\0garbage"


@pytest.fixture
def payloads() -> ComponentPayloads:
    return ComponentPayloads()


@pytest.fixture
def runtime(tmp_path: Path) -> WasmRuntime:
    return WasmRuntime(tmp_path / "cache")


class TestComponents(RuntimeContract):
    async def test_the_programs_own_exit_code_is_passed_on(
        self, runtime: Runtime, payloads: Payloads, tmp_path: Path
    ) -> None:
        """Weaker than the contract's on purpose: wasi:cli/exit of preview 2 knows success and failure, no numbers."""
        for name, program in (("exit", components.EXIT), ("fail", components.FAIL)):
            directory = tmp_path / name
            directory.mkdir()
            async with self.deployed(runtime, Payload(program), directory) as instance:
                for _ in range(2):
                    status, _output = await self.run(instance, Payload(program))
                    assert (status.code, status.reason) == (1, EndReason.EXITED)

    async def test_a_trap_is_explained(self, runtime: WasmRuntime, tmp_path: Path) -> None:
        async with self.deployed(runtime, Payload(components.TRAP), tmp_path) as instance:
            status, _ = await self.run(instance, Payload(components.TRAP))
            assert (status.code, status.reason) == (134, EndReason.TRAP)
            assert "unreachable" in status.message

    async def test_fuel_is_a_budget(self, runtime: WasmRuntime, tmp_path: Path) -> None:
        async with self.deployed(runtime, Payload(components.LOOP), tmp_path, Limits(fuel=1_000_000)) as instance:
            status, _ = await self.run(instance, Payload(components.LOOP))
            assert (status.code, status.reason) == (152, EndReason.OUT_OF_FUEL)
            assert instance.usage().fuel == 1_000_000

    async def test_no_output_is_lost_and_nothing_is_said_at_exit(self, runtime: WasmRuntime, tmp_path: Path) -> None:
        """wasmtime's own callback for output panics at exit now and then (measured); inherited pipes do not."""
        payload = Payload(components.EIGHT_MIB)
        async with self.deployed(runtime, payload, tmp_path) as instance:
            for _ in range(5):
                status, output = await self.run(instance, payload)
                assert (status.code, len(output.stdout), bytes(output.stderr)) == (0, 8 * 2**20, b"")

    @pytest.mark.parametrize(
        ("package", "complaint"),
        [
            (components.UNKNOWN_IMPORT, "does not have: acme:teleport/beam@1.0.0"),
            (components.HTTP_IMPORT, "does not have: wasi:http/types@0.2.0"),
            (components.LIBRARY, "does not export wasi:cli/run"),
            (b"\0asm\x0d\0\x01\0garbage", "component is not valid"),
        ],
    )
    async def test_a_component_that_cannot_run_says_why(
        self, runtime: WasmRuntime, tmp_path: Path, package: bytes, complaint: str
    ) -> None:
        with pytest.raises(RuntimeFailureError, match=complaint):
            async with self.deployed(runtime, Payload(package), tmp_path):
                pass

    async def test_deterministic_runs_of_components_are_refused(self, runtime: WasmRuntime, tmp_path: Path) -> None:
        with pytest.raises(RuntimeFailureError, match="for WASI preview 1 modules"):
            async with self.deployed(runtime, Payload(components.HELLO), tmp_path, deterministic=True):
                pass
