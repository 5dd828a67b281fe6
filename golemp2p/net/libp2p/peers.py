"""Keeping peers: bootstrap with back-off, a minimum of connections, keepalive pings, faults and bans.

Gossipsub does not redial, and libp2p does not notice a frozen peer: both are done here.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import DeadlineError, GolemError, NetworkError
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p.dnsaddr import is_dnsaddr, resolve_dnsaddr
from golemp2p.net.port import ByteStream

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork

log = structlog.get_logger(__name__)
PING_PROTOCOL: Final = "/ipfs/ping/1.0.0"
PING_BYTES: Final = 32


class PeerKeeper:
    def __init__(self, network: Libp2pNetwork, config: NetConfig) -> None:
        self._network, self._config = network, config
        self._watches: dict[PeerId, trio.CancelScope] = {}
        self._unreached: set[str] = set()  # bootstrap addresses that we complained about
        self._faults: Counter[PeerId] = Counter()
        self._nursery: trio.Nursery | None = None
        self._ended = trio.Event()
        self._running = trio.CancelScope()
        self.dismissed_until: dict[PeerId, float] = {}  # we closed it on purpose; the keeper leaves it alone
        self.round_trip_s: dict[PeerId, float] = {}

    # --- connections ------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Dial until there are enough peers, then look again at the keepalive's pace."""
        delay_s = limits.BOOTSTRAP_RETRY_MIN_S
        try:
            with self._running:
                async with trio.open_nursery() as self._nursery:
                    while True:
                        missing = await self._dial_round()
                        delay_s = (
                            min(delay_s * 2, limits.BOOTSTRAP_RETRY_MAX_S) if missing else limits.BOOTSTRAP_RETRY_MIN_S
                        )
                        await trio.sleep((delay_s if missing else 2.0) * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        finally:
            self._nursery = None
            self._ended.set()

    async def stop(self) -> None:
        """No more dialling: a connection made while the host closes would stay open for ever."""
        self._running.cancel()
        for scope in list(self._watches.values()):
            scope.cancel()
        await self._ended.wait()

    async def _dial_round(self) -> bool:
        """One attempt at every bootstrap peer when there are too few peers. True when some did not answer."""
        if sum(1 for peer in self._network.peers() if peer.connected) >= self._config.min_peers:
            return False
        known = [a for p in self._network.peers() if not p.connected for a in p.addresses[:1]]
        random.shuffle(known)
        now = trio.current_time()
        self.dismissed_until = {peer: until for peer, until in self.dismissed_until.items() if until > now}
        failed: list[str] = []
        bootstrap = await self._bootstrap(failed)
        targets = list(dict.fromkeys([*bootstrap, *known[: self._config.min_peers]]))
        targets = [a for a in targets if a.rpartition("/p2p/")[2] not in self.dismissed_until]

        async def dial(address: str) -> None:
            try:
                await self._network.connect(address)
            except GolemError as exc:
                if address in bootstrap and self._network.peer_id not in address:
                    self._complain(address, exc)
                    failed.append(address)
            else:
                self._unreached.discard(address)

        async with trio.open_nursery() as nursery:
            for address in targets:
                nursery.start_soon(dial, address)
        return bool(failed)

    async def _bootstrap(self, failed: list[str]) -> list[str]:
        """The bootstrap addresses, with those that DNS has for each name; names without an answer go to ``failed``."""
        addresses: list[str] = []
        for address in self._config.bootstrap:
            if not is_dnsaddr(address):
                addresses.append(address)
                continue
            try:
                addresses += await resolve_dnsaddr(address)
            except NetworkError as exc:
                self._complain(address, exc)
                failed.append(address)
            else:
                self._unreached.discard(address)
        return addresses

    def _complain(self, address: str, error: GolemError) -> None:
        level = "debug" if address in self._unreached else "warning"  # once, until it was reached again
        self._unreached.add(address)
        getattr(log, level)("bootstrap peer not reached", address=address, error=str(error))

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
        """Count a broken rule; the third costs the connection for a minute."""
        self._faults[peer] += 1
        if self._faults[peer] >= limits.PEER_FAULTS_TO_BAN and self._nursery is not None:
            del self._faults[peer]
            self._nursery.start_soon(self._network.ban, peer, limits.PEER_BAN_S)
