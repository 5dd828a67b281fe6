"""The bulk lane: large files over TLS sockets beside libp2p, and what happens when that does not go well."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from golemp2p.identity.keys import NodeKey
from golemp2p.net.data import DataService
from golemp2p.net.lanes import Lanes
from golemp2p.net.memory import MemoryHub, open_memory_network
from golemp2p.net.port import Network
from golemp2p.storage.content import ContentStore

SIZE = 9_000_001


class Side:
    """A node with a store, data and lanes."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.store = network, ContentStore(folder)
        self.lanes = Lanes(network)
        self.data = DataService(network, self.store, lanes=self.lanes)
        self.data.serve()


class World:
    def __init__(self, here: Side, there: Side, folder: Path) -> None:
        self.here, self.there = here, there
        self.bytes = os.urandom(SIZE)
        self.file = folder / "file"
        self.file.write_bytes(self.bytes)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """On the memory network: what goes by lane does not go there."""
    hub = MemoryHub()
    async with AsyncExitStack() as stack:
        sides = []
        for name in ("here", "there"):
            network = await stack.enter_async_context(open_memory_network(hub, NodeKey.generate()))
            sides.append(Side(network, tmp_path / name))
        await sides[0].network.connect(sides[1].network.addresses()[0])
        async with trio.open_nursery() as nursery:
            for side in sides:
                await nursery.start(side.lanes.run)
                nursery.start_soon(side.data.run)
            yield World(*sides, tmp_path)
            nursery.cancel_scope.cancel()


async def test_a_large_file_comes_by_a_lane(world: World) -> None:
    content = await world.there.store.add_file(world.file)
    found = await world.here.data.fetch(
        world.there.network.peer_id, "sha256", content.sha256, max_bytes=SIZE, timeout_s=30
    )
    assert found.path.read_bytes() == world.bytes
