"""Getting a connection to a peer: its direct addresses beside each other, then relays. Replaces ``Swarm.dial_peer``.

libp2p's own tries one TCP address per peer (a node has its LAN's address, a public one, perhaps IPv6), and no relays.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
import trio
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.net.libp2p.addresses import Via, dial_plan, libp2p_id
from golemp2p.net.libp2p.pnet import protect

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork

log = structlog.get_logger(__name__)
Attempt = Callable[[], Awaitable[Any]]


class Dialer:
    def __init__(self, network: Libp2pNetwork, swarm: Any) -> None:
        self._network, self._swarm = network, swarm
        self._dialling: dict[PeerId, trio.Event] = {}

    async def dial_peer(self, peer_id: ID) -> list[Any]:
        """Connections to ``peer_id``, made if there were none. Raises SwarmException (what libp2p expects here)."""
        peer = PeerId(str(peer_id))
        while True:
            connections = self._network.connections(peer)
            if connections:
                return connections
            if self._swarm._negative_peer_cache.is_blocked(str(peer_id)):
                raise SwarmException(f"peer {peer} was not reached a moment ago")
            if peer not in self._dialling:
                break
            await self._dialling[peer].wait()
        self._dialling[peer] = done = trio.Event()
        try:
            connection = await self._dial(peer)
        except SwarmException:
            self._swarm._negative_peer_cache.mark_failed(str(peer_id))
            raise
        else:
            self._swarm._negative_peer_cache.evict(str(peer_id))
            return [connection]
        finally:
            del self._dialling[peer]
            done.set()

    async def _dial(self, peer: PeerId) -> Any:
        direct, through = dial_plan(self._network.known_addresses(peer), own=self._network.peer_id, target=peer)
        told = {via.relay for via in through}
        known = [Via(relay, None) for relay in self._network.reach.relays() if relay not in told | {peer}]
        through = [*through, *known][: limits.DIAL_RELAYS_TRIED]
        attempts: list[tuple[float, Attempt]] = [
            (limits.DIAL_STAGGER_S, partial(self._direct, peer, address)) for address in direct
        ]
        if attempts:
            attempts[-1] = (limits.DIAL_RELAY_DELAY_S, attempts[-1][1])
        attempts += [(limits.DIAL_STAGGER_S, partial(self._through, peer, via)) for via in through]
        if not attempts:
            raise SwarmException(f"no address of peer {peer} is known")
        return await _first(attempts, peer)

    async def _direct(self, peer: PeerId, address: Multiaddr) -> Any:
        return await self._swarm.dial_addr(address, libp2p_id(peer))

    async def _through(self, peer: PeerId, via: Via) -> Any:
        if not self._network.connections(via.relay):
            if via.address is None:
                raise SwarmException(f"relay {via.relay} is gone")
            # The address is what a third party says of the relay: used once, not stored as the relay's.
            await self._direct(via.relay, via.address)
        socket = await self._network.circuits.open(via.relay, peer)
        raw = socket.raw(True)
        if self._swarm.psk is not None:  # the other end's swarm takes it for granted
            raw = protect(raw, self._swarm.psk)
        try:
            return await self._swarm.upgrade_outbound_raw_conn(raw, libp2p_id(peer))
        except BaseException:
            with trio.move_on_after(limits.STREAM_CLOSE_TIMEOUT_S, shield=True):
                await socket.close()
            raise


async def _first(attempts: Iterable[tuple[float, Attempt]], peer: PeerId) -> Any:
    """The first connection. Each attempt is given its time before the next one starts, unless all so far failed."""
    found: list[Any] = []
    failures: list[str] = []
    running = 0
    failed = trio.Event()

    async def run(attempt: Attempt) -> None:
        nonlocal running
        try:
            connection = await attempt()
        except Exception as exc:  # noqa: BLE001 - libp2p raises several unrelated families here
            failures.append(str(exc) or repr(exc))
            running -= 1
            if not running:
                failed.set()
        else:
            if found:
                await connection.close()
            else:
                found.append(connection)
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for pause_s, attempt in attempts:
            running += 1
            failed = trio.Event()
            nursery.start_soon(run, attempt)
            with trio.move_on_after(pause_s):
                await failed.wait()
    if found:
        return found[0]
    log.debug("peer not reached", peer=peer, failures=failures)
    raise SwarmException("; ".join(failures[-3:]))
