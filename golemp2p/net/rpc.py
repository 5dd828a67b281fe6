"""RPC over one long-lived multiplexed stream per peer and protocol (protocols/rpc.md).

Opening a stream per call costs five times more than a call on an open one. Each side opens a stream of its own for
its own calls. The calling half is in rpc_caller.py, the serving half in rpc_server.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
import trio

from golemp2p.core.ids import PeerId
from golemp2p.errors import RemoteProtocolError
from golemp2p.net.port import ByteStream, Network
from golemp2p.net.rpc_caller import Caller
from golemp2p.net.rpc_server import Method, SendItem, Server, StreamMethod

log = structlog.get_logger(__name__)


class Rpc:
    """Calls to and from peers. Start :meth:`run` in a nursery with ``await nursery.start(rpc.run)`` before calling."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._caller = Caller(network, self._fault)
        self._servers: dict[str, Server] = {}
        self._active: Counter[PeerId] = Counter()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all streams that we open, until cancelled."""
        await self._caller.run(task_status=task_status)

    def serve(self, protocol: str, methods: Mapping[str, Method], streams: Mapping[str, StreamMethod] = {}) -> None:
        """Answer ``methods`` (one answer) and ``streams`` (many items) on ``protocol``; may be called again to add."""
        server = self._servers.get(protocol)
        if server is None:
            server = self._servers[protocol] = Server(protocol, self._active)

            async def handle(stream: ByteStream, server: Server = server) -> None:
                try:
                    await server.run(stream)
                except RemoteProtocolError as exc:
                    await stream.reset()
                    self._fault(stream.peer, exc)

            self._network.set_stream_handler(protocol, handle)
        server.add(methods, streams)

    async def call(
        self, peer: PeerId, protocol: str, method: str, body: Mapping[str, object], *, timeout_s: float
    ) -> Any:
        """The answer of ``method`` at ``peer``.

        Raises NotFoundError, GoneError, ConflictError, UsageError, PolicyError as the remote handler did, RemoteError
        for its other errors, NetworkError when the peer cannot be reached or the stream broke, DeadlineError after
        ``timeout_s``. Cancelled calls are cancelled at the peer.
        """
        return await self._caller.call(peer, protocol, method, body, timeout_s=timeout_s)

    def stream(
        self, peer: PeerId, protocol: str, method: str, body: Mapping[str, object], *, timeout_s: float
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """The items of a stream method. ``timeout_s`` bounds the opening and each wait for an item.

        A slow reader stops the remote writer; leaving the context cancels the remote handler. Iterating raises what
        :meth:`call` raises.
        """
        return self._caller.stream(peer, protocol, method, body, timeout_s=timeout_s)

    def _fault(self, peer: PeerId, error: RemoteProtocolError) -> None:
        log.warning("rpc protocol broken by peer", peer=peer, error=str(error))
        self._network.blame(peer)


__all__ = ["Method", "Rpc", "SendItem", "StreamMethod"]
