"""Networks keep strangers out: another network's node, and one without the key, learn nothing and get no connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from golemp2p import limits
from golemp2p.errors import GolemError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p import open_libp2p_network
from golemp2p.net.port import ByteStream, Network

OPEN = NetConfig(dht=False, network="alpha")
KEYED = replace(OPEN, psk=bytes(range(32)))
PROTOCOL = "/test/echo/1"


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that nobody understands is waited on until the deadline."""
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(limits, "DIAL_TIMEOUT_S", 1.5)


@asynccontextmanager
async def node(config: NetConfig) -> AsyncIterator[Network]:
    async def echo(stream: ByteStream) -> None:
        while data := await stream.read(1_000_000):
            await stream.write(data)
        await stream.close_write()

    async with open_libp2p_network(NodeKey.generate(), config) as network:
        network.set_stream_handler(PROTOCOL, echo)
        yield network


async def test_nodes_with_the_same_key_talk() -> None:
    async with node(KEYED) as one, node(KEYED) as other:
        await one.connect(other.addresses()[0])
        stream = await one.open_stream(other.peer_id, PROTOCOL)
        data = bytes(range(256)) * 4_000
        with trio.fail_after(60):
            await stream.write(data)
            await stream.close_write()
            back = b""
            while piece := await stream.read(1_000_000):
                back += piece
        assert back == data
        await stream.aclose()


@pytest.mark.parametrize(
    "stranger",
    [
        OPEN,
        replace(KEYED, psk=bytes(32)),
        replace(KEYED, network="beta"),
    ],
    ids=["without a key", "another key", "another network's name"],
)
@pytest.mark.usefixtures("impatience")
async def test_a_stranger_gets_no_connection_to_a_private_network(stranger: NetConfig) -> None:
    async with node(KEYED) as member, node(stranger) as outside:
        for dialler, target in ((outside, member), (member, outside)):
            with pytest.raises(GolemError):
                await dialler.connect(target.addresses()[0])
        assert not [peer for network in (member, outside) for peer in network.peers() if peer.connected]


async def test_open_networks_of_two_names_do_not_mix() -> None:
    async with node(OPEN) as one, node(replace(OPEN, network="beta")) as other, node(OPEN) as third:
        with pytest.raises(GolemError):
            await other.connect(one.addresses()[0])
        await third.connect(one.addresses()[0])
        assert [peer.peer for peer in one.peers() if peer.connected] == [third.peer_id]


@pytest.mark.usefixtures("impatience")
async def test_who_has_no_key_is_told_nothing() -> None:
    """Whatever a stranger sends, what comes back is as good as random: no name, no protocol, no identity."""
    async with node(KEYED) as member:
        _, _, host, _, port, *_ = member.addresses()[0].split("/")
        for greeting in (b"\x13/multistream/1.0.0\n", b"GET / HTTP/1.1\r\n\r\n", bytes(64)):
            heard = b""
            with trio.fail_after(30):  # the node hangs up
                async with await trio.open_tcp_stream(host, int(port)) as stream:
                    await stream.send_all(greeting)
                    try:
                        async for piece in stream:
                            heard += piece
                    except trio.BrokenResourceError:
                        pass
            for word in (b"multistream", b"noise", b"golem", member.peer_id.encode()):
                assert word not in heard
