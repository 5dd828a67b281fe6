"""``/golemp2p/dialback/1``: can others open connections to me? (protocols/relay.md)

The asker names TCP ports. The peer that is asked answers with the address that it sees the asker at, then tries those
ports at that address only, by new connections, until the asker's Noise handshake proved that it is the asker; then it
tells which ports answered. So nobody can be made to knock at an address that is not the asker's own.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgpack
import structlog
import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import NetworkError, RemoteProtocolError
from golemp2p.net.libp2p.addresses import libp2p_id
from golemp2p.net.libp2p.pnet import protect
from golemp2p.net.libp2p.streams import Libp2pStream
from golemp2p.net.port import ByteStream
from golemp2p.net.ratelimit import RateLimit

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork

log = structlog.get_logger(__name__)
PROTOCOL: Final = "/golemp2p/dialback/1"
_MAX_MESSAGE_BYTES: Final = 1_024


@dataclass(frozen=True)
class Seen:
    """What a peer says: where it sees us, and the ports that it reached us at. ``own_port``: of our end."""

    by: PeerId
    ip: str
    port: int
    own_port: int
    reached: tuple[int, ...]


class Dialback:
    def __init__(self, network: Libp2pNetwork, swarm: Any) -> None:
        self._network, self._swarm = network, swarm
        self._rate = RateLimit(limits.DIALBACK_PER_S, limits.DIALBACK_BURST)
        self._at_once = trio.CapacityLimiter(limits.DIALBACK_AT_ONCE)

    def serve(self) -> None:
        self._network.set_stream_handler(PROTOCOL, self._on_request)

    async def ask(self, peer: PeerId, ports: list[int]) -> Seen:
        """Raises NetworkError, RemoteProtocolError."""
        stream = await self._network.open_stream(peer, PROTOCOL)
        try:
            with trio.move_on_after(2 * limits.DIALBACK_TIMEOUT_S) as scope:
                await _send(stream, {"ports": ports[: limits.DIALBACK_MAX_PORTS]})
                seen = await _receive(stream)
                ip, port = _ip(_value(seen, "ip", str)), _value(seen, "port", int)
                reached = _value(await _receive(stream), "reached", list)
            if scope.cancelled_caught:
                raise NetworkError(f"{peer} did not say in time whether it reaches us")
        finally:
            await stream.aclose()
        own = stream.own_port if isinstance(stream, Libp2pStream) else 0
        return Seen(peer, ip, port, own, tuple(p for p in ports if p in reached))

    async def _on_request(self, stream: ByteStream) -> None:
        with trio.fail_after(limits.DIALBACK_TIMEOUT_S):
            request = await _receive(stream)
            ports = [p for p in _value(request, "ports", list) if isinstance(p, int) and 0 < p < 65_536]
            address = stream.remote_address if isinstance(stream, Libp2pStream) else None
            if address is None:
                raise RemoteProtocolError("a dial-back was asked for through a relay: there is no address to dial")
            await _send(stream, {"ip": address[0], "port": address[1]})
        reached: list[int] = []
        if self._rate.allow(stream.peer, trio.current_time()):
            for port in dict.fromkeys(ports[: limits.DIALBACK_MAX_PORTS]):
                async with self._at_once:
                    if await self._reaches(stream.peer, address[0], port):
                        reached.append(port)
        await _send(stream, {"reached": reached})

    async def _reaches(self, peer: PeerId, ip: str, port: int) -> bool:
        """Whether ``peer`` itself answers there."""
        with trio.move_on_after(limits.DIALBACK_TIMEOUT_S / limits.DIALBACK_MAX_PORTS):
            try:
                tcp = await trio.open_tcp_stream(ip, port)
            except OSError as exc:
                log.debug("dial-back refused", peer=peer, port=port, error=str(exc))
                return False
            async with tcp:
                raw: Any = RawConnection(TrioTCPStream(tcp), True)
                if self._swarm.psk is not None:
                    raw = protect(raw, self._swarm.psk)
                try:
                    await self._swarm.upgrader.upgrade_security(raw, True, libp2p_id(peer))
                except Exception as exc:  # noqa: BLE001 - libp2p raises anything here: somebody else lives there
                    log.debug("dial-back answered by another", peer=peer, port=port, error=repr(exc))
                    return False
                return True
        return False


async def _send(stream: ByteStream, content: dict[str, Any]) -> None:
    packed = msgpack.packb(content)
    await stream.write(len(packed).to_bytes(2, "big") + packed)


async def _receive(stream: ByteStream) -> dict[str, Any]:
    size = int.from_bytes(await _exactly(stream, 2), "big")
    if size > _MAX_MESSAGE_BYTES:
        raise RemoteProtocolError(f"a dial-back message of {size} bytes, at most {_MAX_MESSAGE_BYTES} may be")
    try:
        found = msgpack.unpackb(await _exactly(stream, size))
    except (ValueError, msgpack.UnpackException) as exc:
        raise RemoteProtocolError(f"a dial-back message is no msgpack: {exc}") from exc
    if not isinstance(found, dict):
        raise RemoteProtocolError("a dial-back message is no map")
    return found


async def _exactly(stream: ByteStream, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = await stream.read(size - len(found))
        if not piece:
            raise RemoteProtocolError("a dial-back message is cut short")
        found += piece
    return found


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as exc:
        raise RemoteProtocolError("a dial-back message names no IP address") from exc


def _value(content: dict[str, Any], name: str, kind: type) -> Any:
    value = content.get(name)
    if not isinstance(value, kind):
        raise RemoteProtocolError(f"a dial-back message has no {name}")
    return value


__all__ = ["PROTOCOL", "Dialback", "Seen"]
