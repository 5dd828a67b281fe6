"""What the network port promises, on both adapters."""

from __future__ import annotations

import itertools

import pytest
import trio

from golemp2p.core.ids import PeerId
from golemp2p.errors import NetworkError, PolicyError, UsageError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.port import ByteStream, GossipMessage, Network, Verdict
from tests.integration.net.conftest import until

PROTOCOL = "/golemp2p-test/1"


async def test_a_stream_carries_bytes_both_ways_and_ends_in_order(nodes: list[Network]) -> None:
    one, other, _ = nodes

    async def echo(stream: ByteStream) -> None:
        assert stream.peer == one.peer_id
        while data := await stream.read(1000):
            await stream.write(data)

    other.set_stream_handler(PROTOCOL, echo)
    stream = await one.open_stream(other.peer_id, PROTOCOL)
    assert stream.peer == other.peer_id
    await stream.write(b"x" * 100_000)
    await stream.close_write()
    received = b""
    while data := await stream.read(70_000):
        received += data
    assert received == b"x" * 100_000
    await stream.aclose()
    await stream.aclose()


async def test_a_handler_that_raises_costs_its_stream_only(nodes: list[Network]) -> None:
    one, other, _ = nodes

    async def broken(stream: ByteStream) -> None:
        await stream.read(1)
        raise RuntimeError("a bug in a handler")

    async def group(stream: ByteStream) -> None:
        await stream.read(1)
        raise ExceptionGroup("bugs", [RuntimeError("one"), ValueError("two")])

    async def fine(stream: ByteStream) -> None:
        await stream.write(b"alive")

    other.set_stream_handler(PROTOCOL, broken)
    other.set_stream_handler(PROTOCOL + "/group", group)
    other.set_stream_handler(PROTOCOL + "/fine", fine)
    for protocol in (PROTOCOL, PROTOCOL + "/group"):
        stream = await one.open_stream(other.peer_id, protocol)
        await stream.write(b"x")
        with pytest.raises(NetworkError):
            await stream.read(10)
    stream = await one.open_stream(other.peer_id, PROTOCOL + "/fine")
    assert await stream.read(10) == b"alive"
    assert await stream.read(10) == b""  # a handler that returns closes in order


async def test_a_writer_waits_for_a_reader_that_pauses(nodes: list[Network]) -> None:
    one, other, _ = nodes
    go, received = trio.Event(), []

    async def slow(stream: ByteStream) -> None:
        await go.wait()
        while data := await stream.read(1_000_000):
            received.append(len(data))

    other.set_stream_handler(PROTOCOL, slow)
    stream = await one.open_stream(other.peer_id, PROTOCOL)
    written = trio.Event()

    async def write() -> None:
        await stream.write(bytes(4_000_000))
        await stream.close_write()
        written.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert not written.is_set()
        go.set()
    await until("all bytes read", lambda: sum(received) == 4_000_000)


async def test_a_write_cancelled_half_way_leaves_other_streams_whole(nodes: list[Network]) -> None:
    one, other, _ = nodes

    async def stuck(stream: ByteStream) -> None:
        await trio.sleep_forever()

    async def echo(stream: ByteStream) -> None:
        while data := await stream.read(1000):
            await stream.write(data)

    other.set_stream_handler(PROTOCOL + "/stuck", stuck)
    other.set_stream_handler(PROTOCOL + "/echo", echo)
    steady = await one.open_stream(other.peer_id, PROTOCOL + "/echo")
    for _ in range(5):
        doomed = await one.open_stream(other.peer_id, PROTOCOL + "/stuck")
        with trio.move_on_after(0.05) as scope:
            await doomed.write(bytes(8_000_000))
        assert scope.cancelled_caught
        await doomed.reset()
        await steady.write(b"still here")
        received = b""
        while len(received) < 10:
            received += await steady.read(10)
        assert received == b"still here"


