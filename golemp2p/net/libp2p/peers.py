"""Keeping peers: who they are (neighbours.py), keepalive pings (libp2p notices no frozen peer), faults and bans."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import DeadlineError, GolemError, NetworkError
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p.neighbours import Neighbours
from golemp2p.net.port import ByteStream
from golemp2p.net.scoring import PeerScores

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork

log = structlog.get_logger(__name__)
PING_PROTOCOL: Final = "/ipfs/ping/1.0.0"
PING_BYTES: Final = 32


class PeerKeeper:
    def __init__(self, network: Libp2pNetwork, config: NetConfig) -> None:
        self._network, self._config = network, config
        self._watches: dict[PeerId, trio.CancelScope] = {}
        self._scores = PeerScores()
        self.neighbours = Neighbours(network, config)
        self._nursery: trio.Nursery | None = None
        self._ended = trio.Event()
        self._running = trio.CancelScope()
        self.round_trip_s: dict[PeerId, float] = {}

    # --- connections ------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Keep neighbours until :meth:`stop`."""
        try:
            with self._running:
                async with trio.open_nursery() as self._nursery:
                    await self.neighbours.run()
        finally:
            self._nursery = None
            self._ended.set()

    async def stop(self) -> None:
        """No more dialling: a connection made while the host closes would stay open for ever."""
        await self.neighbours.remember()
        self._running.cancel()
        for scope in list(self._watches.values()):
            scope.cancel()
        await self._ended.wait()

    # --- keepalive --------------------------------------------------------------------------------------------------
    def watch(self, peer: PeerId, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._keepalive, peer)

    def forget(self, peer: PeerId) -> None:
        self.round_trip_s.pop(peer, None)
        scope = self._watches.pop(peer, None)
        if scope is not None:
            scope.cancel()

    async def _keepalive(self, peer: PeerId) -> None:
        with trio.CancelScope() as scope:
            previous = self._watches.get(peer)
            if previous is not None:
                previous.cancel()
            self._watches[peer] = scope
            if self._network._dht is not None:
                with trio.move_on_after(limits.DHT_TIMEOUT_S):
                    await self._network._dht.add_peer(peer)
            stream: ByteStream | None = None
            failures = 0
            try:
                while True:
                    try:
                        with trio.fail_after(self._config.keepalive_timeout_s):
                            stream = stream or await self._network.open_stream(peer, PING_PROTOCOL)
                            self.round_trip_s[peer] = await self._ping(stream)
                        failures = 0
                    except (trio.TooSlowError, GolemError) as exc:
                        failures += 1
                        if failures == 1 and isinstance(exc, NetworkError) and not isinstance(exc, DeadlineError):
                            if stream is not None:
                                await stream.reset()  # perhaps its connection was replaced by a new one
                            stream = None
                            continue
                        log.info("keepalive failed", peer=peer, error=str(exc))
                        if not await self._network.drop_one_of_several(peer, stream):
                            await self._network.drop(peer)
                            return
                        stream, failures = None, 0
                        continue
                    await trio.sleep(self._config.keepalive_interval_s)
            finally:
                if stream is not None:
                    await stream.reset()
                if self._watches.get(peer) is scope:
                    del self._watches[peer]

    @staticmethod
    async def _ping(stream: ByteStream) -> float:
        started, payload, answer = trio.current_time(), secrets.token_bytes(PING_BYTES), b""
        await stream.write(payload)
        while len(answer) < PING_BYTES:
            piece = await stream.read(PING_BYTES - len(answer))
            if not piece:
                raise NetworkError(f"{stream.peer} closed the ping stream")
            answer += piece
        if answer != payload:
            raise NetworkError(f"{stream.peer} answered the ping wrongly")
        return trio.current_time() - started

    # --- faults -----------------------------------------------------------------------------------------------------
    def blame(self, peer: PeerId) -> None:
        """A broken rule; some in a row cost the connection for a while."""
        duration_s = self._scores.blame(peer, trio.current_time())
        if duration_s and self._nursery is not None:
            self._nursery.start_soon(self._network.ban, peer, duration_s)

    def graylisted(self, peer: PeerId) -> bool:
        return self._scores.graylisted(peer, trio.current_time())
