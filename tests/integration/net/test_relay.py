"""Connections through a relay, with real libp2p nodes on loopback."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import msgpack
import pytest
import trio
from multiaddr import Multiaddr

from golemp2p import limits
from golemp2p.errors import NetworkError, RemoteError, RemoteProtocolError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p.addresses import libp2p_id
from golemp2p.net.libp2p.circuit import Reservation
from golemp2p.net.libp2p.circuit_wire import STOP, Status, StopMessage, StopType, read_message, send_message
from golemp2p.net.libp2p.dialback import PROTOCOL as DIALBACK
from golemp2p.net.libp2p.dialback import Dialback
from golemp2p.net.libp2p.host import Libp2pNetwork, open_libp2p_network
from golemp2p.net.port import ByteStream
from tests.integration.net.conftest import until

ECHO = "/test/echo/1"


async def echo(stream: ByteStream) -> None:
    while data := await stream.read(65_536):
        await stream.write(data)
    await stream.aclose()


@dataclass
class Three:
    """``provider`` and ``requestor`` know the relay and nothing of each other's addresses."""

    relay: Libp2pNetwork
    provider: Libp2pNetwork
    requestor: Libp2pNetwork

    @property
    def through(self) -> str:
        return f"{self.relay.addresses()[0]}/p2p-circuit/p2p/{self.provider.peer_id}"


@pytest.fixture
async def three(request: pytest.FixtureRequest) -> AsyncIterator[Three]:
    """Of a private network when a test asks for a key."""
    psk = getattr(request, "param", None)
    async with AsyncExitStack() as stack:

        async def start(**config: object) -> Libp2pNetwork:
            made = NetConfig(psk=psk, dht=False, min_peers=0, **config)  # type: ignore[arg-type]
            return await stack.enter_async_context(open_libp2p_network(NodeKey.generate(), made))

        relay = await start(relay_service=True)
        provider, requestor = await start(), await start()
        provider.set_stream_handler(ECHO, echo)
        for node in (provider, requestor):
            await node.connect(relay.addresses()[0])
        yield Three(relay, provider, requestor)


