#!/usr/bin/env python
"""Private networks on loopback: containers of two provider processes, real libp2p between them.

Usage: scripts/bench/vpn.py [--megabytes 200] [--pings 50]. Needs root and scripts/setup vm.
Exit code 1: a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import trio
from trio_websocket import ConnectionClosed, open_websocket_url

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from golemp2p.client import NodeClient
from golemp2p.localnet import LocalNet, LocalNetOptions, open_localnet
from tests.e2e.agent import Deal, negotiate, run
from tests.engine import open_engine
from tests.integration.runtimes.busybox import make_rootfs, make_squashfs

PING_GOAL_MS = 10.0
SPEED_GOAL_MB_S = 20.0
RANGE = "192.168.9.0/24"
ONE, TWO = "192.168.9.2", "192.168.9.3"


async def deployed(client: NodeClient, deal: Deal, network: str, ip: str) -> str:
    """An activity with that address."""
    await client.net.add_node(network, deal.provider, ip)
    activity = await deal.activity()
    entry = await client.net.deploy_entry(network, ip)
    await deal.run(activity, [{"deploy": {"net": [entry]}}, {"start": {"args": []}}], timeout_s=60.0)
    return activity


async def sh(deal: Deal, activity: str, script: str, timeout_s: float = 120.0) -> str:
    (result,) = await deal.results(
        activity, await deal.client.activity.execute(activity, [run("sh", "-c", script)]), timeout_s=timeout_s
    )
    assert result["result"] == "Ok", result
    return str(result["stdout"] or "")


async def socket_speed(net: LocalNet, client: NodeClient, network: str, megabytes: int) -> float:
    """MB/s from a port of an activity to a client's WebSocket."""
    url = client.net.tcp_url(network, ONE, 10)
    headers = [(b"Authorization", f"Bearer {net.requestor.app_key}".encode())]
    async with open_websocket_url(url, extra_headers=headers, max_message_size=16 * 1024 * 1024) as socket:
        started, received = time.perf_counter(), 0
        while True:
            try:
                received += len(await socket.get_message())
            except ConnectionClosed:
                break
        assert received == megabytes * 1024 * 1024, received
        return received / 1e6 / (time.perf_counter() - started)


async def measure(net: LocalNet, image: Path, megabytes: int, pings: int) -> bool:
    async with net.client() as client:
        file = await client.files.publish(image)
        package = f"hash:sha3:{file.sha3_256}:{file.url}"
        deals = [
            await negotiate(client, b"", package=package, runtime="vm", provider=provider.key.address)
            for provider in net.providers
        ]
        network = (await client.net.create(RANGE)).id
        await client.net.add_address(network, "192.168.9.1")
        one = await deployed(client, deals[0], network, ONE)
        two = await deployed(client, deals[1], network, TWO)
        await sh(deals[0], one, f"ping -c 3 {TWO}")  # the tunnels are open now
        words = await sh(deals[0], one, f"ping -q -c {pings} -i 0.05 {TWO}")
        best, mean = (float(number) for number in re.findall(r"= ([\d.]+)/([\d.]+)/", words)[0])
        await sh(deals[1], two, "(nc -ll -p 9 -e sh -c 'cat > /dev/null' &) ; sleep 0.3")
        started = time.perf_counter()
        await sh(deals[0], one, f"dd if=/dev/zero bs=1M count={megabytes} 2>/dev/null | nc {TWO} 9")
        speed = megabytes * 1.048576 / (time.perf_counter() - started)
        await sh(deals[0], one, f"(nc -ll -p 10 -e sh -c 'dd if=/dev/zero bs=1M count={megabytes}' &) ; sleep 0.3")
        socket = await socket_speed(net, client, network, megabytes)
        for deal in deals:
            await deal.end()
    fine = {"ping": mean <= PING_GOAL_MS, "speed": speed >= SPEED_GOAL_MB_S, "socket": socket >= SPEED_GOAL_MB_S}
    print(f"{'ping between activities of two nodes':44} {mean:8.1f} ms, best {best:.1f}   goal {PING_GOAL_MS:g}")
    print(f"{'TCP between activities of two nodes':44} {speed:8.1f} MB/s   goal {SPEED_GOAL_MB_S:g}")
    print(f"{'TCP from an activity to a WebSocket':44} {socket:8.1f} MB/s   goal {SPEED_GOAL_MB_S:g}")
    missed = [name for name, ok in fine.items() if not ok]
    print(f"missed: {', '.join(missed)}" if missed else "ok")
    return not missed


async def main(megabytes: int, pings: int) -> bool:
    with tempfile.TemporaryDirectory() as name, open_engine() as engine:
        image = make_squashfs(make_rootfs(Path(name) / "root"), Path(name) / "busybox.gvmi")
        os.environ["DOCKER_HOST"] = engine.url
        options = LocalNetOptions(providers=2, runtimes=("vm/docker",), provider={"memory_gib": 0.5})
        async with open_localnet(options) as net:
            return await measure(net, image, megabytes, pings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--pings", type=int, default=50)
    arguments = parser.parse_args()
    sys.exit(0 if trio.run(main, arguments.megabytes, arguments.pings) else 1)
