"""Nodes that know one bootnode find each other, keep enough peers, and remember them over a restart."""

from __future__ import annotations

import json
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import msgpack
import pytest
import trio

from golemp2p import limits
from golemp2p.identity.keys import NodeKey
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p import open_libp2p_network
from golemp2p.net.libp2p.exchange import PROTOCOL
from golemp2p.net.port import ByteStream, Network


def connected(network: Network) -> set[str]:
    return {peer.peer for peer in network.peers() if peer.connected}


async def until_connected(network: Network, count: int) -> None:
    with trio.fail_after(60):
        while len(connected(network)) < count:  # noqa: ASYNC110 - peers come and go without an event
            await trio.sleep(0.05)


async def test_nodes_that_know_only_a_bootnode_find_each_other_without_a_dht(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        boot = await stack.enter_async_context(open_libp2p_network(NodeKey.generate(), NetConfig(dht=False)))
        config = NetConfig(dht=False, bootstrap=(boot.addresses()[0],))
        nodes = [await stack.enter_async_context(open_libp2p_network(NodeKey.generate(), config)) for _ in range(6)]
        for node in nodes:
            await until_connected(node, 5)


async def test_a_node_finds_its_old_peers_again_when_its_bootnode_is_gone(tmp_path: Path) -> None:
    key, file = NodeKey.generate(), tmp_path / "peers.json"
    async with open_libp2p_network(NodeKey.generate(), NetConfig(dht=False)) as friend:
        async with open_libp2p_network(NodeKey.generate(), NetConfig(dht=False)) as boot:
            await friend.connect(boot.addresses()[0])
            config = NetConfig(dht=False, bootstrap=(boot.addresses()[0],), peers_file=file)
            async with open_libp2p_network(key, config) as node:
                await until_connected(node, 2)
        assert 1 <= len(json.loads(file.read_text())) <= limits.ANCHORS
        async with open_libp2p_network(key, config) as node:
            await until_connected(node, 1)
            assert connected(node) == {friend.peer_id}


async def test_a_spoilt_file_of_peers_is_no_obstacle(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    for text in ("{", '{"a": 1}', '[1, "nonsense", "/ip4/127.0.0.1/tcp/1/p2p/x"]'):
        file.write_text(text)
        async with open_libp2p_network(NodeKey.generate(), NetConfig(dht=False, peers_file=file)) as node:
            assert connected(node) == set()


async def test_a_peer_that_names_nonsense_neither_ends_the_node_nor_makes_it_ask_a_name_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolved: list[str] = []

    async def getaddrinfo(host: str, *_: object) -> list[object]:
        resolved.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    asked = trio.Event()
    async with (
        open_libp2p_network(NodeKey.generate(), NetConfig(dht=False)) as friend,
        open_libp2p_network(NodeKey.generate(), NetConfig(dht=False)) as liar,
    ):
        named = [
            f"/ip4/127.0.0.1/tcp/²/p2p/{NodeKey.generate().peer_id}",
            f"/ip4/127.0.0.1/tcp/1/p2p/{'1' * 60}",
            f"/dns4/a..example/tcp/1/p2p/{NodeKey.generate().peer_id}",
            f"/dns4/victim.example/tcp/1/p2p/{NodeKey.generate().peer_id}",
            friend.addresses()[0],
        ]

        async def answer(stream: ByteStream) -> None:
            await stream.write(msgpack.packb(named))
            await stream.close_write()
            asked.set()

        liar.set_stream_handler(PROTOCOL, answer)
        config = NetConfig(dht=False, bootstrap=(liar.addresses()[0],))
        async with open_libp2p_network(NodeKey.generate(), config) as node:
            await until_connected(node, 2)
            assert asked.is_set()
            assert connected(node) == {liar.peer_id, friend.peer_id}
    assert resolved == []


async def test_a_disk_that_takes_no_file_of_peers_neither_ends_a_node_nor_keeps_it_open(tmp_path: Path) -> None:
    config = NetConfig(dht=False, peers_file=tmp_path / "gone" / "peers.json")
    async with open_libp2p_network(NodeKey.generate(), NetConfig(dht=False)) as friend:
        async with open_libp2p_network(NodeKey.generate(), config) as node:
            await node.connect(friend.addresses()[0])
            await until_connected(node, 1)
            await node.keeper.neighbours.remember()
            assert connected(node) == {friend.peer_id}
        with trio.fail_after(30):
            while connected(friend):  # noqa: ASYNC110 - its socket was closed: we see it go
                await trio.sleep(0.05)
