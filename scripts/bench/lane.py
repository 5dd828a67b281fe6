#!/usr/bin/env python
"""The bulk lane beside what it could be at best: ``python scripts/bench/lane.py [--megabytes 1000] [--json]``.

Two processes on loopback, one file, all in one run: a plain TCP socket, a blocking TLS 1.3 socket (bytes only, no file,
no hash), then files from store to store, verified by their hash: fetched and pushed over a lane, fetched over a libp2p
stream. Ratio: to the blocking TLS socket of this run. Exit status 0 when the lane makes GOAL of it both ways (by
sha256) and no process grew by more than MAX_GROWTH_MIB.

Stores are where ``--folder`` says, /dev/shm by default: a disk has its own speed, printed as "writing".
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil
import structlog
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

MB: Final = 1_000_000
GOAL: Final = 0.6
MAX_GROWTH_MIB: Final = 64.0
BLOCK: Final = 1 << 20


class Meter:
    """CPU seconds and growth of the resident set of this process."""

    def __init__(self) -> None:
        self._process, self._ended = psutil.Process(), threading.Event()
        self._before = self._highest = self._process.memory_info().rss
        self._cpu_s, self._wall_s = self._cpu(), time.perf_counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @staticmethod
    def _cpu() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self._highest = max(self._highest, self._process.memory_info().rss)

    def end(self) -> dict[str, float]:
        self._ended.set()
        self._thread.join()
        wall_s = time.perf_counter() - self._wall_s
        return {
            "seconds": wall_s,
            "cpu_s": self._cpu() - self._cpu_s,
            "growth_mib": (self._highest - self._before) / 2**20,
        }


# --- sockets ----------------------------------------------------------------------------------------------------------
def receive_all(connection: socket.socket, size: int) -> None:
    buffer, left = memoryview(bytearray(BLOCK)), size
    while left:
        left -= connection.recv_into(buffer[:left])


def send_all(connection: socket.socket, size: int) -> None:
    block, left = memoryview(os.urandom(BLOCK)), size
    while left:
        connection.sendall(block[:left])
        left -= min(left, BLOCK)


def serve_socket(size: int, tls: bool) -> None:
    """Send ``size`` bytes to who connects; in the process of the sender."""
    from golemp2p.net.lanetls import context_for, make_certificate

    certificate = make_certificate()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        say({"port": listener.getsockname()[1], "cert": certificate.der.hex(), "pem": certificate.pem.decode()})
        plain, _ = listener.accept()
        connection: socket.socket = plain
        if tls:
            connection = context_for(certificate, certificate.der, server=True).wrap_socket(plain, server_side=True)
        with connection:
            meter = Meter()
            send_all(connection, size)
            say(meter.end())


def fetch_by_socket(facts: dict[str, Any], size: int, tls: bool) -> dict[str, float]:
    from golemp2p.net.lanetls import LaneCertificate, context_for

    connection: socket.socket = socket.create_connection(("127.0.0.1", facts["port"]))
    if tls:
        certificate = LaneCertificate(bytes.fromhex(facts["cert"]), facts["pem"].encode())
        connection = context_for(certificate, certificate.der, server=False).wrap_socket(connection)
        assert isinstance(connection, ssl.SSLSocket)
        assert connection.version() == "TLSv1.3"
    with connection:
        meter = Meter()
        receive_all(connection, size)
        return meter.end()


# --- nodes ------------------------------------------------------------------------------------------------------------
async def node(store: Path, file: Path, role: str, lanes_on: bool) -> None:
    """Both ends: "owner" has the file and a slot, "caller" fetches and pushes. Told what to do line by line."""
    from golemp2p.core.ids import PeerId
    from golemp2p.identity.keys import NodeKey
    from golemp2p.net.config import NetConfig
    from golemp2p.net.data import DataService
    from golemp2p.net.lanes import Lanes
    from golemp2p.net.libp2p import open_libp2p_network
    from golemp2p.storage.content import ContentStore

    content_store = ContentStore(store)
    async with (
        open_libp2p_network(NodeKey.generate(), NetConfig(dht=False)) as network,
        trio.open_nursery() as nursery,
    ):
        lanes = Lanes(network) if lanes_on else None
        if lanes is not None:
            await nursery.start(lanes.run)
        data = DataService(network, content_store, lanes=lanes)
        data.serve()
        facts: dict[str, Any] = {"peer": network.peer_id, "address": network.addresses()[0]}
        if role == "owner":
            content = await content_store.named(await content_store.add_file(file))
            facts |= {"sha256": content.sha256, "sha3-256": content.sha3_256}
            first = await content_store.add_file(file.with_name("first"))
            facts["first"] = first.sha256
        say(facts)
        meter: Meter | None = None
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            order = json.loads(line)
            match order["do"]:
                case "meter":
                    meter = Meter()
                    say({})
                case "metered":
                    assert meter is not None
                    say(meter.end())
                case "slot":
                    content_store.open_slot(order["slot"], order["size"])
                    say({})
                case "connect":
                    await network.connect(order["address"])
                    say({})
                case "forget":
                    for found in (store / "files").iterdir():
                        found.unlink()
                    say({})
                case "fetch":
                    alg, shared = order["alg"], order["shared"]
                    meter = Meter()
                    await data.fetch(
                        PeerId(order["peer"]), alg, order["digest"], max_bytes=10**11, timeout_s=900, shared=shared
                    )
                    say(meter.end())
                case "push":
                    meter = Meter()
                    await data.push(PeerId(order["peer"]), order["slot"], file, timeout_s=900)
                    say(meter.end())
        nursery.cancel_scope.cancel()


# --- the run ----------------------------------------------------------------------------------------------------------
def say(value: object) -> None:
    print(json.dumps(value), flush=True)


class Child:
    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def tell(self, **order: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self.hear()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def by_socket(name: str, size: int, tls: bool) -> dict[str, Any]:
    child = Child("socket", str(size), str(int(tls)))
    try:
        mine = fetch_by_socket(child.hear(), size, tls)
        theirs = child.hear()
    finally:
        child.end()
    return line(name, size, mine, theirs)


def line(name: str, size: int, caller: dict[str, float], other: dict[str, float]) -> dict[str, Any]:
    return {
        "name": name,
        "mb_per_s": size / MB / caller["seconds"],
        "seconds": caller["seconds"],
        "cpu_s": caller["cpu_s"] + other["cpu_s"],
        "caller_cpu_s": caller["cpu_s"],
        "growth_mib": max(caller["growth_mib"], other["growth_mib"]),
    }


def by_nodes(
    folder: Path, file: Path, size: int, *, lanes: bool, small: Path, quick: bool = False
) -> list[dict[str, Any]]:
    """The legs of one pair of nodes. ``small``: what libp2p carries, which takes its time."""
    found = []
    mode = str(int(lanes))
    source = file if lanes else small
    size = source.stat().st_size
    owner = Child("node", str(folder / f"owner-{mode}"), str(source), "owner", mode)
    caller = Child("node", str(folder / f"caller-{mode}"), str(source), "caller", mode)
    try:
        facts = owner.hear()
        caller.hear()
        caller.tell(do="connect", address=facts["address"])

        def leg(name: str, **order: Any) -> None:
            owner.tell(do="meter")
            mine = caller.tell(peer=facts["peer"], **order)
            found.append(line(name, size, mine, owner.tell(do="metered")))
            caller.tell(do="forget")

        def fetch(name: str, alg: str, *, shared: bool = False) -> None:
            leg(name, do="fetch", alg=alg, digest=facts[alg], shared=shared)

        # The first lane of a node imports what it needs, 0.1 s; the sockets above were ready, too.
        caller.tell(do="fetch", peer=facts["peer"], alg="sha256", digest=facts["first"], shared=False)
        if lanes:
            fetch("lane: fetch by sha256", "sha256")
            owner.tell(do="slot", slot="one", size=size)
            leg("lane: push into a slot", do="push", slot="one")
            if not quick:
                fetch("lane: shared fetch by sha256", "sha256", shared=True)
                fetch("lane: fetch by sha3-256", "sha3-256")
        else:
            fetch("libp2p: fetch by sha256", "sha256")
    finally:
        owner.end()
        caller.end()
    return found


def one_core(name: str, work: Callable[[], object], size: int) -> dict[str, Any]:
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    return {
        "name": name,
        "mb_per_s": size / MB / seconds,
        "seconds": seconds,
        "cpu_s": seconds,
        "caller_cpu_s": seconds,
        "growth_mib": 0.0,
    }


def bounds(folder: Path, file: Path) -> list[dict[str, Any]]:
    """What one core does of each step, on a quarter of the file."""
    size = file.stat().st_size // 4

    def hash_by(name: str) -> None:
        hasher = hashlib.new(name)
        with file.open("rb", buffering=0) as source:
            for _ in range(size // BLOCK):
                hasher.update(source.read(BLOCK))

    def write() -> None:
        block = os.urandom(BLOCK)
        with (folder / "written").open("wb", buffering=0) as target:
            for _ in range(size // BLOCK):
                target.write(block)
        (folder / "written").unlink()

    return [
        one_core("one core: sha256", lambda: hash_by("sha256"), size),
        one_core("one core: sha3-256", lambda: hash_by("sha3_256"), size),
        one_core("one core: writing", write, size),
    ]


def measure(folder: Path, megabytes: int, *, quick: bool) -> list[dict[str, Any]]:
    file, small = folder / "file", folder / "small"
    with file.open("wb") as out:
        for _ in range(megabytes):
            out.write(os.urandom(MB))
    with small.open("wb") as out:
        for _ in range(max(megabytes // 5, 1)):
            out.write(os.urandom(MB))
    (folder / "first").write_bytes(os.urandom(5 * MB))
    size = megabytes * MB
    lines = bounds(folder, file)
    lines.append(by_socket("plain TCP socket", size, tls=False))
    # Before and after: the machine is not alone.
    before = by_socket("blocking TLS 1.3 socket", size, tls=True)
    lanes = by_nodes(folder, file, size, lanes=True, small=small, quick=quick)
    after = by_socket("blocking TLS 1.3 socket, again", size, tls=True)
    lines += [before, after, *lanes]
    if not quick:
        lines += by_nodes(folder, file, size, lanes=False, small=small)
    tls = (before["mb_per_s"] + after["mb_per_s"]) / 2
    for one in lines:
        one["ratio"] = one["mb_per_s"] / tls
    return lines


def main() -> int:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if sys.argv[1:2] == ["socket"]:
        serve_socket(int(sys.argv[2]), sys.argv[3] == "1")
        return 0
    if sys.argv[1:2] == ["node"]:
        trio.run(node, Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5] == "1")
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--quick", action="store_true", help="the two legs that the goal is about")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="golemp2p-lane-") as name:
        lines = measure(Path(name), options.megabytes, quick=options.quick)
    judged = [one for one in lines if one["name"].startswith(("lane: fetch by sha256", "lane: push"))]
    met = all(one["ratio"] >= GOAL for one in judged) and all(
        one["growth_mib"] <= MAX_GROWTH_MIB for one in lines if one["name"].startswith("lane")
    )
    if options.json:
        print(json.dumps({"lines": lines, "met": met}))
    else:
        print(f"{options.megabytes} MB, {os.cpu_count()} cores, stores in {options.folder}; ratio to the TLS socket")
        for one in lines:
            print(
                f"{one['name']:<32}{one['mb_per_s']:8.0f} MB/s  {one['ratio']:5.2f}   {one['seconds']:6.2f} s"
                f"   CPU {one['cpu_s']:5.2f} s ({one['caller_cpu_s']:.2f} of the caller)  +{one['growth_mib']:.0f} MiB"
            )
        print(f"goal {GOAL:g} both ways: {'met' if met else 'not met'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
