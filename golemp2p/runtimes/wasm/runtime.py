"""Runtime "wasmtime" as the supervisor sees it.

Exit codes. The guest's own are 0-125 (wasmtime refuses others). Ends that are not the guest's choice:
134 trap, 137 out of memory or killed, 152 out of fuel or CPU time, 124 wall-clock limit; the reason tells them apart.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from golemp2p import limits
from golemp2p.runtimes.base import (
    Deployment,
    EndReason,
    ExitStatus,
    OutputSink,
    Probe,
    RuntimeFailureError,
    Usage,
)
from golemp2p.runtimes.hostfiles import HostFiles
from golemp2p.runtimes.probing import probe_by_running
from golemp2p.runtimes.process import ChildExit
from golemp2p.runtimes.wasm.cache import WASMTIME_VERSION, ModuleCache
from golemp2p.runtimes.wasm.launch import Worker, start_worker

WORK: Final = "/golem/work"
CODE_TRAP: Final = 134
CODE_KILLED: Final = 137
CODE_BUDGET: Final = 152
CODE_WALL: Final = 124


class WasmRuntime:
    """WASI preview 1 commands. ``cache_dir`` is shared by the user's nodes; ``metered`` counts fuel (30 % slower)."""

    def __init__(self, cache_dir: Path, *, metered: bool = True) -> None:
        self._cache = ModuleCache(cache_dir)
        self._metered = metered

    @property
    def id(self) -> str:
        return "wasmtime"

    @property
    def name(self) -> str:
        return "wasmtime"

    @property
    def version(self) -> str:
        return WASMTIME_VERSION

    def offer_properties(self) -> Mapping[str, str | float | bool | list[str]]:
        return {
            "golem.runtime.name": self.name,
            "golem.runtime.version": self.version,
            "golem.runtime.capabilities": ["wasi-preview1", *(["fuel"] if self._metered else [])],
            "golem.!exp.golemp2p.isolation": "wasm",
        }

    async def deploy(self, deployment: Deployment) -> WasmInstance:
        module = deployment.work_dir / "module.cwasm"
        await self._cache.link(deployment.package, deployment.package_sha256, module, metered=self._metered)
        volumes = {WORK: deployment.work_dir / "work"}
        for number, guest in enumerate(deployment.volumes):
            volumes.setdefault(guest, deployment.work_dir / f"volume-{number}")
        for host in volumes.values():
            host.mkdir()
        return WasmInstance(self._cache, deployment, module, volumes, metered=self._metered)

    async def probe(self) -> Probe:
        """Compile and run the smallest program there is."""
        import wasmtime

        program = wasmtime.wat2wasm('(module (memory (export "memory") 1) (func (export "_start")))')
        return await probe_by_running(self, bytes(program), "program")

    async def clean_up(self) -> None:
        """Workers die with their node, and the supervisor's service empties the work directories."""


