"""Two nodes with bulk lanes, for tests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from golemp2p.identity.keys import NodeKey
from golemp2p.net.data import DataService
from golemp2p.net.lanes import Lanes
from golemp2p.net.libp2p import open_libp2p_network
from golemp2p.net.memory import MemoryHub, open_memory_network
from golemp2p.net.port import Network
from golemp2p.storage.content import Content, ContentStore

SIZE = 9_000_001
PATIENCE_S = 60.0


class Side:
    """A node with a store, data and lanes; its listener runs in a scope of its own."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.store = network, ContentStore(folder)
        self.lanes = Lanes(network)
        self.data = DataService(network, self.store, lanes=self.lanes)
        self.data.serve()
        self.listening = trio.CancelScope()

    @property
    def peer(self) -> str:
        return self.network.peer_id

    async def listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self.listening:
            await self.lanes.run(task_status=task_status)


class World:
    """``here`` wants what ``there`` has: a file of random bytes."""

    def __init__(self, here: Side, there: Side, folder: Path) -> None:
        self.here, self.there = here, there
        self.bytes = os.urandom(SIZE)
        self.file = folder / "file"
        self.file.write_bytes(self.bytes)
        self.sha256 = hashlib.sha256(self.bytes).hexdigest()

    async def fetch(self, *, shared: bool = False, alg: str = "sha256", digest: str = "") -> Content:
        return await self.here.data.fetch(
            self.there.network.peer_id,
            alg,
            digest or self.sha256,
            max_bytes=SIZE,
            timeout_s=PATIENCE_S,
            shared=shared,
        )

    async def push(self, slot: str = "slot", file: Path | None = None) -> str:
        return await self.here.data.push(self.there.network.peer_id, slot, file or self.file, timeout_s=PATIENCE_S)

    async def quiet(self) -> None:
        """No lane, connection or thread is left, on either side."""

        def is_quiet(side: Side) -> bool:
            found = side.lanes.statistics()
            return not (found["lanes"] or found["pending"] or found["threads"])

        await eventually(lambda: is_quiet(self.here) and is_quiet(self.there))


async def eventually(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what changes is told by no event
            await trio.sleep(0.01)


@asynccontextmanager
async def open_world(tmp_path: Path, adapter: str = "memory") -> AsyncIterator[World]:
    hub = MemoryHub()
    async with AsyncExitStack() as stack:
        sides = []
        for name in ("here", "there"):
            key = NodeKey.generate()
            opening = open_memory_network(hub, key) if adapter == "memory" else open_libp2p_network(key)
            sides.append(Side(await stack.enter_async_context(opening), tmp_path / name))
        await sides[0].network.connect(sides[1].network.addresses()[0])
        async with trio.open_nursery() as nursery:
            for side in sides:
                await nursery.start(side.listen)
                nursery.start_soon(side.data.run)
            yield World(sides[0], sides[1], tmp_path)
            nursery.cancel_scope.cancel()
