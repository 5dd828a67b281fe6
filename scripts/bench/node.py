#!/usr/bin/env python
"""What a user waits for, measured in one run and printed beside the goals of the first milestone.

Usage: scripts/bench/node.py [--runs 5] [--json]. Takes about a minute; exit code 1 when a goal is missed.
Real processes: nodes with default keys for start and memory, a local network (light keys) for the jobs. Memory is one
sample per node. A goal of "-" is no goal of the milestone: the number is there to be watched.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from golemp2p.localnet import LocalNetOptions, open_localnet
from tests.e2e.agent import deploy_and_run, negotiate, run
from tests.integration.runtimes.wats import HELLO

GOLEMP2P = [str(Path(sys.executable).parent / "golemp2p")]
IDLE_S = 10.0
MIB = 1024 * 1024


@dataclass(frozen=True)
class Line:
    what: str
    unit: str
    goal: float
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        return self.median <= self.goal


def help_time(runs: int) -> Line:
    values = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([*GOLEMP2P, "--help"], check=True, stdout=subprocess.DEVNULL)
        values.append(time.perf_counter() - started)
    return Line("golemp2p --help", "s", 0.3, tuple(values))


# A provider does not start without one; nothing is paid here, so nobody needs to answer.
NETWORK = {"name": "local", "chain_id": 31337, "token": "0x" + "11" * 20, "rpc_url": "http://127.0.0.1:9"}


@contextmanager
def running_node(directory: Path, *flags: str) -> Iterator[tuple[float, int]]:
    """Seconds until it printed "ready", and its pid."""
    env = {**os.environ, "GOLEMP2P_PASSWORD": "bench-password", "GOLEMP2P_PAYMENT__NETWORKS": json.dumps([NETWORK])}
    if not (directory / "key.json").exists():
        subprocess.run([*GOLEMP2P, "init", "--data-dir", str(directory)], check=True, env=env, capture_output=True)
    command = [*GOLEMP2P, "run", "--data-dir", str(directory), "--rest", "127.0.0.1:0", *flags]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--listen", "/ip4/127.0.0.1/tcp/0"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert any(text.strip() == "ready" for text in process.stdout), "the node did not get ready"
        yield time.perf_counter() - started, process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def ready_time(directory: Path, runs: int) -> Line:
    values = []
    with running_node(directory):  # the first run makes the database
        pass
    for _ in range(runs):
        with running_node(directory) as (seconds, _):
            values.append(seconds)
    return Line("golemp2p run -> ready (default key)", "s", 1.5, tuple(values))


def idle_memory(directory: Path) -> list[Line]:
    with running_node(directory / "p"):  # making the database takes Alembic, 10 MiB that stay
        pass
    with running_node(directory) as (_, requestor), running_node(directory / "p", "--provider") as (_, provider):
        time.sleep(IDLE_S)
        return [
            Line(f"RSS, idle {name}, after {IDLE_S:.0f} s", "MiB", 130, (psutil.Process(pid).memory_info().rss / MIB,))
            for name, pid in (("requestor", requestor), ("provider", provider))
        ]


async def jobs(runs: int) -> list[Line]:
    """On a warm network: the module is there and compiled, connections are open."""
    negotiated, first_bytes, in_activity, memory = [], [], [], 0.0
    async with open_localnet(LocalNetOptions(providers=2)) as net, net.client() as client:
        for number in range(runs + 2):
            made = await negotiate(client, HELLO)
            started = time.perf_counter()
            activity = await made.activity()
            batch = await client.activity.execute(activity, deploy_and_run())
            first = None
            async with client.activity.events(activity, batch, silence_s=30.0) as events:
                async for event in events:
                    if event.kind == "stdout" and first is None:
                        first = time.perf_counter() - started
            started = time.perf_counter()
            batch = await client.activity.execute(activity, [run("program")])
            second = None
            async with client.activity.events(activity, batch, silence_s=30.0) as events:
                async for event in events:
                    if event.kind == "stdout" and second is None:
                        second = time.perf_counter() - started
            assert first is not None
            assert second is not None
            await made.end()
            await made.pay()
            if number >= 2:  # both providers have seen the module
                negotiated.append(made.negotiated_s)
                first_bytes.append(first)
                in_activity.append(second)
        memory = max(psutil.Process(int(node.facts["pid"])).memory_info().rss / MIB for node in net.providers)
    return [
        Line("demand published -> agreement approved", "s", 1.0, tuple(negotiated)),
        Line("submit -> first byte (create, deploy, start, run)", "s", 0.3, tuple(first_bytes)),
        Line("submit -> first byte (activity is ready)", "s", 0.3, tuple(in_activity)),
        Line(f"RSS, larger of 2 providers, {runs + 2} jobs in all", "MiB", math.inf, (memory,)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="golemp2p-bench-") as name:
        lines = [
            help_time(arguments.runs),
            ready_time(Path(name) / "n", arguments.runs),
            *idle_memory(Path(name) / "n"),
        ]
    lines += trio.run(jobs, arguments.runs)
    if arguments.json:
        print(
            json.dumps(
                [
                    {"what": x.what, "unit": x.unit, "goal": None if math.isinf(x.goal) else x.goal, "values": x.values}
                    for x in lines
                ]
            )
        )
    else:
        print(f"{'what':<52}{'goal':>8}{'median':>9}{'best':>9}{'worst':>9}")
        for x in lines:
            numbers = "".join(
                f"{value:9.3f}" if x.unit == "s" else f"{value:9.1f}"
                for value in (x.median, min(x.values), max(x.values))
            )
            goal, verdict = ("-", "") if math.isinf(x.goal) else (f"{x.goal:g}", "ok" if x.met else "MISSED")
            print(f"{x.what:<52}{goal:>8}{numbers} {x.unit:<4}{verdict}".rstrip())
    sys.exit(not all(x.met for x in lines))


if __name__ == "__main__":
    main()
