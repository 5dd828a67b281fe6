"""A bootnode does not fill up: who has others by now makes room, who is reached through it stays."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio

from golemp2p import limits
from golemp2p.bootnode import make_room
from golemp2p.core.ids import PeerId
from golemp2p.identity.keys import NodeKey
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p.host import Libp2pNetwork, open_libp2p_network

QUIET = NetConfig(dht=False, target_peers=0, min_outbound=0, min_peers=0)


def connected(network: Libp2pNetwork) -> set[PeerId]:
    return {peer.peer for peer in network.peers() if peer.connected}


async def test_the_longest_there_go_first_and_those_behind_the_relay_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BOOTNODE_PEERS_HIGH", 4)
    monkeypatch.setattr(limits, "BOOTNODE_PEERS_LOW", 3)
    async with AsyncExitStack() as stack:
        boot = await stack.enter_async_context(open_libp2p_network(NodeKey.generate(), QUIET))
        since: dict[PeerId, float] = {}
        peers: list[PeerId] = []
        for number in range(5):
            node = await stack.enter_async_context(open_libp2p_network(NodeKey.generate(), QUIET))
            await node.connect(boot.addresses()[0])
            peers.append(node.peer_id)
            with trio.fail_after(30):
                while node.peer_id not in connected(boot):  # noqa: ASYNC110 - the other side of a connection
                    await trio.sleep(0.02)
            since[node.peer_id] = float(number)
        await make_room(boot, since, 20.0)  # nobody was there long enough to have found others
        assert connected(boot) == set(peers)
        monkeypatch.setattr(boot, "reserved_by", lambda: frozenset(peers[:1]))
        await make_room(boot, since, 4.0 + limits.BOOTNODE_STAY_S)
        assert connected(boot) == {peers[0], *peers[3:]}
        await make_room(boot, since, 1000.0)  # three are no crowd
        assert len(connected(boot)) == 3
