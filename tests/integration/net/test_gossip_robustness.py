"""Gossip against peers that send what no node sends."""

from __future__ import annotations

import os

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.utils.varint import encode_varint_prefixed

from golemp2p.identity.keys import NodeKey
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p import open_libp2p_network
from golemp2p.net.libp2p.gossip import PROTOCOLS
from golemp2p.net.libp2p.host import Libp2pNetwork
from golemp2p.net.port import GossipMessage, Verdict
from tests.integration.net.conftest import until

ALONE = NetConfig(dht=False)
TOPIC = "a-topic"


async def listen(network: Libp2pNetwork) -> trio.MemoryReceiveChannel[bytes]:
    send, receive = trio.open_memory_channel[bytes](100)

    async def take(message: GossipMessage) -> None:
        send.send_nowait(message.data)

    await network.subscribe(TOPIC, lambda _message: Verdict.ACCEPT, take)
    return receive


async def say_until_heard(speaker: Libp2pNetwork, heard: trio.MemoryReceiveChannel[bytes], data: bytes) -> None:
    with trio.fail_after(60):
        while True:
            await speaker.publish(TOPIC, data)
            with trio.move_on_after(0.5):
                while await heard.receive() != data:
                    pass
                return


@pytest.mark.parametrize(
    ("sender", "key"),
    [
        (b"\x12\x20" + b"\x05" * 32, b"no key"),
        (b"\x12\x20" + b"\x05" * 32, b"\x08\x00\x12\x03abc"),  # RSA
        (b"\x12\x20" + b"\x05" * 32, b"\x08\x63\x12\x01a"),  # of no kind that there is
        (b"\x00\x25\x08\x02\x12\x21" + b"\x05" * 33, b""),  # of the right kind, but no point of the curve
        (b"", b"x"),
    ],
    ids=range(5),
)
async def test_a_message_whose_senders_key_is_none_ends_no_node(sender: bytes, key: bytes) -> None:
    async with (
        open_libp2p_network(NodeKey.generate(), ALONE) as node,
        open_libp2p_network(NodeKey.generate(), ALONE) as stranger,
    ):
        heard = await listen(node)
        await listen(stranger)
        await stranger.connect(node.addresses()[0])
        stream = await stranger.open_stream(node.peer_id, PROTOCOLS[0])
        message = rpc_pb2.Message(
            data=b"x", topicIDs=[TOPIC], from_id=sender, seqno=os.urandom(8), signature=b"y", key=key
        )
        await stream.write(encode_varint_prefixed(rpc_pb2.RPC(publish=[message]).SerializeToString()))
        await say_until_heard(stranger, heard, b"still there")


async def test_who_is_on_the_graylist_cannot_keep_a_message_of_others_from_a_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        open_libp2p_network(NodeKey.generate(), ALONE) as node,
        open_libp2p_network(NodeKey.generate(), ALONE) as liar,
        open_libp2p_network(NodeKey.generate(), ALONE) as friend,
    ):
        heard = await listen(node)
        for other in (liar, friend):
            await listen(other)
            await other.connect(node.addresses()[0])
            await say_until_heard(other, heard, b"hello")
        monkeypatch.setattr(node.keeper, "graylisted", lambda peer: peer == liar.peer_id)
        pubsub = friend._gossip._pubsub  # type: ignore[union-attr] # there is gossip
        message = rpc_pb2.Message(
            data=b"news", topicIDs=[TOPIC], from_id=pubsub.my_id.to_bytes(), seqno=pubsub._next_seqno()
        )
        signed = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
        message.key = pubsub.host.get_public_key().serialize()
        message.signature = pubsub.sign_key.sign(signed)
        dropped = node.statistics().gossip_dropped
        for other in (liar, friend):
            stream = await other.open_stream(node.peer_id, PROTOCOLS[0])
            await stream.write(encode_varint_prefixed(rpc_pb2.RPC(publish=[message]).SerializeToString()))
            await until("the first copy was dropped", lambda: node.statistics().gossip_dropped > dropped, 60)
        with trio.fail_after(60):
            while await heard.receive() != b"news":
                pass
