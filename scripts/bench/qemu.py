"""vm/qemu on this machine: boot to agent, a small run, stdout, files.

Usage: python scripts/bench/qemu.py [BOOTS] [auto|tcg|kvm]
Goals: boot to agent at most 3 s under TCG; stdout at least 20 MB/s. One line of JSON at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from golemp2p.runtimes.base import Deployment, Limits
from golemp2p.runtimes.qemu.runtime import QemuRuntime
from tests.integration.runtimes.busybox import make_rootfs, make_squashfs

MB = 1_000_000
OUTPUT_BYTES = 100 * 1024 * 1024
FILE_BYTES = 16 * MB


async def main(boots: int, accel: str) -> None:
    cache = Path(os.environ.get("GOLEMP2P_BENCH_CACHE", tempfile.gettempdir())) / "golemp2p-bench-guests"
    runtime = QemuRuntime(cache, accel=accel)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        image = make_squashfs(make_rootfs(here / "root"), here / "image")
        for number in range(boots + 1):  # the first one prepares kernel and image
            work = here / f"work-{number}"
            work.mkdir()
            figures = await once(runtime, image, work)
            if number:
                for name, figure in figures.items():
                    found.setdefault(name, []).append(figure)
    summary = {name: {"min": round(min(v), 3), "median": round(median(v), 3)} for name, v in found.items()}
    for name, value in summary.items():
        print(f"{name:24} min {value['min']:8} median {value['median']:8}", file=sys.stderr)
    print(json.dumps({"accel": accel, "boots": boots, **summary}))


async def once(runtime: QemuRuntime, image: Path, work: Path) -> dict[str, float]:
    figures: dict[str, float] = {}
    sha256 = hashlib.sha256(await trio.Path(image).read_bytes()).hexdigest()
    async with trio.open_nursery() as nursery:
        began = perf_counter()
        bounds = Limits(memory_bytes=256 * 1024 * 1024, storage_bytes=1024**3)
        instance = await runtime.deploy(Deployment(os.urandom(16).hex(), image, sha256, work, nursery, bounds))
        figures["deploy_s"] = perf_counter() - began
        began = perf_counter()
        try:
            await instance.start([])
            figures["boot_to_ready_s"] = perf_counter() - began
            figures["boot_cpu_s"] = instance.usage().cpu_s
            runs = []
            for _ in range(5):
                began = perf_counter()
                await instance.run("true", [], ignore)
                runs.append(perf_counter() - began)
            figures["run_true_s"] = min(runs)
            began = perf_counter()
            await instance.run("dd", ["if=/dev/zero", "bs=64k", f"count={OUTPUT_BYTES // 65536}"], ignore)
            figures["stdout_mb_per_s"] = OUTPUT_BYTES / MB / (perf_counter() - began)
            source = work / "source"
            source.write_bytes(os.urandom(FILE_BYTES))
            began = perf_counter()
            await instance.files.put("/golem/work/file", source)
            figures["put_mb_per_s"] = FILE_BYTES / MB / (perf_counter() - began)
            began = perf_counter()
            async with instance.files.reading("/golem/work/file", max_bytes=FILE_BYTES):
                figures["get_mb_per_s"] = FILE_BYTES / MB / (perf_counter() - began)
            figures["memory_mb"] = instance._machine.memory_peak_bytes() / MB if instance._machine else 0.0
        finally:
            began = perf_counter()
            await instance.terminate()
            figures["terminate_s"] = perf_counter() - began
        nursery.cancel_scope.cancel()
    return figures


async def ignore(_stream: str, _data: bytes) -> None:
    """Output is only counted by the clock."""


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2] if len(sys.argv) > 2 else "tcg")
