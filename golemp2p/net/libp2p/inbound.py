"""Who may connect to us: replaces ``Swarm._handle_inbound_connection`` of one host.

libp2p's own keeps the place of every connection it ever accepted until the node ends (so a node takes no more after
250), and lets a handful of silent sockets shut everybody else out. Here a place is freed when its connection ends, an
unfinished handshake has a short deadline and gives way to newer ones, and one IP address has a bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import structlog
import trio
from libp2p.network.connection.raw_connection import RawConnection

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.net.libp2p.circuit import CircuitSocket

log = structlog.get_logger(__name__)
MAX_INBOUND: Final = limits.MAX_CONNECTIONS - limits.RESERVED_OUTBOUND


class InboundGuard:
    def __init__(self, swarm: Any, *, max_per_ip: int, banned: Callable[[PeerId], bool]) -> None:
        self._swarm = swarm
        self._max_per_ip = max_per_ip
        self._banned = banned
        self._established: Counter[str] = Counter()
        self._handshakes: dict[int, trio.CancelScope] = {}  # in order of arrival
        self._serial = 0
        self.refused = 0

    async def handle(self, socket: Any, listener: Any) -> None:
        """The life of one inbound connection, from accept to its end."""
        remote = socket.get_remote_address()
        ip = remote[0] if remote else getattr(socket, "via", "?")
        try:
            if self._is_full_for(ip):
                return
            connection = await self._handshake(socket, listener)
            if connection is None:
                return
            if self._is_full_for(ip):  # by those whose handshakes ran beside this one
                await connection.close()
                return
            self._established[ip] += 1
            try:
                if self._banned(PeerId(str(connection.peer_id))):
                    log.info("banned peer refused", peer=str(connection.peer_id))
                    await connection.close()
                await connection.event_closed.wait()
            finally:
                self._established[ip] -= 1
                if not self._established[ip]:
                    del self._established[ip]
        finally:
            with trio.move_on_after(limits.STREAM_CLOSE_TIMEOUT_S, shield=True):
                await socket.close()

    def _is_full_for(self, ip: str) -> bool:
        if self._established[ip] < self._max_per_ip and self._established.total() < MAX_INBOUND:
            return False
        self.refused += 1
        log.info("connection refused", ip=ip, connections=self._established[ip], limit=self._max_per_ip)
        return True

    async def _handshake(self, socket: Any, listener: Any) -> Any | None:
        self._serial += 1
        serial = self._serial
        with trio.move_on_after(limits.HANDSHAKE_TIMEOUT_S) as scope:
            self._handshakes[serial] = scope
            if len(self._handshakes) > limits.MAX_HANDSHAKES:
                next(iter(self._handshakes.values())).cancel()
            try:
                raw = socket.raw(False) if isinstance(socket, CircuitSocket) else RawConnection(socket, False)
                return await self._swarm.upgrade_inbound_raw_conn(raw, listener)
            except Exception as exc:  # noqa: BLE001 - garbage makes libp2p raise anything; it costs that socket only
                log.debug("inbound handshake failed", error=repr(exc))
            finally:
                del self._handshakes[serial]
        self.refused += 1
        return None
