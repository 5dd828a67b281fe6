#!/usr/bin/env python
"""Files between a program and a provider's payload, measured in one run: gftp (yapapi's way), gsb (golem-js's way).

Usage: scripts/bench/files.py [--mb 256] [--ways gftp gsb store] [--json]. A local network of two real nodes, a wasmtime
activity; each leg is what the client waits for: publish and transfer in, receive and transfer out. "store" is our own
way over PUT /files, for comparison. Memory: the growth of each process's resident set over a leg, at its highest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.e2e.agent import Deal, deploy_and_run, negotiate
from tests.e2e.files import gftp, storage
from tests.e2e.net import Net, open_net
from tests.integration.runtimes.wats import HELLO

MB = 1_000_000
GOAL_MB_PER_S = 60.0
MAX_GROWTH_MIB = 64.0


class Peak:
    """The highest resident set of some processes while a leg runs."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self.growth_mib: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        before = {name: process.memory_info().rss for name, process in self._processes.items()}
        highest = dict(before)
        cpu_before = self._cpu_s()

        async def watch() -> None:
            while True:
                for name, process in self._processes.items():
                    highest[name] = max(highest[name], process.memory_info().rss)
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            yield
            nursery.cancel_scope.cancel()
        self.growth_mib = {name: (highest[name] - before[name]) / 2**20 for name in highest}
        self.cpu_s = {name: after - cpu_before[name] for name, after in self._cpu_s().items()}

    def _cpu_s(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def client_of(way: str, net: Net) -> Iterator[tuple[Any, dict[str, int]]]:
    pids = {"requestor": int(net.requestor.facts["pid"]), "provider": int(net.providers[0].facts["pid"])}
    if way == "gftp":
        with gftp(net.requestor) as process:
            yield process, pids | {"gftp": process.process.pid}
    else:
        with storage(net.requestor) as found:
            yield found, pids


async def transfer(made: Deal, activity: str, source: str, target: str) -> None:
    results = await made.run(activity, [{"transfer": {"from": source, "to": target}}], timeout_s=240.0)
    assert results[-1]["result"] == "Ok", results[-1]


async def legs(
    net: Net, made: Deal, activity: str, way: str, file: Path, back: Path, size_mb: int
) -> list[dict[str, Any]]:
    found = []
    with client_of(way, net) as (client, pids):

        async def leg(name: str, ask: Callable[[Path], str], path: Path, *, inward: bool) -> None:
            peak, started = Peak(pids), time.perf_counter()
            async with peak.watched():
                url = await trio.to_thread.run_sync(ask, path)
                published_s = time.perf_counter() - started
                inside = "container:/golem/work/file"
                await transfer(made, activity, *((url, inside) if inward else (inside, url)))
            took_s = time.perf_counter() - started
            found.append(
                {
                    "way": way,
                    "leg": name,
                    "mb_per_s": size_mb / took_s,
                    "seconds": took_s,
                    "publish_s": published_s,
                    "growth_mib": peak.growth_mib,
                    "cpu_s": peak.cpu_s,
                }
            )

        await leg("upload", client.publish, file, inward=True)
        await leg("download", client.receive, back, inward=False)
    assert digest(back) == digest(file)
    return found


async def measure(ways: list[str], size_mb: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="golemp2p-bench-") as name:
        where = Path(name)
        with open_net(where / "net", providers=1, provider={"storage_gib": 8.0, "memory_gib": 0.125}) as net:
            async with net.requestor.client() as client:
                made = await negotiate(client, HELLO, life_s=900.0)
                activity = await made.activity()
                assert (await made.run(activity, deploy_and_run()))[-1]["result"] == "Ok"
                for way in ways:
                    file = where / f"file-{way}"  # another one each time: providers keep what they know by its hash
                    with file.open("wb") as out:
                        for _ in range(size_mb):
                            out.write(os.urandom(MB))
                    lines += await legs(net, made, activity, way, file, where / f"back-{way}", size_mb)
                await made.end()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=256)
    parser.add_argument("--ways", nargs="+", default=["gftp", "gsb"], choices=["gftp", "gsb"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    lines = trio.run(measure, arguments.ways, arguments.mb)
    met = all(
        line["mb_per_s"] >= GOAL_MB_PER_S and max(line["growth_mib"].values()) <= MAX_GROWTH_MIB for line in lines
    )
    if arguments.json:
        print(json.dumps(lines))
    else:
        print(f"{arguments.mb} MB, goal {GOAL_MB_PER_S:g} MB/s and no process more than {MAX_GROWTH_MIB:g} MiB larger")
        for line in lines:
            grown = ", ".join(
                f"{name} +{grew:.0f}, {line['cpu_s'][name]:.1f}" for name, grew in line["growth_mib"].items()
            )
            print(
                f"{line['way']:<6}{line['leg']:<10}{line['mb_per_s']:7.1f} MB/s {line['seconds']:6.2f} s"
                f" (publish {line['publish_s']:.2f} s)   MiB, s CPU: {grown}"
            )
    sys.exit(not met)


if __name__ == "__main__":
    main()
