"""Who is connected with whom: each node keeps some connections of its own, to peers that the network told it of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError

if TYPE_CHECKING:
    from golemp2p.sim.node import SimNode
    from golemp2p.sim.world import World

RETRY_S: Final = 1.0
BOOTNODES: Final = 3  # the first nodes of a world; who knows nobody asks them
FAILURES_A_ROUND: Final = 8


class Topology:
    """``degree``: connections that a node makes; with those made to it it has about twice as many.

    Peers are found as the DHT's walks find them: any node at random. What an attacker can do about that is in the
    scenario's ``known_peers``: then only these are dialled.
    """

    def __init__(self, world: World, degree: int) -> None:
        self._world, self._degree = world, degree
        self.only: dict[int, list[PeerId]] = {}  # node -> the peers that it knows of (an eclipsed one)

    async def keep_connected(self, node: SimNode) -> None:
        network = node.network
        assert network is not None
        lost = trio.Event()

        def changed(_peer: PeerId, connected: bool) -> None:
            if not connected:
                lost.set()

        network.add_peer_listener(changed)
        while True:
            lost = trio.Event()
            failures = 0
            while len(network.connections) < self._degree and failures < FAILURES_A_ROUND:
                peer = self._candidate(node)
                if peer is None:
                    break
                try:
                    await network.dial(peer)
                except GolemError:
                    failures += 1
            if len(network.connections) < self._degree:
                await trio.sleep(RETRY_S)
            else:
                await lost.wait()
                await trio.sleep(RETRY_S * self._world.hub.random.random())

    def _candidate(self, node: SimNode) -> PeerId | None:
        """A peer to dial: one of the bootnodes first, then anybody."""
        world, network = self._world, node.network
        assert network is not None
        known = self.only.get(node.index)
        if known is None:
            known = world.living
            if not network.connections:
                known = world.living[:BOOTNODES]
        for _ in range(4):
            if not known:
                return None
            peer = known[world.hub.random.randrange(len(known))]
            if peer != network.peer_id and peer not in network.connections:
                return peer
        return None
