"""What the wasmtime runtime costs, side by side in one run: ``python scripts/bench/wasm.py [--repeat N]``.

Cold: an interpreter and wasmtime start. Warm: an idle worker is ready. The CPU-bound guest counts primes; plain is the
same module in this process without metering.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
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


async def deploy(runtime: WasmRuntime, text: str, directory: Path, nursery: trio.Nursery) -> WasmInstance:
    code = bytes(wasmtime.wat2wasm(text))
    package = directory / hashlib.sha256(code).hexdigest()
    package.write_bytes(code)
    work = Path(tempfile.mkdtemp(dir=directory))
    return await runtime.deploy(Deployment("bench", package, package.name, work, nursery))


async def ignore(_stream: str, _data: bytes) -> None: ...


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await action()
    return time.perf_counter() - started


def plain(text: str) -> float:
    """The module in this process, compiled beforehand, no metering."""
    engine = wasmtime.Engine()
    module = wasmtime.Module(engine, text)
    store = wasmtime.Store(engine)
    start = wasmtime.Instance(store, module, []).exports(store)["_start"]
    started = time.perf_counter()
    start(store)
    return time.perf_counter() - started


def show(what: str, seconds: list[float]) -> None:
    print(f"{what:44} min {min(seconds) * 1e3:8.1f} ms   median {statistics.median(seconds) * 1e3:8.1f} ms")


async def main(repeat: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        metered = WasmRuntime(directory / "cache")
        unmetered = WasmRuntime(directory / "cache", metered=False)
        cold, warm = [], []
        for _ in range(repeat):
            instance = await deploy(metered, NOTHING, directory)
            cold.append(await timed(lambda: instance.run("x", [], ignore)))  # noqa: B023 - awaited at once
            await trio.sleep(0.3)  # the idle worker gets ready
            warm.append(await timed(lambda: instance.run("x", [], ignore)))  # noqa: B023
            await instance.terminate()
        show("run of an empty program, cold", cold)
        show("run of an empty program, warm", warm)
        base = [plain(PRIMES) for _ in range(repeat)]
        show("primes, plain wasmtime in this process", base)
        for what, runtime in (("without fuel", unmetered), ("with fuel", metered)):
            instance = await deploy(runtime, PRIMES, directory)
            await trio.sleep(0.3)
            seconds = []
            for _ in range(repeat):
                seconds.append(await timed(lambda: instance.run("x", [], ignore)))  # noqa: B023
                await trio.sleep(0.2)
            await instance.terminate()
            show(f"primes, worker {what} ({min(seconds) / min(base):.2f} x plain)", seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    trio.run(main, parser.parse_args().repeat)
