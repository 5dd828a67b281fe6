#!/usr/bin/env python
"""Runtime vm/docker beside the docker command on the same engine: starting, running, streaming.

Usage: scripts/bench/vm.py [--runs 7] [--megabytes 200]. Needs root and scripts/setup vm. Exit code 1: a goal is missed.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from golemp2p.client import NodeClient
from golemp2p.localnet import LocalNet, LocalNetOptions, open_localnet
from tests.e2e.agent import Command, Deal, negotiate, run
from tests.engine import Engine, open_engine
from tests.integration.runtimes.busybox import make_rootfs, make_squashfs, make_tar

IMAGE = "bench/busybox"
ECHO = ("echo", "hello")
START: list[Command] = [{"deploy": {}}, {"start": {"args": []}}, run(*ECHO)]
MIB = 1024 * 1024


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def docker(engine: Engine, *args: str) -> None:
    subprocess.run(["docker", "-H", engine.url, *args], check=True, stdout=subprocess.DEVNULL)


async def create_to_first_byte(client: NodeClient, deal: Deal) -> float:
    started = time.perf_counter()
    activity = await deal.activity()
    batch = await client.activity.execute(activity, START)
    took_s = 0.0
    async with client.activity.events(activity, batch, silence_s=20.0) as events:
        async for event in events:
            if event.kind == "stdout" and not took_s:
                took_s = time.perf_counter() - started
    await client.activity.destroy(activity, timeout_s=10.0)
    return took_s


async def measure(net: LocalNet, engine: Engine, image: Path, runs: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in ("docker run", "activity", "docker exec", "run")}
    async with net.client() as client:
        file = await client.files.publish(image)
        package = f"hash:sha3:{file.sha3_256}:{file.url}"
        deal = await negotiate(client, b"", package=package, runtime="vm")
        await create_to_first_byte(client, deal)  # the image is loaded now
        for _ in range(runs):  # in turns, so that both see the same machine
            found["docker run"].append(timed(lambda: docker(engine, "run", "--rm", "--network=none", IMAGE, *ECHO)))
            found["activity"].append(await create_to_first_byte(client, deal))
        docker(engine, "run", "-d", "--name", "bench", "--network=none", IMAGE, "sleep", "1000")
        activity = await deal.activity()
        await deal.run(activity, START)
        for _ in range(runs):
            found["docker exec"].append(timed(lambda: docker(engine, "exec", "bench", *ECHO)))
            started = time.perf_counter()
            await deal.run(activity, [run(*ECHO)])
            found["run"].append(time.perf_counter() - started)
        docker(engine, "rm", "-f", "bench")
        await client.activity.destroy(activity, timeout_s=10.0)
        await deal.end()
    return found


def stream(net: LocalNet, image: Path, megabytes: int) -> tuple[float, float]:
    """(MB/s of a payload's stdout at the terminal's side of `job run`, the larger node's memory growth in MiB)."""
    nodes = [int(node.facts["pid"]) for node in (net.requestor, *net.providers)]
    before = [rss_mib(pid) for pid in nodes]
    most = list(before)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            most[:] = [max(old, rss_mib(pid)) for old, pid in zip(most, nodes, strict=True)]

    script = f"echo start; dd if=/dev/zero bs=1M count={megabytes} 2>/dev/null"
    command = [str(Path(sys.executable).parent / "golemp2p"), "job", "run", "--image", str(image)]
    env = {**os.environ, **net.env}
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with subprocess.Popen([*command, "--", "sh", "-c", script], stdout=subprocess.PIPE, env=env) as process:
            assert isinstance(process.stdout, io.BufferedReader)
            assert process.stdout.readline() == b"start\n"
            started, received = time.perf_counter(), 0
            while data := process.stdout.read1(MIB):
                received += len(data)
                last = time.perf_counter()
            assert received == megabytes * MIB, received
    finally:
        over.set()
        watcher.join()
    return received / 1e6 / (last - started), max(m - b for m, b in zip(most, before, strict=True))


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def line(what: str, seconds: list[float], goal: float | None = None, base: list[float] | None = None) -> bool:
    middle = statistics.median(seconds)
    text = f"{what:44} {middle * 1000:8.1f} {min(seconds) * 1000:8.1f} ms"
    ok = True
    if goal is not None and base is not None:
        ratio = middle / statistics.median(base)
        ok = ratio <= goal
        text += f"   {ratio:.2f} x docker, goal {goal:.2f}: {'ok' if ok else 'MISSED'}"
    print(text)
    return ok


def make_images(directory: Path, engine: Engine) -> Path:
    """The same root file system as an image of the engine and as a file."""
    root = make_rootfs(directory / "root")
    command = ["docker", "-H", engine.url, "import", "-", IMAGE]
    subprocess.run(command, input=make_tar(root), check=True, stdout=subprocess.DEVNULL)
    return make_squashfs(root, directory / "busybox.gvmi")


async def main(runs: int, megabytes: int) -> bool:
    with tempfile.TemporaryDirectory() as name, open_engine() as engine:
        image = make_images(Path(name), engine)
        os.environ["DOCKER_HOST"] = engine.url
        options = LocalNetOptions(providers=1, runtimes=("vm/docker",), provider={"memory_gib": 1.0})
        async with open_localnet(options) as net:
            found = await measure(net, engine, image, runs)
            speed, growth = await trio.to_thread.run_sync(stream, net, image, megabytes)
    print(f"{'what':44} {'median':>8} {'best':>8}")
    line("docker run IMAGE echo", found["docker run"])
    ok = line("activity: create, deploy, start, first stdout", found["activity"], 1.3, found["docker run"])
    line("docker exec echo", found["docker exec"])
    ok &= line("run in a live activity", found["run"], 1.3, found["docker exec"])
    fast = speed >= 20
    print(f"{'stdout from payload to `job run`s reader':44} {speed:8.1f} MB/s   goal 20: {'ok' if fast else 'MISSED'}")
    print(f"{'the larger growth of a nodes memory meanwhile':44} {growth:8.1f} MiB")
    return ok and fast


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=200)
    arguments = parser.parse_args()
    sys.exit(0 if trio.run(main, arguments.runs, arguments.megabytes) else 1)
