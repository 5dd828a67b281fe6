"""Who is not let in: peers whose identity is no secp256k1 key (libp2p knows many kinds), and too many at once."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from golemp2p.errors import GolemError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p import host as host_module
from golemp2p.net.libp2p import open_libp2p_network
from golemp2p.net.libp2p.addresses import libp2p_id
from golemp2p.net.libp2p.host import Libp2pNetwork
from tests.integration.net.conftest import until

ALONE = NetConfig(dht=False)


async def test_a_peer_with_another_kind_of_key_does_not_pass_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_libp2p_network(NodeKey.generate(), ALONE) as node:
        with monkeypatch.context() as other_key:
            other_key.setattr(host_module, "create_new_key_pair", lambda _secret: create_new_key_pair())
            stranger = host_module.make_host(NodeKey.generate(), ALONE)
        target = libp2p_id(node.peer_id)
        address = Multiaddr(node.addresses()[0].partition("/p2p/")[0])
        async with stranger.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            with trio.move_on_after(30):
                try:
                    await stranger.get_network().dial_addr(address, target)
                except Exception as exc:  # noqa: BLE001 - libp2p raises several unrelated families here
                    assert exc
            await until("it was refused", lambda: node.guard.refused, 60)
            assert not [peer for peer in node.peers() if peer.connected]
            await stranger.close()
        async with open_libp2p_network(NodeKey.generate(), ALONE) as friend:
            await friend.connect(node.addresses()[0])


@pytest.mark.parametrize(
    "stranger",
    [
        ID.from_pubkey(create_new_key_pair(b"\x01" * 32).public_key),
        ID(b"\x12\x20" + b"\x07" * 32),
        ID(b""),
        ID(b"\x00\x25\x08\x02\x12\x21" + b"\x05" * 33),
    ],
    ids=["ed25519", "hash", "empty", "no-point"],
)
async def test_peers_that_others_name_and_that_can_be_no_nodes_are_not_remembered(stranger: ID) -> None:
    async with open_libp2p_network(NodeKey.generate(), ALONE) as node:
        node._host.get_peerstore().add_addrs(stranger, [Multiaddr("/ip4/127.0.0.1/tcp/1")], 3600)
        assert node.peers() == []


async def test_addresses_that_are_no_multiaddrs_are_not_remembered() -> None:
    async with open_libp2p_network(NodeKey.generate(), ALONE) as node:
        peer = NodeKey.generate().peer_id
        good = Multiaddr("/ip4/192.0.2.7/tcp/1")
        node._host.get_peerstore().add_addrs(libp2p_id(peer), [Multiaddr(b"x"), good, Multiaddr(b"\xff")], 3600)
        assert node.known_addresses(peer) == [str(good)]
        assert [info.peer for info in node.peers()] == [peer]


async def test_connections_that_come_at_the_same_moment_are_bounded_too() -> None:
    bounded = NetConfig(dht=False, min_peers=0, target_peers=0, min_outbound=0, max_connections_per_ip=2)
    alone = NetConfig(dht=False, min_peers=0, target_peers=0, min_outbound=0)
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_libp2p_network(NodeKey.generate(), bounded))
        others = [await stack.enter_async_context(open_libp2p_network(NodeKey.generate(), alone)) for _ in range(8)]

        async def connect(other: Libp2pNetwork) -> None:
            with suppress(GolemError):
                await other.connect(node.addresses()[0])

        async with trio.open_nursery() as nursery:
            for other in others:
                nursery.start_soon(connect, other)
        await until("the others are gone", lambda: node.guard.refused >= 6, 60)
        await until("two are left", lambda: sum(peer.connected for peer in node.peers()) == 2, 60)
