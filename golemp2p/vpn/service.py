"""Both sides of private networks behind one object: what node.py composes, the supervisor and the REST API speak to."""

from __future__ import annotations

import trio

from golemp2p.core.manifest import NOTHING_OUTSIDE, OutboundRule
from golemp2p.net.port import Network
from golemp2p.net.rpc import Rpc
from golemp2p.vpn.outbound import Resolve, look_up
from golemp2p.vpn.owning import Owning
from golemp2p.vpn.providing import FindPeer, Providing
from golemp2p.vpn.segment import NetworkKey, Segment
from golemp2p.vpn.trunk import Trunks
from golemp2p.vpn.tunnels import Tunnels
from golemp2p.wire.p2p.vpn import NETWORK_PROTOCOL, TUNNEL_PROTOCOL


class VpnService:
    """``find_peer`` knows which peer has an address, if anybody here does. ``rule`` is the provider's for the outside,
    ``resolve`` looks names up for it. Start :meth:`run` after the rpc."""

    def __init__(
        self,
        network: Network,
        rpc: Rpc,
        find_peer: FindPeer,
        *,
        rule: OutboundRule = NOTHING_OUTSIDE,
        resolve: Resolve = look_up,
    ) -> None:
        segments: dict[NetworkKey, Segment] = {}
        self._network = network
        self._rpc = rpc
        self._trunks = Trunks(network)
        self.segments = segments
        self.provider = Providing(network.peer_id, rpc, self._trunks, segments, find_peer, rule, resolve)
        self.requestor = Owning(network, rpc, self._trunks, segments, find_peer)
        self._tunnels = Tunnels(segments, self.provider.connect)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._network.set_stream_handler(TUNNEL_PROTOCOL, self._tunnels.handle)
        self._rpc.serve(NETWORK_PROTOCOL, {"members": self.requestor.on_members, "update": self.provider.on_update})
        async with trio.open_nursery() as nursery:
            await nursery.start(self._trunks.run)
            await nursery.start(self.requestor.run)
            task_status.started()