async def test_unknown_protocols_peers_and_addresses_are_refused_by_name(nodes: list[Network]) -> None:
    one, other, _ = nodes
    with pytest.raises(NetworkError):
        await one.open_stream(other.peer_id, "/nobody/speaks/this", timeout_s=5)
    with pytest.raises(NetworkError):
        await one.open_stream(NodeKey.generate().peer_id, PROTOCOL, timeout_s=5)
    with pytest.raises(UsageError):
        await one.open_stream(one.peer_id, PROTOCOL)
    with pytest.raises(UsageError):
        await one.connect("somewhere")
    with pytest.raises(UsageError, match="our own"):
        await one.connect(one.addresses()[0])


async def test_peers_tell_who_is_connected_and_listeners_hear_of_changes(nodes: list[Network]) -> None:
    one, other, third = nodes
    heard: list[tuple[PeerId, bool]] = []
    one.add_peer_listener(lambda peer, connected: heard.append((peer, connected)))
    one.add_peer_listener(lambda peer, connected: 1 / 0)  # type: ignore[arg-type] # a faulty listener
    assert {info.peer for info in one.peers() if info.connected} == {other.peer_id, third.peer_id}
    assert all(info.direction == "out" for info in one.peers() if info.connected)
    assert [info.direction for info in other.peers() if info.peer == one.peer_id] == ["in"]
    await one.disconnect(other.peer_id)
    await until("the listener heard of the end", lambda: (other.peer_id, False) in heard)
    await until("both sides know", lambda: not any(i.connected for i in other.peers() if i.peer == one.peer_id))
    assert await one.connect(other.addresses()[0]) == other.peer_id
    await until("the listener heard of the connection", lambda: (other.peer_id, True) in heard)
    assert one.statistics().connections == 2


async def test_a_banned_peer_is_cut_off_and_not_dialled(nodes: list[Network]) -> None:
    one, other, _ = nodes
    await one.ban(other.peer_id, 60.0)
    await until("it is cut off", lambda: not any(i.connected for i in one.peers() if i.peer == other.peer_id))
    with pytest.raises(PolicyError):
        await one.open_stream(other.peer_id, PROTOCOL)


async def test_gossip_reaches_all_hops_and_only_what_is_accepted(nodes: list[Network]) -> None:
    one, other, third = nodes  # other and third meet through one only, or by the DHT
    inboxes: dict[PeerId, list[GossipMessage]] = {node.peer_id: [] for node in nodes}

    def validate(message: GossipMessage) -> Verdict:
        if message.data == b"fault":
            raise RuntimeError("a bug in a validator")
        return Verdict.IGNORE if message.data == b"no" else Verdict.ACCEPT

    for node in nodes:

        async def take(message: GossipMessage, inbox: list[GossipMessage] = inboxes[node.peer_id]) -> None:
            inbox.append(message)
            if message.data == b"boom":
                raise RuntimeError("a bug in a handler")

        await node.subscribe("topic", validate, take)
    # A heartbeat makes the mesh; it is there when a message arrives everywhere.
    with trio.fail_after(15):
        for number in itertools.count():
            await other.publish("topic", f"warm {number}".encode())
            with trio.move_on_after(0.1):
                while not (inboxes[one.peer_id] and inboxes[third.peer_id]):  # noqa: ASYNC110 - no event tells
                    await trio.sleep(0.01)
                break
    for data in (b"no", b"fault", b"boom", b"yes"):
        await other.publish("topic", data)
    for node in (one, third):
        inbox = inboxes[node.peer_id]
        await until("both messages arrive", lambda inbox=inbox: {b"boom", b"yes"} <= {m.data for m in inbox})
        assert {m.data for m in inbox if not m.data.startswith(b"warm")} == {b"boom", b"yes"}
        assert all(m.origin == other.peer_id and m.topic == "topic" for m in inbox)
        assert all(m.forwarder in {node.peer_id for node in nodes} for m in inbox)
    assert inboxes[other.peer_id] == []
    with pytest.raises(UsageError):
        await one.publish("topic", bytes(300_000))


async def test_the_dht_keeps_records_and_providers(nodes: list[Network]) -> None:
    one, other, third = nodes
    assert await third.get_record("thing/1") is None
    await other.put_record("thing/1", b"value")
    assert await third.get_record("thing/1") == b"value"
    await other.provide("a file")
    assert other.peer_id in await third.find_providers("a file")
    with pytest.raises(UsageError):
        await one.put_record("thing/2", bytes(100_000))
