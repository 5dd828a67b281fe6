"""What all tunnels of one owner's networks may take together: members are the owner's word, packets the payload's."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import NetworkError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.datawire import encode_header
from golemp2p.net.memory import MemoryHub, open_memory_network
from golemp2p.net.port import ByteStream
from golemp2p.vpn.segment import NetworkKey
from golemp2p.vpn.trunk import Trunks
from golemp2p.wire.p2p.vpn import TUNNEL_PROTOCOL

KEY, OTHER = NetworkKey(PeerId("owner"), "1" * 32), NetworkKey(PeerId("other"), "2" * 32)
PACKET = bytes(60_000)


class Nowhere:
    """A network where every peer takes long to be not found."""

    peer_id = PeerId("me")
    opening = most = 0

    async def open_stream(self, *_: Any, **__: Any) -> Any:
        self.opening += 1
        self.most = max(self.most, self.opening)
        try:
            await trio.sleep(limits.VPN_OPEN_S / 2)
        finally:
            self.opening -= 1
        raise NetworkError("no such peer")


def queued_bytes(trunks: Trunks) -> int:
    return sum(trunk._queued_bytes for trunk in trunks._trunks.values())


async def test_packets_to_invented_members_take_bounded_memory_and_leave_room_for_other_owners(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    network: Any = Nowhere()
    trunks = Trunks(network)
    await nursery.start(trunks.run)
    for number in range(500):
        for _ in range(20):
            trunks.send(KEY, PeerId(f"invented{number}"), PACKET)
        if number == 250:
            await trio.sleep(0.1)
    assert queued_bytes(trunks) <= limits.VPN_OWNER_QUEUE_BYTES
    assert network.most <= limits.VPN_OPENS_AT_ONCE
    assert trunks.send(OTHER, PeerId("real"), PACKET)
    await trio.sleep(3600)
    assert queued_bytes(trunks) == 0
    assert not trunks._trunks
    assert not trunks._shares
    nursery.cancel_scope.cancel()


async def test_one_slow_member_leaves_room_for_the_others(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    network: Any = Nowhere()
    trunks = Trunks(network)
    await nursery.start(trunks.run)
    for slow in range(100):
        while trunks.send(KEY, PeerId(f"slow{slow}"), PACKET):
            continue
    assert trunks.send(KEY, PeerId("quick"), bytes(1500))
    nursery.cancel_scope.cancel()


async def test_peers_out_of_reach_are_remembered_within_a_bound(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_VPN_RELAYED", 10)
    network: Any = Nowhere()
    trunks = Trunks(network)
    await nursery.start(trunks.run)
    for number in range(15):
        trunks.send(KEY, PeerId(f"gone{number}"), PACKET)
    await trio.sleep(limits.VPN_RELAY_S / 2)
    assert len(trunks._relayed_until_s) == 10
    nursery.cancel_scope.cancel()


async def test_a_peer_that_takes_nothing_holds_nothing_for_ever(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    hub = MemoryHub()
    async with open_memory_network(hub, NodeKey.generate()) as me, open_memory_network(hub, NodeKey.generate()) as peer:

        async def agree_and_sleep(stream: ByteStream) -> None:
            await stream.write(encode_header(["ok"]))
            await trio.sleep_forever()

        peer.set_stream_handler(TUNNEL_PROTOCOL, agree_and_sleep)
        await me.connect(peer.addresses()[0])
        trunks = Trunks(me)
        await nursery.start(trunks.run)
        while trunks.send(KEY, peer.peer_id, PACKET):
            continue
        await trio.sleep(1)
        while trunks.send(KEY, peer.peer_id, PACKET):
            continue
        assert queued_bytes(trunks) > limits.VPN_QUEUE_BYTES / 2
        await trio.sleep(2 * limits.VPN_STALL_S)
        assert queued_bytes(trunks) == 0
        assert not trunks._shares
        nursery.cancel_scope.cancel()