async def talk(network: Libp2pNetwork, peer: Libp2pNetwork, size: int) -> None:
    """``size`` bytes there and back."""
    stream = await network.open_stream(peer.peer_id, ECHO)
    sent = bytes(range(256)) * (size // 256)

    async def write() -> None:
        await stream.write(sent)
        await stream.close_write()

    back = bytearray()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while piece := await stream.read(65_536):
                back += piece
    assert bytes(back) == sent


@pytest.mark.parametrize("three", [None, bytes(range(32))], ids=["open", "private"], indirect=True)
async def test_streams_work_through_a_relay_as_they_do_directly(three: Three) -> None:
    await three.provider.circuits.reserve(three.relay.peer_id)
    assert three.through in three.provider.addresses()
    assert await three.requestor.connect(three.through) == three.provider.peer_id
    await talk(three.requestor, three.provider, 3 * 1024 * 1024)
    for one, other in ((three.requestor, three.provider), (three.provider, three.requestor)):
        assert [info.relayed for info in one.peers() if info.peer == other.peer_id] == [True]
    assert not any(info.relayed for info in three.relay.peers())


async def test_a_peer_without_an_address_is_found_through_a_relay_that_both_know(three: Three) -> None:
    await three.provider.circuits.reserve(three.relay.peer_id)
    await until("identify", lambda: three.requestor.reach.relays() == [three.relay.peer_id], 60)
    store = three.requestor._host.get_peerstore()
    store.add_addrs(libp2p_id(three.provider.peer_id), [], 60)
    with trio.fail_after(60):
        await three.requestor._swarm.dial_peer(libp2p_id(three.provider.peer_id))
    await talk(three.requestor, three.provider, 1024)


async def test_without_a_reservation_there_is_no_way(three: Three) -> None:
    with pytest.raises(NetworkError, match="no reservation"):
        await three.requestor.connect(three.through)


async def test_a_relay_takes_no_more_than_it_has_room_for(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RELAY_MAX_RESERVATIONS", 1)
    await three.provider.circuits.reserve(three.relay.peer_id)
    await three.provider.circuits.reserve(three.relay.peer_id)  # to renew it takes no more room
    with pytest.raises(RemoteError, match="reservation refused"):
        await three.requestor.circuits.reserve(three.relay.peer_id)
    monkeypatch.setattr(limits, "RELAY_MAX_CIRCUITS_PER_PEER", 0)
    with pytest.raises(NetworkError, match="resource limit exceeded"):
        await three.requestor.connect(three.through)


async def test_a_circuit_ends_at_its_limit_and_another_can_be_made(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RELAY_CIRCUIT_BYTES", 256 * 1024)
    await three.provider.circuits.reserve(three.relay.peer_id)
    await three.requestor.connect(three.through)
    with pytest.raises((NetworkError, ExceptionGroup)):
        await talk(three.requestor, three.provider, 1024 * 1024)
    for one, other in ((three.requestor, three.provider), (three.provider, three.requestor)):
        await until("both saw the end", lambda a=one, b=other: not a.is_connected(b.peer_id), 60)
    monkeypatch.undo()
    await three.requestor.connect(three.through)
    await talk(three.requestor, three.provider, 1024 * 1024)


async def test_a_reservation_ends_with_its_connection(three: Three) -> None:
    await three.provider.circuits.reserve(three.relay.peer_id)
    await three.provider.disconnect(three.relay.peer_id)
    await until("it is gone", lambda: not three.provider.circuits.reservations, 60)
    await until("the relay saw it", lambda: not three.relay.is_connected(three.provider.peer_id), 60)
    assert three.through not in three.provider.addresses()
    with pytest.raises(NetworkError, match="no reservation"):
        await three.requestor.connect(three.through)


async def test_only_relays_of_our_choice_bring_us_connections(three: Three) -> None:
    """The requestor plays a relay that nobody asked."""
    stream = await three.relay.open_stream(three.provider.peer_id, STOP)
    peer = libp2p_id(three.requestor.peer_id).to_bytes()
    with trio.fail_after(30):
        await send_message(stream, StopMessage(StopType.CONNECT, peer=peer))
        answer = StopMessage.decode(await read_message(stream))
    assert answer.status == Status.PERMISSION_DENIED


async def test_what_a_relay_says_of_itself_is_announced_only_if_it_can_be_dialled(three: Three) -> None:
    peer = three.relay.peer_id
    addresses = (
        "/unix/tmp",
        f"/ip4/198.51.100.3/tcp/4/p2p/{peer}",
        "/ip4/999.1.1.1/tcp/4",
        "nonsense",
        "/dns4/x/tcp/1",
    )
    three.provider.circuits.reservations[peer] = Reservation(peer, time.time() + 60, addresses)
    through = [a for a in three.provider.addresses() if "/p2p-circuit" in a]
    assert through == [f"/ip4/198.51.100.3/tcp/4/p2p/{peer}/p2p-circuit/p2p/{three.provider.peer_id}"]


async def test_a_lie_about_our_address_is_refused(three: Three) -> None:
    async def lie(stream: ByteStream) -> None:
        await stream.read(1024)
        for told in ({"ip": "example.com/tcp", "port": 1}, {"reached": [1]}):
            packed = msgpack.packb(told)
            await stream.write(len(packed).to_bytes(2, "big") + packed)

    three.relay.set_stream_handler(DIALBACK, lie)
    with pytest.raises(RemoteProtocolError, match="no IP address"):
        await Dialback(three.provider, three.provider._swarm).ask(three.relay.peer_id, [1])


async def test_a_dial_back_finds_the_asker_and_nobody_else(three: Three) -> None:
    """The port of another node answers, too, but not as the asker."""
    own = int(three.provider.addresses()[0].split("/")[4])
    others = int(three.requestor.addresses()[0].split("/")[4])
    dialback = Dialback(three.provider, three.provider._swarm)
    three.relay.reach._dialback.serve()
    seen = await dialback.ask(three.relay.peer_id, [others, own])
    assert (seen.ip, seen.reached) == ("127.0.0.1", (own,))
    assert seen.port == seen.own_port


async def test_a_direct_connection_takes_the_place_of_the_relayed_one(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RELAYED_LINGER_S", -1.0)
    await three.provider.circuits.reserve(three.relay.peer_id)
    await three.requestor.connect(three.through)
    stream = await three.requestor.open_stream(three.provider.peer_id, ECHO)  # over the circuit
    address = Multiaddr(three.provider.addresses()[0].partition("/p2p/")[0])
    with trio.fail_after(60):
        await three.requestor._swarm.dial_addr(address, libp2p_id(three.provider.peer_id))
    relayed = [info.relayed for info in three.requestor.peers() if info.peer == three.provider.peer_id]
    assert relayed == [False]
    several = three.requestor.reach._several
    with trio.fail_after(60):
        await several.close_idle_relayed()
        assert len(three.requestor.connections(three.provider.peer_id)) == 2  # something runs over it
        await stream.aclose()
        while len(three.requestor.connections(three.provider.peer_id)) == 2:
            await trio.sleep(0.05)
            await several.close_idle_relayed()
    await talk(three.requestor, three.provider, 1024)


async def test_a_dead_connection_gives_way_to_a_newer_one(three: Three, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer came again from another address; its older connection says nothing any more."""
    monkeypatch.setattr(limits, "PROBE_CONNECTION_S", 0.5)
    address = Multiaddr(three.provider.addresses()[0].partition("/p2p/")[0])
    peer = libp2p_id(three.provider.peer_id)
    with trio.fail_after(60):
        older = await three.requestor._swarm.dial_addr(address, peer)
        monkeypatch.setattr(older, "new_stream", trio.sleep_forever)
        newer = await three.requestor._swarm.dial_addr(address, peer)
    await until("the older one is closed", lambda: three.requestor.connections(three.provider.peer_id) == [newer], 60)
    await talk(three.requestor, three.provider, 1024)
