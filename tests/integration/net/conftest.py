"""Three connected nodes on either adapter: everything in this folder that takes ``nodes`` runs on both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import trio

from golemp2p.identity.keys import NodeKey
from golemp2p.net.libp2p import open_libp2p_network
from golemp2p.net.memory import MemoryHub, open_memory_network
from golemp2p.net.port import Network


async def until(what: str, condition: object, timeout_s: float = 15.0) -> None:
    """Wait for ``condition()``; fails with ``what`` in words."""
    assert callable(condition)
    with trio.move_on_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - no event tells
            await trio.sleep(0.01)
        return
    pytest.fail(f"not within {timeout_s} s: {what}")


@pytest.fixture(params=["memory", "libp2p"])
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def nodes(adapter: str) -> AsyncIterator[list[Network]]:
    """The first is connected to the second and the third."""
    hub = MemoryHub()
    async with AsyncExitStack() as stack:
        found: list[Network] = []
        for _ in range(3):
            key = NodeKey.generate()
            opening = open_memory_network(hub, key) if adapter == "memory" else open_libp2p_network(key)
            found.append(await stack.enter_async_context(opening))
        for other in found[1:]:
            await found[0].connect(other.addresses()[0])
        yield found