class WasmInstance:
    """One deployed module. Keeps one idle worker ready, so that a run does not wait for an interpreter to start."""

    def __init__(
        self, cache: ModuleCache, deployment: Deployment, module: Path, volumes: Mapping[str, Path], *, metered: bool
    ) -> None:
        self._cache = cache
        self._deployment = deployment
        self._module = module
        self._volumes = dict(volumes)
        self._files = HostFiles(volumes)
        self._metered = metered
        self._past = Usage()
        self._running: Worker | None = None
        self._spare: Worker | None = None
        self._terminated = False
        self._warm_up()

    @property
    def files(self) -> HostFiles:
        return self._files

    async def connect(self, port: int) -> trio.abc.HalfCloseableStream:
        raise RuntimeFailureError(f"a WASM program has no network: nothing listens on port {port}")

    async def lost(self) -> str:
        """Never: there is nothing alive between two commands."""
        return await trio.sleep_forever()

    async def start(self, args: Sequence[str]) -> None:
        """Nothing to boot: every run is a process of its own."""

    async def run(self, entry_point: str, args: Sequence[str], output: OutputSink) -> ExitStatus:
        if self._running is not None:
            raise RuntimeFailureError("another command is running in this activity")
        wall_s = self._deployment.limits.wall_s
        worker = self._running = await self._take_worker()
        outcome: dict[str, Any] | None = None
        try:
            # The nursery ends when the process has ended and its output is delivered; a worker has no children that
            # could hold the pipes any longer.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.child.pump_stdout, _labelled(output, "stdout"))
                nursery.start_soon(worker.child.pump_stderr, _labelled(output, "stderr"))
                with trio.move_on_after(math.inf if wall_s is None else wall_s) as wall:
                    await worker.send(self._order([entry_point, *args]))
                    ended = await worker.child.wait()
                if wall.cancelled_caught:
                    worker.child.kill()
                    ended = await worker.child.wait()
            outcome = await worker.outcome()
        finally:
            self._account(await worker.aclose(), outcome)
            self._running = None
        if outcome is not None and "stale" in outcome:
            self._cache.forget(self._deployment.package_sha256, metered=self._metered)
            raise RuntimeFailureError(str(outcome["stale"]), hint="it was dropped from the cache: deploy again")
        self._warm_up()
        if wall.cancelled_caught:
            return ExitStatus(CODE_WALL, EndReason.WALL_LIMIT, f"stopped after {wall_s:g} s, the limit of one command")
        return self._judge(ended, outcome)

    def usage(self) -> Usage:
        live_s = self._running.child.cpu_s() if self._running is not None else 0.0
        past = self._past
        return Usage(past.cpu_s + live_s, past.fuel, past.memory_peak_bytes, past.storage_bytes)

    async def terminate(self) -> None:
        self._terminated = True
        for worker in (self._running, self._spare):
            if worker is not None:
                await worker.aclose()
        self._spare = None

    async def _take_worker(self) -> Worker:
        """The idle worker, or a new one where it has died meanwhile (an idle process is what a short host kills)."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.child.has_ended():
            await spare.aclose()
            spare = None
        return spare or start_worker(self._deployment.work_dir)

    def _warm_up(self) -> None:
        if self._spare is None and not self._terminated:
            self._spare = start_worker(self._deployment.work_dir)

    def _order(self, argv: Sequence[str]) -> dict[str, object]:
        agreed = self._deployment.limits
        work = str(self._volumes[WORK])
        return {
            "op": "run",
            "module": str(self._module),
            "metered": self._metered,
            "argv": list(argv),
            "env": [list(pair) for pair in self._deployment.env.items()],
            # Twice the work directory: by its absolute path, and as what relative paths mean (wasi-libc's ".").
            "dirs": [*([str(host), guest] for guest, host in self._volumes.items()), [work, "."]],
            "memory_bytes": self._memory_bytes,
            "data_bytes": self._memory_bytes + limits.WORKER_OVERHEAD_BYTES,
            "fuel": agreed.fuel,
            "cpu_s": None if agreed.cpu_s is None else math.ceil(agreed.cpu_s),
            "file_bytes": agreed.storage_bytes,
            "open_files": limits.WORKER_OPEN_FILES,
        }

    @property
    def _memory_bytes(self) -> int:
        return self._deployment.limits.memory_bytes or limits.DEFAULT_GUEST_MEMORY_BYTES

    def _account(self, ended: ChildExit, outcome: Mapping[str, Any] | None) -> None:
        """CPU seconds are the kernel's for the whole process, so they are known however it ended; fuel is not."""
        told = outcome or {}
        past = self._past
        self._past = Usage(
            past.cpu_s + ended.cpu_s,
            past.fuel + int(told.get("fuel", 0)),
            max(past.memory_peak_bytes, int(told.get("memory_peak_bytes", 0))),
            past.storage_bytes,
        )

    def _judge(self, ended: ChildExit, outcome: Mapping[str, Any] | None) -> ExitStatus:
        """How the run ended, in words."""
        if outcome is None:
            return _judge_death(ended, self._deployment.limits.cpu_s)
        trap, message = outcome["trap"], str(outcome["message"])
        if trap is None:
            return ExitStatus(int(outcome["code"]))
        if trap == "OUT_OF_FUEL":
            return ExitStatus(
                CODE_BUDGET, EndReason.OUT_OF_FUEL, f"used up its {self._deployment.limits.fuel} units of fuel"
            )
        mib = limits.MIB
        # A guest only sees memory.grow fail and traps by its own decision, hence the "likely": with dlmalloc's
        # doubling it gives up between half of the limit and the whole.
        if "memory limits" in message or (trap == "UNREACHABLE" and outcome["linear_bytes"] * 2 >= self._memory_bytes):
            return ExitStatus(
                CODE_KILLED,
                EndReason.OUT_OF_MEMORY,
                f"likely out of memory: it had {outcome['linear_bytes'] // mib} MiB of at most "
                f"{self._memory_bytes // mib} MiB and stopped ({message})",
            )
        return ExitStatus(CODE_TRAP, EndReason.TRAP, f"trap: {message}")


def _judge_death(ended: ChildExit, cpu_limit_s: float | None) -> ExitStatus:
    if ended.code == -signal.SIGXCPU:
        return ExitStatus(CODE_BUDGET, EndReason.CPU_LIMIT, f"used up its {cpu_limit_s:g} CPU seconds")
    if ended.code == -signal.SIGKILL:
        return ExitStatus(CODE_KILLED, EndReason.KILLED, "killed from outside (the host may be short of memory)")
    if ended.code < 0:
        return ExitStatus(128 - ended.code, EndReason.TRAP, f"the worker died of {signal.Signals(-ended.code).name}")
    return ExitStatus(CODE_TRAP, EndReason.TRAP, f"the worker failed with status {ended.code}")


def _labelled(output: OutputSink, stream: str) -> Any:
    async def sink(chunk: bytes) -> None:
        await output(stream, chunk)

    return sink
