"""Runtime "wasmtime" as the supervisor sees it. Exit codes: runtimes.wasm.verdict."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from golemp2p import limits
from golemp2p.runtimes.base import Deployment, ExitStatus, OutputSink, Probe, RuntimeFailureError, Usage
from golemp2p.runtimes.exits import wall_limit
from golemp2p.runtimes.hostfiles import HostFiles
from golemp2p.runtimes.probing import probe_by_running
from golemp2p.runtimes.process import ChildExit
from golemp2p.runtimes.wasm.cache import WASMTIME_VERSION, ModuleCache
from golemp2p.runtimes.wasm.evidence import REPEATABLE, Recorder, list_volumes
from golemp2p.runtimes.wasm.launch import Worker, start_worker
from golemp2p.runtimes.wasm.profiles import MAGIC_COMPONENT, Profile
from golemp2p.runtimes.wasm.verdict import judge

WORK: Final = "/golem/work"
TRIAL_STEPS: Final = 50_000_000
TRIAL: Final = f"""(module (memory (export "memory") 1)
  (func (export "_start") (local $x i64) (local $left i32)
    (local.set $x (i64.const 88172645463325252))
    (local.set $left (i32.const {TRIAL_STEPS}))
    (loop $steps
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
      (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 17))))
      (br_if $steps (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i64.store (i32.const 0) (local.get $x))))"""


class WasmRuntime:
    """WASI preview 1 commands and preview 2 components (``wasi:cli/run``). ``cache_dir`` is shared by all nodes."""

    def __init__(self, cache_dir: Path) -> None:
        self._cache = ModuleCache(cache_dir)

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
            "golem.runtime.capabilities": ["wasi-preview1", "wasi-preview2", "fuel", "deterministic"],
            "golem.!exp.golemp2p.isolation": "wasm",
        }

    async def deploy(self, deployment: Deployment) -> WasmInstance:
        profile = _profile(deployment)
        module = deployment.work_dir / "module.cwasm"
        await self._cache.link(deployment.package, deployment.package_sha256, module, profile)
        volumes = {WORK: deployment.work_dir / "work"}
        # A program sees the order in which it gets its directories; a receipt has them sorted.
        further = sorted(deployment.volumes) if profile is Profile.DETERMINISTIC else deployment.volumes
        for number, guest in enumerate(further):
            volumes.setdefault(guest, deployment.work_dir / f"volume-{number}")
        for host in volumes.values():
            host.mkdir()
        with deployment.package.open("rb") as file:
            component = file.read(len(MAGIC_COMPONENT)) == MAGIC_COMPONENT
        return WasmInstance(self._cache, deployment, module, volumes, profile, component=component)

    async def probe(self) -> Probe:
        """Compile and run a small program that only computes."""
        import wasmtime

        return await probe_by_running(self, bytes(wasmtime.wat2wasm(TRIAL)), "program", steps=TRIAL_STEPS)

    async def clean_up(self) -> None:
        """Workers die with their node, and the supervisor's service empties the work directories."""
        await trio.to_thread.run_sync(self._cache.remove_leftovers)


def _profile(deployment: Deployment) -> Profile:
    """Raises RuntimeFailureError where the deterministic mode cannot be had."""
    agreed = deployment.limits.memory_bytes
    if not deployment.deterministic:
        if not deployment.metered and deployment.limits.fuel is None:
            return Profile.PLAIN
        return Profile.METERED if deployment.limits.wall_s is None else Profile.INTERRUPTIBLE
    if agreed is not None and agreed < limits.DETERMINISTIC_MEMORY_BYTES:
        raise RuntimeFailureError(
            f"a deterministic run has {limits.DETERMINISTIC_MEMORY_BYTES // limits.MIB} MiB of memory everywhere, "
            f"this offer {agreed // limits.MIB}",
            hint="demand more memory: golem.inf.mem.gib",
        )
    return Profile.DETERMINISTIC


