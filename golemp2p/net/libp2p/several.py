"""Several connections to one peer: which one is used, and which are closed.

There is a second one when a hole was punched beside a relayed connection, when both sides dialled at once, and when the
peer came back from another address before we noticed that it had gone: then the older one is dead, and would keep its
streams waiting until the keepalive finds out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from libp2p.custom_types import TProtocol
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.net.libp2p.circuit import is_relayed

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork

log = structlog.get_logger(__name__)
PING: Final = TProtocol("/ipfs/ping/1.0.0")
# Streams that come back by themselves on another connection.
IDLE_PROTOCOLS: Final = ("/meshsub/", "/ipfs/ping/", "/ipfs/id/")


class Several:
    def __init__(self, network: Libp2pNetwork, host: Any) -> None:
        self._network, self._host = network, host
        self._direct_since: dict[PeerId, float] = {}  # of peers that have a relayed connection, too
        host.get_network()._best_connection = self.best

    @staticmethod
    def best(connections: list[Any]) -> Any:
        """For new streams: a direct one, and the newest of those."""
        return max(connections, key=lambda c: (not is_relayed(c), c._created_at))

    async def probe_older(self, newest: Any) -> None:
        """Close the connections of the same kind to the same peer that do not answer any more."""
        peer = PeerId(str(newest.muxed_conn.peer_id))
        for connection in self._network.connections(peer):
            if connection is newest or is_relayed(connection) is not is_relayed(newest):
                continue
            if not await self._answers(connection):
                log.info("dead connection closed, there is a newer one", peer=peer)
                await self._close(connection)

    async def _answers(self, connection: Any) -> bool:
        stream: Any = None
        with trio.move_on_after(limits.PROBE_CONNECTION_S):
            try:
                stream = await connection.new_stream()
                await self._host.multiselect_client.select_one_of([PING], MultiselectCommunicator(stream))
            except Exception as exc:  # noqa: BLE001 - libp2p raises several unrelated families here
                log.debug("connection does not answer", error=repr(exc))
            else:
                await self._end(stream)
                return True
        await self._end(stream)
        return False

    async def _end(self, stream: Any) -> None:
        with trio.move_on_after(limits.STREAM_CLOSE_TIMEOUT_S, shield=True):
            try:
                if stream is not None:
                    await stream.reset()
            except Exception as exc:  # noqa: BLE001 - its connection is gone
                log.debug("probe not ended", error=repr(exc))

    async def _close(self, connection: Any) -> None:
        with trio.move_on_after(limits.CLOSE_TIMEOUT_S):
            try:
                await connection.close()
            except Exception as exc:  # noqa: BLE001 - it is to be gone, and is
                log.debug("connection not closed in order", error=repr(exc))

    async def close_idle_relayed(self) -> None:
        """Where a direct connection stands beside it and nothing but upkeep runs over it."""
        now, direct = trio.current_time(), self._network.connected_directly()
        self._direct_since = {peer: since for peer, since in self._direct_since.items() if peer in set(direct)}
        for peer in direct:
            relayed = [c for c in self._network.connections(peer) if is_relayed(c)]
            if not relayed:
                self._direct_since.pop(peer, None)
                continue
            since = self._direct_since.setdefault(peer, now)
            streams = [str(stream.get_protocol()) for c in relayed for stream in c.get_streams()]
            if now - since > limits.RELAYED_LINGER_S and all(name.startswith(IDLE_PROTOCOLS) for name in streams):
                for connection in relayed:
                    log.info("relayed connection closed, there is a direct one", peer=peer)
                    await self._close(connection)
