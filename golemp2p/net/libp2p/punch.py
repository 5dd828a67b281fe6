"""Hole punching: two nodes behind NAT that met through a relay dial each other at the same moment (DCUtR)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
import trio
from libp2p.network.exceptions import SwarmException
from multiaddr import Multiaddr

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError, RemoteProtocolError
from golemp2p.net.libp2p.addresses import dial_plan, host_of, is_local, libp2p_id
from golemp2p.net.libp2p.circuit import is_direct, is_relayed
from golemp2p.net.libp2p.circuit_wire import DCUTR, PunchMessage, PunchType, read_message, send_message
from golemp2p.net.port import ByteStream, Reach
from golemp2p.net.ratelimit import RateLimit

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork
    from golemp2p.net.libp2p.reach import ReachKeeper

log = structlog.get_logger(__name__)


class Puncher:
    def __init__(self, network: Libp2pNetwork, swarm: Any, keeper: ReachKeeper) -> None:
        self._network, self._swarm, self._keeper = network, swarm, keeper
        self._under_way: set[PeerId] = set()
        self._rate = RateLimit(limits.PUNCH_PER_S, limits.PUNCH_BURST)

    def serve(self) -> None:
        self._network.set_stream_handler(DCUTR, self._on_request)

    def own_addresses(self) -> list[Multiaddr]:
        """Where our NAT shows our listening port, if it keeps ports; else nothing: a guess would be of no use."""
        found = {
            f"/ip4/{seen.ip}/tcp/{port}"
            for seen in self._keeper.seen
            for port in self._keeper.ports()
            if ":" not in seen.ip and not is_local(seen.ip) and seen.port == seen.own_port
        }
        return [Multiaddr(text) for text in sorted(found)][: limits.PUNCH_MAX_ADDRESSES]

    async def initiate(self, peer: PeerId) -> None:
        """``peer`` came to us through a relay. Never raises what a peer or the network can cause."""
        if peer in self._under_way or not self._rate.allow(peer, trio.current_time()):
            return
        self._under_way.add(peer)
        try:
            await self._initiate(peer)
        except (GolemError, trio.TooSlowError) as exc:
            log.info("no direct connection", peer=peer, error=str(exc))
        finally:
            self._under_way.discard(peer)

    async def _initiate(self, peer: PeerId) -> None:
        direct, _ = dial_plan(self._network.known_addresses(peer), own=self._network.peer_id, target=peer)
        for address in [a for a in direct if not is_local(host_of(str(a)))]:
            if await self._dial(peer, [address], responder=False, source=None):  # only we are behind NAT
                return
        if self._keeper.verdict.reach is Reach.PUBLIC:
            return  # then it could have dialled us
        for _ in range(limits.PUNCH_TRIES):
            own = self.own_addresses()
            if not own:
                log.debug("no hole punching: our NAT changes ports, or is not known yet", peer=peer)
                return
            stream = await self._network.open_stream(peer, DCUTR)
            try:
                with trio.fail_after(limits.RELAY_HANDSHAKE_S):
                    started = trio.current_time()
                    await send_message(stream, PunchMessage(PunchType.CONNECT, tuple(a.to_bytes() for a in own)))
                    answer = PunchMessage.decode(await read_message(stream))
                    round_trip_s = trio.current_time() - started
                    if answer.type is not PunchType.CONNECT:
                        raise RemoteProtocolError(f"{peer} answered hole punching with a {answer.type.name}")
                    await send_message(stream, PunchMessage(PunchType.SYNC))
                theirs = _public(answer.addresses)
                if not theirs:
                    return
                await trio.sleep(round_trip_s / 2)
                if await self._dial(peer, theirs, responder=True, source=self._source()):
                    return
            finally:
                await stream.aclose()

    async def _on_request(self, stream: ByteStream) -> None:
        if is_direct(stream):
            raise RemoteProtocolError("hole punching over a direct connection")
        if not self._rate.allow(stream.peer, trio.current_time()):
            raise RemoteProtocolError("too much hole punching")
        with trio.fail_after(limits.RELAY_HANDSHAKE_S):
            request = PunchMessage.decode(await read_message(stream))
            if request.type is not PunchType.CONNECT:
                raise RemoteProtocolError(f"hole punching begins with a {request.type.name}")
            own = tuple(a.to_bytes() for a in self.own_addresses())
            await send_message(stream, PunchMessage(PunchType.CONNECT, own))
            sync = PunchMessage.decode(await read_message(stream))
            if sync.type is not PunchType.SYNC:
                raise RemoteProtocolError(f"hole punching goes on with a {sync.type.name}")
        theirs = _public(request.addresses)
        if theirs and own:
            await self._dial(stream.peer, theirs, responder=False, source=self._source())

    def _source(self) -> tuple[str, int] | None:
        ports = self._keeper.ports()
        return ("0.0.0.0", ports[-1]) if ports else None  # noqa: S104 - the address to dial from, not to listen on

    async def _dial(
        self, peer: PeerId, addresses: list[Multiaddr], *, responder: bool, source: tuple[str, int] | None
    ) -> bool:
        """``responder``: our side of Noise, fixed by the specification, as both may find themselves dialling."""
        dial = self._swarm.dial_addr_as_responder if responder else self._swarm.dial_addr
        with trio.move_on_after(limits.PUNCH_DIAL_S):
            while not self._direct(peer):
                for address in addresses:
                    try:
                        await dial(address, libp2p_id(peer), source)
                    except (SwarmException, OSError) as exc:
                        log.debug("punching", peer=peer, address=str(address), error=str(exc))
                await trio.sleep(0.1)
        if self._direct(peer):
            log.info("direct connection", peer=peer)
            return True
        return False

    def _direct(self, peer: PeerId) -> bool:
        return any(not is_relayed(connection) for connection in self._network.connections(peer))


def _public(raw: tuple[bytes, ...]) -> list[Multiaddr]:
    """What may be dialled: never an address of a LAN, where a stranger could point us at anything."""
    found = []
    for one in raw[: limits.PUNCH_MAX_ADDRESSES]:
        try:
            text = str(Multiaddr(one))
        except (ValueError, KeyError):
            continue
        parts = text.split("/")
        if len(parts) == 5 and parts[1] in ("ip4", "ip6") and parts[3] == "tcp" and not is_local(parts[2]):
            found.append(Multiaddr(text))
    return found
