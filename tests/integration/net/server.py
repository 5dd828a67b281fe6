"""A node in a process of its own, for tests that kill, freeze and attack one. Prints its address, then serves."""

from __future__ import annotations

import sys
from typing import Any

import structlog
import trio

from golemp2p.core.ids import PeerId
from golemp2p.identity.keys import NodeKey
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p import open_libp2p_network
from golemp2p.net.rpc import Rpc


async def main() -> None:
    async def echo(peer: PeerId, body: dict[str, Any]) -> object:
        return body

    async def sleep(peer: PeerId, body: dict[str, Any]) -> object:
        await trio.sleep_forever()

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    config = NetConfig(dht=False, min_peers=0)  # it never dials back: tests count connections
    async with open_libp2p_network(NodeKey.generate(), config) as network, trio.open_nursery() as nursery:
        rpc = Rpc(network)
        await nursery.start(rpc.run)
        rpc.serve("/golemp2p-test-rpc/1", {"echo": echo, "sleep": sleep})
        print(network.addresses()[0], flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