class WasmInstance:
    """One deployed program. Keeps idle workers ready, so that a run does not wait for an interpreter to start."""

    def __init__(
        self,
        cache: ModuleCache,
        deployment: Deployment,
        module: Path,
        volumes: Mapping[str, Path],
        profile: Profile,
        *,
        component: bool,
    ) -> None:
        self._cache = cache
        self._deployment = deployment
        self._module = module
        self._volumes = dict(volumes)
        self._files = HostFiles(volumes)
        self._profile = profile
        self._component = component
        self._past = Usage()
        self._running: Worker | None = None
        self._spare: deque[Worker] = deque()
        self._terminated = False
        self._warm_up(1)  # the first run comes soon, and another one's start would only slow this one's

    @property
    def files(self) -> HostFiles:
        return self._files

    @property
    def disk(self) -> Sequence[Path]:
        return (self._deployment.work_dir,)

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
        argv = [entry_point, *args]
        if not self._deployment.deterministic:
            return (await self._run(argv, output))[0]
        inputs = await trio.to_thread.run_sync(list_volumes, self._volumes)
        recorder = Recorder(output)
        status, fuel = await self._run(argv, recorder)
        if status.reason not in REPEATABLE:
            return status
        evidence = recorder.evidence(
            program_sha256=self._deployment.package_sha256,
            argv=argv,
            env=self._deployment.env,
            inputs=inputs,
            outputs=await trio.to_thread.run_sync(list_volumes, self._volumes),
            status=status,
            fuel=fuel,
            fuel_limit=self._deployment.limits.fuel,
            memory_limit_bytes=self._memory_bytes,
        )
        return ExitStatus(status.code, status.reason, status.message, evidence)

    async def _run(self, argv: Sequence[str], output: OutputSink) -> tuple[ExitStatus, int]:
        """The end and the fuel."""
        wall_s = self._deployment.limits.wall_s
        # Where the guest can be interrupted from inside that comes first: then its fuel is known.
        grace_s = limits.EPOCH_GRACE_S if self._profile is Profile.INTERRUPTIBLE else 0.0
        patience_s = math.inf if wall_s is None else wall_s + grace_s
        worker = self._running = await self._take_worker()
        outcome: dict[str, Any] | None = None
        try:
            # The nursery ends when the process has ended and its output is delivered; a worker has no children that
            # could hold the pipes any longer.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.child.pump_stdout, _labelled(output, "stdout"))
                nursery.start_soon(worker.child.pump_stderr, _labelled(output, "stderr"))
                with trio.move_on_after(patience_s) as wall:
                    await worker.send(self._order(argv))
                    ended = await worker.child.wait()
                if wall.cancelled_caught:
                    worker.child.kill()
                    ended = await worker.child.wait()
            outcome = await worker.outcome()
        finally:
            self._account(await worker.aclose(), outcome)
            self._running = None
        if outcome is not None and "stale" in outcome:
            self._cache.forget(self._deployment.package_sha256, self._profile)
            raise RuntimeFailureError(str(outcome["stale"]), hint="it was dropped from the cache: deploy again")
        self._warm_up(limits.IDLE_WORKERS)
        fuel = int((outcome or {}).get("fuel", 0))
        if wall.cancelled_caught and wall_s is not None:
            return wall_limit(wall_s), fuel
        return judge(ended, outcome, self._deployment.limits, self._memory_bytes), fuel

    def usage(self) -> Usage:
        live_s = self._running.child.cpu_s() if self._running is not None else 0.0
        past = self._past
        return Usage(past.cpu_s + live_s, past.fuel, past.memory_peak_bytes, past.storage_bytes)

    async def terminate(self) -> None:
        self._terminated = True
        for worker in (self._running, *self._spare):
            if worker is not None:
                await worker.aclose()
        self._spare.clear()

    async def _take_worker(self) -> Worker:
        """An idle worker, or a new one where they died meanwhile (an idle process is what a short host kills)."""
        while self._spare:
            worker = self._spare.popleft()
            if not worker.child.has_ended():
                return worker
            await worker.aclose()
        return start_worker(self._deployment.work_dir)

    def _warm_up(self, count: int) -> None:
        """Start idle workers up to ``count``, while nothing runs: a start costs 0.1 CPU-s."""
        while not self._terminated and len(self._spare) < count:
            self._spare.append(start_worker(self._deployment.work_dir))

    def _order(self, argv: Sequence[str]) -> dict[str, object]:
        agreed = self._deployment.limits
        work = str(self._volumes[WORK])
        return {
            "op": "run",
            "module": str(self._module),
            "component": self._component,
            "profile": self._profile.value,
            "seed": self._deployment.package_sha256,
            "argv": list(argv),
            "env": [list(pair) for pair in self._deployment.env.items()],
            # Twice the work directory: by its absolute path, and as what relative paths mean (wasi-libc's ".").
            "dirs": [*([str(host), guest] for guest, host in self._volumes.items()), [work, "."]],
            "readable": [str(self._module)],
            "writable": [str(host) for host in self._volumes.values()],
            "memory_bytes": self._memory_bytes,
            "data_bytes": self._memory_bytes + limits.WORKER_OVERHEAD_BYTES,
            "fuel": agreed.fuel,
            "wall_s": agreed.wall_s,
            "cpu_s": None if agreed.cpu_s is None else math.ceil(agreed.cpu_s),
            "file_bytes": agreed.storage_bytes,
            "open_files": limits.WORKER_OPEN_FILES,
        }

    @property
    def _memory_bytes(self) -> int:
        if self._profile is Profile.DETERMINISTIC:
            return limits.DETERMINISTIC_MEMORY_BYTES
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


def _labelled(output: OutputSink, stream: str) -> Any:
    async def sink(chunk: bytes) -> None:
        await output(stream, chunk)

    return sink
