#!/usr/bin/env python
"""The REST API of a real node through HTTP: cheap GETs under long polls, and what idle long polls cost.

Usage: scripts/bench/rest.py [--requests 2000] [--seconds 20] [--json]. Takes about two minutes; exit code 1 when a goal
is missed. A local network with one provider; an agreement and an activity are alive, as when golem-js asks.

Latencies are seen by one client with one open connection, as golem-js and yapapi have. "Idle" is the requestor node's
CPU time beyond what it takes without polls, in percent of one core: polls that hang, and polls that their clients
renew every 5 s, as yapapi, golem-core and golem-js do.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import math
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from golemp2p.client import NodeClient
from golemp2p.localnet import LocalNet, LocalNetOptions, open_localnet
from tests.e2e.agent import Deal, deploy_and_run, negotiate
from tests.integration.runtimes.wats import HELLO

POLLS_BESIDE = 50
IDLE_POLLS = 200
RENEWED_S = 5.0


@dataclass(frozen=True)
class Line:
    what: str
    unit: str
    goal: float
    value: float
    note: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.goal


class Target:
    """Raw HTTP/1.1: the client's own cost must not be what is measured."""

    def __init__(self, net: LocalNet) -> None:
        where = urlsplit(net.requestor.rest_url)
        assert where.hostname is not None
        assert where.port is not None
        self.host, self.port = where.hostname, where.port
        self.headers = {"Authorization": f"Bearer {net.requestor.app_key}"}
        self.process = psutil.Process(int(net.requestor.facts["pid"]))

    def latencies_ms(self, path: str, count: int) -> list[float]:
        """Blocking, one after the other on one connection."""
        connection = http.client.HTTPConnection(self.host, self.port)
        found = []
        for _ in range(count):
            started = time.perf_counter()
            connection.request("GET", path, headers=self.headers)
            answer = connection.getresponse()
            answer.read()
            found.append((time.perf_counter() - started) * 1000)
            assert answer.status == 200, (path, answer.status)
        connection.close()
        return found

    async def poll_forever(self, path: str, timeout_s: float) -> None:
        """One client that renews its poll when it ends."""
        stream = await trio.open_tcp_stream(self.host, self.port)
        path += f"{'&' if '?' in path else '?'}timeout={timeout_s:g}"
        head = [f"GET {path} HTTP/1.1", f"Host: {self.host}:{self.port}", *(": ".join(h) for h in self.headers.items())]
        request = "\r\n".join([*head, "", ""]).encode()
        async with stream:
            while True:
                await stream.send_all(request)
                answer = b""
                while not answer.endswith(b"\r\n\r\n[]"):
                    more = await stream.receive_some()
                    assert more, "the node closed the connection"
                    answer += more
                assert answer.startswith(b"HTTP/1.1 200"), answer[:300]

    def cpu_s(self) -> float:
        used = self.process.cpu_times()
        return float(used.user + used.system)


@asynccontextmanager
async def polls(target: Target, paths: Sequence[str], count: int, timeout_s: float) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(target.poll_forever, paths[number % len(paths)], timeout_s)
            await trio.sleep(RENEWED_S / count)  # clients do not start in the same instant
        await trio.sleep(1)
        yield
        nursery.cancel_scope.cancel()


async def cpu_percent(target: Target, seconds: float) -> float:
    before = target.cpu_s()
    await trio.sleep(seconds)
    return 100 * (target.cpu_s() - before) / seconds


async def measure(requests: int, seconds: float) -> list[Line]:
    lines: list[Line] = []
    async with open_localnet(LocalNetOptions(providers=1)) as net, net.client() as client:
        target = Target(net)
        deal, activity, demand = await prepare(client)
        paths = [
            f"/market-api/v1/demands/{demand}/events",
            "/market-api/v1/agreementEvents?afterTimestamp=2030-01-01T00:00:00Z",
            "/payment-api/v1/invoiceEvents?afterTimestamp=2030-01-01T00:00:00Z",
            "/payment-api/v1/debitNoteEvents?afterTimestamp=2030-01-01T00:00:00Z",
        ]
        gets = {
            "agreement": f"/market-api/v1/agreements/{deal.agreement}",
            "activity's state": f"/activity-api/v1/activity/{activity}/state",
            "activity's usage": f"/activity-api/v1/activity/{activity}/usage",
            "activity's agreement": f"/activity-api/v1/activity/{activity}/agreement",
        }
        for path in gets.values():
            target.latencies_ms(path, 100)
        async with polls(target, paths, POLLS_BESIDE, 300.0):
            for what, path in gets.items():
                before = target.cpu_s()
                found = await trio.to_thread.run_sync(target.latencies_ms, path, requests)
                each_ms = 1000 * (target.cpu_s() - before) / requests
                p50, p99 = statistics.median(found), statistics.quantiles(found, n=100)[98]
                note = f"median {p50:.2f}, worst {max(found):.1f}; {each_ms:.2f} ms CPU each"
                lines.append(Line(f"GET {what}, p99 under {POLLS_BESIDE} long polls", "ms", 10.0, p99, note))
        await deal.end()
        await deal.pay()  # else its news would come while nothing is to happen
        await trio.sleep(3)
        idle = await cpu_percent(target, seconds)
        for what, timeout_s, goal in (
            (f"{IDLE_POLLS} idle long polls", 300.0, 2.0),
            (f"{IDLE_POLLS} long polls renewed every {RENEWED_S:g} s", RENEWED_S, math.inf),
        ):
            async with polls(target, paths, IDLE_POLLS, timeout_s):
                taken = await cpu_percent(target, seconds) - idle
            lines.append(Line(what, "% CPU", goal, max(taken, 0.0), f"the idle node itself: {idle:.1f} %"))
    return lines


async def prepare(client: NodeClient) -> tuple[Deal, str, str]:
    """An agreement, its activity after a run, and a demand that nothing fits."""
    deal = await negotiate(client, HELLO)
    activity = await deal.activity()
    await deal.run(activity, deploy_and_run())
    expiration = round(time.time() * 1000) + 3_600_000
    demand = await client.market.subscribe("demands", {"golem.srv.comp.expiration": expiration}, "(nothing=like-this)")
    return deal, activity, demand


def report(lines: Sequence[Line], show: Callable[[str], None] = print) -> None:
    show(f"{'what':<58}{'goal':>6}{'value':>9}")
    for line in lines:
        goal, verdict = ("-", "") if math.isinf(line.goal) else (f"{line.goal:g}", "ok" if line.met else "MISSED")
        show(f"{line.what:<58}{goal:>6}{line.value:9.2f} {line.unit:<6} {verdict:<7}{line.note}".rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    lines: list[Line] = []
    with contextlib.suppress(KeyboardInterrupt):
        lines = trio.run(measure, arguments.requests, arguments.seconds)
    if arguments.json:
        print(json.dumps([{"what": x.what, "unit": x.unit, "goal": x.goal, "value": x.value} for x in lines]))
    else:
        report(lines)
    sys.exit(not (lines and all(line.met for line in lines)))


if __name__ == "__main__":
    main()
