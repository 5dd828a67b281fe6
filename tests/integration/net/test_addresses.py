"""Addresses at the border: what is told to others can be dialled, what can never be dialled is said at the start."""

from __future__ import annotations

import pytest
from multiaddr import Multiaddr
from structlog.testing import capture_logs

from golemp2p import limits
from golemp2p.errors import NetworkError, UsageError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p import open_libp2p_network
from golemp2p.net.libp2p.addresses import dialable, libp2p_id
from tests.integration.net.conftest import until

PEER = NodeKey.generate().peer_id


@pytest.mark.parametrize(
    "address",
    [
        "garbage",
        "",
        "/ip4/192.0.2.7/tcp/4001",
        f"/ip4/192.0.2.7/tcp/99999/p2p/{PEER}",
        f"/ip4/300.0.2.7/tcp/4001/p2p/{PEER}",
        "/ip4/192.0.2.7/tcp/4001/p2p/QmNobody",
    ],
    ids=["word", "nothing", "no-peer", "port", "ip", "peer"],
)
async def test_a_bootstrap_address_that_is_none_stops_the_start(address: str) -> None:
    with pytest.raises(UsageError, match="bootstrap"):
        async with open_libp2p_network(NodeKey.generate(), NetConfig(bootstrap=(address,))):
            pass


async def test_a_bootstrap_peer_that_does_not_answer_is_warned_of_once() -> None:
    address = f"/ip4/127.0.0.1/tcp/9/p2p/{PEER}"

    def attempts(level: str) -> list[str]:
        return [e["address"] for e in logs if e["log_level"] == level and e["event"] == "bootstrap peer not reached"]

    with capture_logs() as logs:
        async with open_libp2p_network(NodeKey.generate(), NetConfig(bootstrap=(address,), dht=False)):
            await until("it was tried again", lambda: bool(attempts("debug")))
    assert attempts("warning") == [address]


async def test_a_wildcard_listener_tells_addresses_that_can_be_dialled() -> None:
    async with (
        open_libp2p_network(NodeKey.generate(), NetConfig(listen=("/ip4/0.0.0.0/tcp/0",), dht=False)) as everywhere,
        open_libp2p_network(NodeKey.generate(), NetConfig(dht=False)) as other,
    ):
        told = everywhere.addresses()
        assert told
        assert not any("/0.0.0.0/" in address for address in told)
        assert told[-1].startswith("/ip4/127.0.0.1/tcp/")
        assert await other.connect(told[-1]) == everywhere.peer_id


def test_loopback_comes_last_and_nothing_twice() -> None:
    local, public = Multiaddr("/ip4/127.0.0.1/tcp/1"), Multiaddr("/ip4/192.0.2.7/tcp/1")
    assert dialable([local, public, local]) == [public, local]
    assert Multiaddr("/ip6/::1/tcp/1") in dialable([Multiaddr("/ip6/::/tcp/1")])


async def test_false_addresses_of_a_peer_do_not_keep_us_from_the_right_one() -> None:
    alone = NetConfig(dht=False, min_peers=0, target_peers=0, min_outbound=0)
    async with (
        open_libp2p_network(NodeKey.generate(), alone) as node,
        open_libp2p_network(NodeKey.generate(), alone) as friend,
    ):
        for port in range(1, 2 * limits.DIAL_MAX_ADDRESSES):
            with pytest.raises(NetworkError):
                await node.connect(f"/ip4/127.0.0.1/tcp/{port}/p2p/{friend.peer_id}")
        assert node.known_addresses(friend.peer_id) == []
        await node.connect(friend.addresses()[0])
        assert node.is_connected(friend.peer_id)


async def test_the_newest_address_of_a_peer_is_tried_first_and_old_ones_are_forgotten() -> None:
    alone = NetConfig(dht=False, min_peers=0, target_peers=0, min_outbound=0)
    async with open_libp2p_network(NodeKey.generate(), alone) as node:
        peer = NodeKey.generate().peer_id
        for port in range(2 * limits.PEER_ADDRESSES):
            node._prefer(peer, [Multiaddr(f"/ip4/192.0.2.7/tcp/{port + 1}")])
        known = node.known_addresses(peer)
        assert len(known) == limits.PEER_ADDRESSES
        assert known[0] == f"/ip4/192.0.2.7/tcp/{2 * limits.PEER_ADDRESSES}"


async def test_a_node_that_hears_of_many_peers_forgets_neither_itself_nor_its_neighbours() -> None:
    alone = NetConfig(dht=False, min_peers=0, target_peers=0, min_outbound=0)
    async with (
        open_libp2p_network(NodeKey.generate(), alone) as node,
        open_libp2p_network(NodeKey.generate(), alone) as friend,
    ):
        await friend.connect(node.addresses()[0])
        await until("it is identified", lambda: bool(node.known_addresses(friend.peer_id)), 60)
        store = node._host.get_peerstore()
        for _ in range(limits.MAX_KNOWN_PEERS + 10):
            store.add_addrs(libp2p_id(NodeKey.generate().peer_id), [Multiaddr("/ip4/192.0.2.7/tcp/1")], 3600)
        assert len(store.peer_data_map) <= limits.MAX_KNOWN_PEERS
        assert libp2p_id(friend.peer_id) in store.peer_data_map
        await node.publish("a-topic", b"signed with our key")
