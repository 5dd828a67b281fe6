"""The memory adapter's faults, under the virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import DeadlineError, NetworkError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.memory import MemoryHub, MemoryNetwork, open_memory_network
from golemp2p.net.port import ByteStream, GossipMessage, Verdict
from golemp2p.net.rpc import Rpc


@pytest.fixture
async def hub() -> MemoryHub:
    return MemoryHub(latency_s=0.05)


@pytest.fixture
async def line(hub: MemoryHub) -> AsyncIterator[list[MemoryNetwork]]:
    """Four nodes in a row, each connected to the next."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_memory_network(hub, NodeKey.generate())) for _ in range(4)]
        for one, other in pairwise(nodes):
            await one.connect(other.addresses()[0])
        yield nodes


async def test_gossip_travels_hop_by_hop(line: list[MemoryNetwork], autojump_clock: MockClock) -> None:
    got: list[tuple[GossipMessage, float]] = []

    async def take(message: GossipMessage) -> None:
        got.append((message, trio.current_time()))

    for node in line:
        await node.subscribe("t", lambda message: Verdict.ACCEPT, take)
    started = trio.current_time()
    await line[0].publish("t", b"x")
    await trio.sleep(1)
    assert len(got) == 3
    message, arrived = got[-1]
    assert (message.origin, message.forwarder) == (line[0].peer_id, line[2].peer_id)
    assert arrived - started == pytest.approx(0.15)


async def test_an_origin_that_floods_is_throttled(line: list[MemoryNetwork], autojump_clock: MockClock) -> None:
    got: list[bytes] = []

    async def take(message: GossipMessage) -> None:
        got.append(message.data)

    for node in line[:2]:
        await node.subscribe("t", lambda message: Verdict.ACCEPT, take)
    for i in range(limits.GOSSIP_BURST * 3):
        await line[0].publish("t", str(i).encode())
    await trio.sleep(1)
    assert limits.GOSSIP_BURST <= len(got) < limits.GOSSIP_BURST * 2
    assert line[1].statistics().gossip_dropped > limits.GOSSIP_BURST


async def test_a_forwarder_of_rejected_messages_is_banned(line: list[MemoryNetwork], autojump_clock: MockClock) -> None:
    async def take(message: GossipMessage) -> None: ...

    await line[1].subscribe("t", lambda message: Verdict.REJECT, take)
    for _ in range(limits.PEER_FAULTS_TO_BAN):
        await line[0].publish("t", b"bad")
    await trio.sleep(1)
    assert line[0].peer_id not in line[1].connections
    with pytest.raises(NetworkError):
        await line[0].connect(line[1].addresses()[0])
    await trio.sleep(limits.PEER_BAN_S)
    await line[0].connect(line[1].addresses()[0])


async def test_partition_and_kill_break_streams_and_heal_lets_them_come_back(
    hub: MemoryHub, line: list[MemoryNetwork], autojump_clock: MockClock
) -> None:
    async def hold(stream: ByteStream) -> None:
        await stream.read(1)

    for node in line:
        node.set_stream_handler("/p/1", hold)
    stream = await line[0].open_stream(line[1].peer_id, "/p/1")
    hub.partition([line[0].peer_id], [node.peer_id for node in line[1:]])
    with pytest.raises(NetworkError):
        await stream.read(1)
    with pytest.raises(NetworkError):
        await line[0].open_stream(line[1].peer_id, "/p/1")
    hub.heal()
    stream = await line[0].open_stream(line[1].peer_id, "/p/1")
    hub.kill(line[1].peer_id)
    with pytest.raises(NetworkError):
        await stream.write(b"x")
    with pytest.raises(NetworkError):
        await line[0].connect(line[1].addresses()[0])


async def test_an_unanswered_call_ends_at_its_deadline_to_the_second(
    line: list[MemoryNetwork], autojump_clock: MockClock
) -> None:
    async def never(peer: PeerId, body: dict[str, Any]) -> object:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        one, other = Rpc(line[0]), Rpc(line[1])
        await nursery.start(one.run)
        await nursery.start(other.run)
        other.serve("/r/1", {"never": never})
        started = trio.current_time()
        with pytest.raises(DeadlineError):
            await one.call(line[1].peer_id, "/r/1", "never", {}, timeout_s=3600.0)
        assert trio.current_time() - started == pytest.approx(3600.0)
        nursery.cancel_scope.cancel()


async def test_records_expire(line: list[MemoryNetwork], autojump_clock: MockClock) -> None:
    await line[0].put_record("k", b"v")
    assert await line[3].get_record("k") == b"v"
    await trio.sleep(limits.DHT_RECORD_TTL_S)
    assert await line[3].get_record("k") is None
