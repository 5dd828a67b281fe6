"""Network performance, side by side in one run: ``python scripts/bench/net.py``.

Two processes on loopback: import time and memory (whole libp2p and lean), a new connection, RPC on an open stream,
bulk bytes on one stream with and without the patches of golemp2p/net/libp2p/patches.py.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import structlog
import trio

RPC, BULK = "/golemp2p-bench-rpc/1", "/golemp2p-bench-bulk/1"
BLOCK = 64 * 1024
_IMPORT = """
import time; started = time.perf_counter()
{code}
seconds = time.perf_counter() - started
rss = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmRSS'))
print(f'{{seconds:.3f}} {{rss / 1024:.1f}}')
"""
_PARTS = (
    "import libp2p, libp2p.pubsub.gossipsub, libp2p.pubsub.pubsub, libp2p.kad_dht.kad_dht, "
    "libp2p.security.noise.transport"
)


def measure_import(code: str) -> tuple[float, float]:
    """(median seconds of three, MiB resident)."""
    runs = [
        subprocess.run([sys.executable, "-c", _IMPORT.format(code=code)], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    values = [tuple(map(float, run.stdout.split())) for run in runs]
    return statistics.median(v[0] for v in values), statistics.median(v[1] for v in values)


@asynccontextmanager
async def node(patched: bool) -> AsyncIterator[Any]:
    from golemp2p.identity.keys import NodeKey
    from golemp2p.net.libp2p import open_libp2p_network, patches

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    # "h" (dial delay) and "l" (log handler) are kept: neither touches the bytes of a stream.
    patches.apply(patches.ALL if patched else frozenset("hlk"))
    async with open_libp2p_network(NodeKey.generate()) as network:
        yield network


async def serve(patched: bool) -> None:
    from golemp2p.net.rpc import Rpc

    async def echo(_peer: Any, body: dict[str, Any]) -> object:
        return body

    async def swallow(stream: Any) -> None:
        total = 0
        while data := await stream.read(4 * BLOCK):
            total += len(data)
        await stream.write(total.to_bytes(8, "big"))

    async with node(patched) as network, trio.open_nursery() as nursery:
        rpc = Rpc(network)
        await nursery.start(rpc.run)
        rpc.serve(RPC, {"echo": echo})
        network.set_stream_handler(BULK, swallow)
        print(network.addresses()[0], flush=True)
        await trio.sleep_forever()


async def measure(address: str, patched: bool, megabytes: int) -> None:
    from golemp2p.net.rpc import Rpc

    async with node(patched) as network, trio.open_nursery() as nursery:
        rpc = Rpc(network)
        await nursery.start(rpc.run)
        dials = []
        for _ in range(10):
            started = time.perf_counter()
            peer = await network.connect(address)
            dials.append((time.perf_counter() - started) * 1000)
            await network.disconnect(peer)
            while network.is_connected(peer):  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.01)
        peer = await network.connect(address)
        waits = []
        begun = time.perf_counter()
        for i in range(1000):
            started = time.perf_counter()
            await rpc.call(peer, RPC, "echo", {"i": i, "text": "x" * 100}, timeout_s=10)
            waits.append((time.perf_counter() - started) * 1000)
        one_by_one = 1000 / (time.perf_counter() - begun)
        begun = time.perf_counter()

        async def ask() -> None:
            for i in range(100):
                await rpc.call(peer, RPC, "echo", {"i": i, "text": "x" * 100}, timeout_s=10)

        async with trio.open_nursery() as callers:
            for _ in range(20):
                callers.start_soon(ask)
        together = 2000 / (time.perf_counter() - begun)
        stream = await network.open_stream(peer, BULK)
        block, blocks = bytes(BLOCK), megabytes * 10**6 // BLOCK
        begun = time.perf_counter()
        for _ in range(blocks):
            await stream.write(block)
        await stream.close_write()
        assert int.from_bytes(await stream.read(8), "big") == blocks * BLOCK
        bulk = blocks * BLOCK / 1e6 / (time.perf_counter() - begun)
        waits.sort()
        print(
            f"{'patched' if patched else 'unpatched':10} connect {statistics.median(dials):5.1f} ms | rpc one by one "
            f"{one_by_one:5.0f}/s (p50 {waits[500]:.2f} p99 {waits[990]:.2f} ms), 20 at a time {together:5.0f}/s | "
            f"bulk {bulk:5.0f} MB/s"
        )
        nursery.cancel_scope.cancel()


@contextmanager
def other_process(patched: bool) -> Iterator[str]:
    command = [sys.executable, __file__, "--serve", *([] if patched else ["--unpatched"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--unpatched", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--megabytes", type=int, default=200)
    options = parser.parse_args()
    patched = not options.unpatched
    if options.serve:
        trio.run(serve, patched)
        return
    if options.measure:
        trio.run(measure, options.measure, patched, options.megabytes)
        return
    for name, code in {
        "import libp2p, whole": _PARTS,
        "import libp2p, lean": f"from golemp2p.net.libp2p import lean_import; lean_import.install(); {_PARTS}",
        "import golemp2p.net.libp2p.host": "import golemp2p.net.libp2p.host",
    }.items():
        seconds, mebibytes = measure_import(code)
        print(f"{name:32} {seconds:.2f} s  {mebibytes:.0f} MiB")
    print("goals: connect <= 20 ms, rpc >= 400/s")
    for patched in (False, True, False, True):
        with other_process(patched) as address:
            command = [sys.executable, __file__, "--measure", address, "--megabytes", str(options.megabytes)]
            subprocess.run(
                [*command, *([] if patched else ["--unpatched"])], check=True, stderr=subprocess.DEVNULL, timeout=120
            )


if __name__ == "__main__":
    main()
