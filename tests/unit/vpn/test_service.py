"""Networks between nodes on the memory network, in virtual time; activities are links whose packets a test holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from golemp2p import limits
from golemp2p.core.ids import Address, PeerId
from golemp2p.core.peer import address_of
from golemp2p.core.vpn import NetworkOrder
from golemp2p.errors import ConflictError, NetworkError, NotFoundError, PolicyError, RemoteError, UsageError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.datawire import Wire, encode_header
from golemp2p.net.memory import MemoryHub, MemoryNetwork, open_memory_network
from golemp2p.net.port import ByteStream
from golemp2p.net.rpc import Rpc
from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.vpn.owning import OwnedNetwork, UnreachableError
from golemp2p.vpn.providing import Connect, Joined
from golemp2p.vpn.segment import NetworkKey
from golemp2p.vpn.service import VpnService
from golemp2p.wire.p2p.vpn import NETWORK_PROTOCOL, TUNNEL_PROTOCOL
from tests.unit.vpn.test_packets import echo_request, packet

RANGE = IPv4Network("10.0.0.0/24")
OWNER, A, B = (RANGE[number] for number in (1, 2, 3))


@dataclass
class Peer:
    network: MemoryNetwork
    rpc: Rpc
    vpn: VpnService

    @property
    def id(self) -> PeerId:
        return self.network.peer_id

    @property
    def address(self) -> Address:
        return address_of(self.id)


async def refuse(_ip: IPv4Address, port: int) -> trio.abc.HalfCloseableStream:
    raise RuntimeFailureError(f"cannot connect to port {port} in the guest: Connection refused")


@dataclass
class World:
    hub: MemoryHub
    owner: Peer
    a: Peer
    b: Peer
    stranger: Peer

    async def network(self) -> OwnedNetwork:
        """With the owner, a and b in it."""
        owned = self.owner.vpn.requestor.create(RANGE)
        self.owner.vpn.requestor.add_address(owned.id, OWNER)
        await self.add(owned, self.a, A)
        await self.add(owned, self.b, B)
        return owned

    async def add(self, owned: OwnedNetwork, peer: Peer, ip: IPv4Address) -> None:
        await self.owner.vpn.requestor.add_node(owned.id, peer.address, ip)

    def order(self, owned: OwnedNetwork, ip: IPv4Address) -> NetworkOrder:
        nodes = {at: member.node for at, member in owned.membership.members.items()}
        return NetworkOrder(owned.id, RANGE, ip, nodes)

    async def join(self, owned: OwnedNetwork, peer: Peer, ip: IPv4Address, connect: Connect = refuse) -> Joined:
        return await peer.vpn.provider.join(self.owner.id, [self.order(owned, ip)], connect)


@pytest.fixture
async def world(autojump_clock: MockClock) -> AsyncIterator[World]:
    hub = MemoryHub()
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        peers = []
        for _ in range(4):
            network = await stack.enter_async_context(open_memory_network(hub, NodeKey.generate()))
            rpc = Rpc(network)
            peers.append(Peer(network, rpc, VpnService(network, rpc, partial(_find, network))))
            await nursery.start(rpc.run)
            await nursery.start(peers[-1].vpn.run)
        for peer in peers[1:]:
            await peers[0].network.connect(peer.network.addresses()[0])
        yield World(hub, *peers)
        nursery.cancel_scope.cancel()


async def _find(network: MemoryNetwork, address: Address) -> PeerId | None:
    return next((info.peer for info in network.peers() if address_of(info.peer) == address), None)


async def next_of(joined: Joined, within_s: float = 10.0) -> bytes:
    """The next packet that the activity gets."""
    with trio.fail_after(within_s):
        return await joined.links[0].next()


async def nothing_comes(joined: Joined) -> None:
    with trio.move_on_after(5) as scope:
        await joined.links[0].next()
    assert scope.cancelled_caught


def send(joined: Joined, data: bytes) -> None:
    joined.links[0].from_guest(data)


async def test_packets_go_between_activities_of_two_nodes_and_the_owner_answers_pings(
    world: World, autojump_clock: MockClock
) -> None:
    owned = await world.network()
    a, b = await world.join(owned, world.a, A), await world.join(owned, world.b, B)
    for number in range(100):
        send(a, packet(A, B, bytes([number]) * 1000))
    for number in range(100):
        assert await next_of(b) == packet(A, B, bytes([number]) * 1000)
    send(b, packet(B, OWNER, echo_request(b"abcd", b"data"), protocol=1))
    assert (await next_of(b))[20:] == b"\0\0" + (await echo_answer())
    # Both ways, and nothing but what was sent.
    send(b, packet(B, A))
    assert await next_of(a) == packet(B, A)
    assert a.links[0].interface.with_prefixlen == "10.0.0.2/24"


async def echo_answer() -> bytes:
    from golemp2p.core.vpn import echo_reply

    reply = echo_reply(packet(B, OWNER, echo_request(b"abcd", b"data"), protocol=1))
    assert reply is not None
    return reply[22:]


async def test_a_node_that_is_added_later_is_told_to_those_who_run_already(
    world: World, autojump_clock: MockClock
) -> None:
    owned = world.owner.vpn.requestor.create(RANGE)
    await world.add(owned, world.a, A)
    a = await world.join(owned, world.a, A)
    await world.add(owned, world.b, B)
    b = await world.join(owned, world.b, B)
    await trio.sleep(1)
    send(a, packet(A, B))
    assert await next_of(b) == packet(A, B)
    world.owner.vpn.requestor.remove_node(owned.id, world.b.address)
    await trio.sleep(1)
    send(a, packet(A, B))
    send(b, packet(B, A))
    await nothing_comes(a)
    await nothing_comes(b)


async def test_a_provider_that_the_owner_cannot_reach_yet_is_known_when_it_joins(
    world: World, autojump_clock: MockClock
) -> None:
    owned = world.owner.vpn.requestor.create(RANGE)
    await world.owner.network.disconnect(world.a.id)
    await world.owner.network.disconnect(world.b.id)
    await world.add(owned, world.a, A)
    await world.add(owned, world.b, B)
    a, b = await world.join(owned, world.a, A), await world.join(owned, world.b, B)
    await trio.sleep(1)
    send(a, packet(A, B))
    assert await next_of(b) == packet(A, B)


async def test_an_owner_that_was_restarted_is_replaced_by_what_the_script_says(
    world: World, autojump_clock: MockClock
) -> None:
    owned = await world.network()
    orders = [world.order(owned, ip) for ip in (A, B)]
    world.owner.vpn.requestor.remove(owned.id)
    await trio.sleep(5)
    await world.a.network.connect(world.b.network.addresses()[0])
    a = await world.a.vpn.provider.join(world.owner.id, [orders[0]], refuse)
    b = await world.b.vpn.provider.join(world.owner.id, [orders[1]], refuse)
    send(a, packet(A, B))
    assert await next_of(b) == packet(A, B)


async def test_peers_that_cannot_reach_each_other_send_by_way_of_the_owner(
    world: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned = await world.network()
    a, b = await world.join(owned, world.a, A), await world.join(owned, world.b, B)
    for one, other in ((world.a, world.b), (world.b, world.a)):
        monkeypatch.setattr(one.network, "open_stream", partial(_unless, one.network.open_stream, other.id))
    send(a, packet(A, B, b"lost, and then"))
    await trio.sleep(1)
    for number in range(20):
        send(a, packet(A, B, bytes([number])))
        assert await next_of(b) == packet(A, B, bytes([number]))
    send(b, packet(B, A, b"lost"))
    await trio.sleep(1)
    send(b, packet(B, A, b"back"))
    assert await next_of(a) == packet(B, A, b"back")


async def _unless(open_stream: object, unreachable: PeerId, peer: PeerId, *args: object, **more: object) -> object:
    if peer == unreachable:
        raise NetworkError("no way there")
    return await open_stream(peer, *args, **more)  # type: ignore[operator] # the network's own


async def tunnel(peer: Peer, to: PeerId, **header: object) -> ByteStream:
    """A stream as a hostile peer would open it. Raises what the other side answers."""
    stream = await peer.network.open_stream(to, TUNNEL_PROTOCOL)
    wire = Wire(stream)
    await wire.send(encode_header([header]))
    await wire.answer()
    return stream


async def test_strangers_get_in_neither_with_packets_nor_with_connections(
    world: World, autojump_clock: MockClock
) -> None:
    owned = await world.network()
    a = await world.join(owned, world.a, A)
    packets = {"mode": "packets", "owner": world.owner.id, "network": owned.id}
    connect = {"mode": "connect", "network": owned.id, "ip": str(A), "port": 80}
    for header in (packets, connect, {**packets, "owner": world.stranger.id}):
        with pytest.raises(NotFoundError):
            await tunnel(world.stranger, world.a.id, **header)
    # A member of the network is not its owner.
    with pytest.raises(NotFoundError):
        await tunnel(world.b, world.a.id, **connect)
    for body in ({"network": owned.id}, {"network": "0" * 32}):
        with pytest.raises(NotFoundError):
            await world.stranger.rpc.call(world.owner.id, NETWORK_PROTOCOL, "members", body, timeout_s=5)
    news = {"network": owned.id, "version": 99, "nodes": []}
    with pytest.raises(NotFoundError):
        await world.stranger.rpc.call(world.a.id, NETWORK_PROTOCOL, "update", news, timeout_s=5)
    # b may send, but not as the owner.
    stream = await tunnel(world.b, world.a.id, **packets)
    forged, honest = packet(OWNER, A), packet(B, A)
    await stream.write(b"".join(len(each).to_bytes(2, "big") + each for each in (forged, honest)))
    assert await next_of(a) == honest


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"mode": "raw"},
        {"mode": "packets"},
        {"mode": "packets", "owner": 1, "network": "0" * 32},
        {"mode": "connect", "network": "0" * 32, "ip": "10.0.0.2", "port": 0},
        {"mode": "connect", "network": "0" * 32, "ip": "::1", "port": 80},
        {"mode": "connect", "network": "../x", "ip": "10.0.0.2", "port": 80},
    ],
    ids=lambda header: str(header)[:40],
)
async def test_a_malformed_header_is_refused(
    world: World, autojump_clock: MockClock, header: dict[str, object]
) -> None:
    with pytest.raises((RemoteError, UsageError, PolicyError, NetworkError)):
        await tunnel(world.stranger, world.a.id, **header)


async def test_too_many_tunnels_of_one_peer_are_refused(
    world: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "VPN_PEER_TUNNELS", 2)
    owned = await world.network()
    await world.join(owned, world.a, A)
    header = {"mode": "packets", "owner": world.owner.id, "network": owned.id}
    streams = [await tunnel(world.b, world.a.id, **header) for _ in range(2)]
    with pytest.raises(PolicyError, match="more than 2 tunnels"):
        await tunnel(world.b, world.a.id, **header)
    await streams[0].aclose()
    await trio.sleep(1)
    await tunnel(world.b, world.a.id, **header)


async def test_the_owner_connects_to_a_port_of_an_activity_both_ways_with_half_close(
    world: World, autojump_clock: MockClock
) -> None:
    owned = await world.network()
    ours, theirs = memory_stream_pair()
    asked: list[tuple[IPv4Address, int]] = []

    async def connect(ip: IPv4Address, port: int) -> trio.abc.HalfCloseableStream:
        asked.append((ip, port))
        return theirs

    await world.join(owned, world.a, A, connect)
    async with world.owner.vpn.requestor.connection(owned.id, A, 8080) as stream:
        await stream.write(b"hello")
        assert await ours.receive_some() == b"hello"
        await stream.close_write()
        assert await ours.receive_some() == b""
        await ours.send_all(b"still here")
        await ours.send_eof()
        assert await stream.read(100) == b"still here"
        assert await stream.read(100) == b""
        assert [place[:2] for place in owned.connections.values()] == [(A, 8080)]
    assert asked == [(A, 8080)]
    assert owned.connections == {}


async def test_a_silent_activity_does_not_keep_a_connection_whose_client_is_gone(
    world: World, autojump_clock: MockClock
) -> None:
    owned = await world.network()
    ours, theirs = memory_stream_pair()

    async def connect(_ip: IPv4Address, _port: int) -> trio.abc.HalfCloseableStream:
        return theirs

    await world.join(owned, world.a, A, connect)
    stream = await tunnel(world.owner, world.a.id, mode="connect", network=owned.id, ip=str(A), port=1)
    await stream.close_write()
    started = trio.current_time()
    assert await stream.read(1) == b""
    assert trio.current_time() - started == pytest.approx(limits.VPN_LINGER_S, abs=1)
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"x")


async def test_a_connection_that_cannot_be_made_says_why_in_time(world: World, autojump_clock: MockClock) -> None:
    owned = await world.network()
    requestor = world.owner.vpn.requestor
    await world.join(owned, world.a, A)
    started = trio.current_time()
    with pytest.raises(UnreachableError, match="Connection refused"):
        async with requestor.connection(owned.id, A, 80):
            pass
    assert trio.current_time() - started < 1
    with pytest.raises(NotFoundError, match="nobody has"):
        async with requestor.connection(owned.id, RANGE[77], 80):
            pass
    with pytest.raises(UnreachableError, match="own address"):
        async with requestor.connection(owned.id, OWNER, 80):
            pass
    world.hub.kill(world.b.id)
    started = trio.current_time()
    with pytest.raises(UnreachableError):
        async with requestor.connection(owned.id, B, 80):
            pass
    assert trio.current_time() - started <= limits.VPN_CONNECT_S + 1


async def test_a_connection_waits_for_an_activity_that_is_being_deployed(
    world: World, autojump_clock: MockClock
) -> None:
    owned = await world.network()
    ours, theirs = memory_stream_pair()

    async def connect(_ip: IPv4Address, _port: int) -> trio.abc.HalfCloseableStream:
        return theirs

    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(3)
            await world.join(owned, world.a, A, connect)

        nursery.start_soon(later)
        async with world.owner.vpn.requestor.connection(owned.id, A, 80) as stream:
            await stream.write(b"x")
            assert await ours.receive_some() == b"x"
    assert trio.current_time() > 2.9


async def test_a_provider_that_dies_breaks_its_connections(world: World, autojump_clock: MockClock) -> None:
    owned = await world.network()
    _, theirs = memory_stream_pair()

    async def connect(_ip: IPv4Address, _port: int) -> trio.abc.HalfCloseableStream:
        return theirs

    await world.join(owned, world.a, A, connect)
    async with world.owner.vpn.requestor.connection(owned.id, A, 80) as stream:
        world.hub.kill(world.a.id)
        with pytest.raises(NetworkError):
            await stream.read(1)


async def test_leaving_forgets_everything(world: World, autojump_clock: MockClock) -> None:
    owned = await world.network()
    a, b = await world.join(owned, world.a, A), await world.join(owned, world.b, B)
    send(a, packet(A, B))
    await next_of(b)
    with pytest.raises(ConflictError, match="another activity"):
        await world.join(owned, world.a, A)
    b.leave()
    assert world.b.vpn.segments == {}
    send(a, packet(A, B))
    await trio.sleep(limits.VPN_TUNNEL_IDLE_S + 5)
    a.leave()
    await world.join(owned, world.a, A)
    assert list(world.a.vpn.segments) == [NetworkKey(world.owner.id, owned.id)]
    world.owner.vpn.requestor.remove(owned.id)
    await trio.sleep(5)
    assert world.owner.vpn.segments == {}
    assert world.a.vpn.segments[NetworkKey(world.owner.id, owned.id)].members == {}


async def test_an_address_of_another_node_cannot_be_taken(world: World, autojump_clock: MockClock) -> None:
    owned = await world.network()
    with pytest.raises(UsageError, match="not of this provider"):
        await world.join(owned, world.a, B)
    assert world.a.vpn.segments == {}


async def test_an_id_that_two_owners_use_is_two_networks(world: World, autojump_clock: MockClock) -> None:
    owned = await world.network()
    a = await world.join(owned, world.a, A)
    twin = NetworkOrder(owned.id, RANGE, A, {A: world.a.address})
    other = await world.a.vpn.provider.join(world.stranger.id, [twin], refuse)
    b = await world.join(owned, world.b, B)
    send(b, packet(B, A))
    assert await next_of(a) == packet(B, A)
    await nothing_comes(other)


async def test_networks_and_nodes_have_a_bound(
    world: World, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_VPN_NETWORKS", 1)
    monkeypatch.setattr(limits, "MAX_VPN_NODES", 3)
    owned = await world.network()
    with pytest.raises(ConflictError, match="networks already"):
        world.owner.vpn.requestor.create(RANGE)
    with pytest.raises(ConflictError, match="3 nodes already"):
        await world.add(owned, world.stranger, RANGE[9])
