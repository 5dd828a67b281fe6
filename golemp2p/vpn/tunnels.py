"""Tunnel streams that peers open to us: packets of a network, or a connection to a port of an activity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Address
from typing import Any

import pydantic
import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.core.vpn import parse_ip
from golemp2p.errors import DeadlineError, GolemError, NetworkError, NotFoundError, PolicyError, RemoteProtocolError
from golemp2p.net.datawire import Wire, encode_header
from golemp2p.net.port import ByteStream
from golemp2p.runtimes.link import Pace
from golemp2p.vpn.segment import NetworkKey, Segment
from golemp2p.vpn.splice import splice
from golemp2p.vpn.trunk import LENGTH_BYTES
from golemp2p.wire.p2p.vpn import ConnectHeader, PacketsHeader

log = structlog.get_logger(__name__)

Connect = Callable[[NetworkKey, IPv4Address, int], Awaitable[trio.abc.HalfCloseableStream]]
"""To a port of an activity here. Raises NotFoundError, RuntimeFailureError."""


class Tunnels:
    """``segments`` are the networks that this node is in now; ``connect`` reaches the activities here."""

    def __init__(self, segments: Mapping[NetworkKey, Segment], connect: Connect) -> None:
        self._segments = segments
        self._connect = connect
        self._packets: Counter[PeerId] = Counter()
        self._paces: dict[PeerId, Pace] = {}  # of those that are counted
        self._connections: Counter[PeerId] = Counter()

    async def handle(self, stream: ByteStream) -> None:
        """One stream, from its header to its end. What it raises resets the stream."""
        wire = Wire(stream)
        try:
            with trio.fail_after(limits.VPN_OPEN_S):
                header = await wire.header()
            match header:
                case [{"mode": "packets"}]:
                    await self._take_packets(stream, PacketsHeader.model_validate(header[0]))
                case [{"mode": "connect"}]:
                    await self._connect_to(stream, ConnectHeader.model_validate(header[0]))
                case _:
                    raise RemoteProtocolError("a tunnel is neither for packets nor a connection")
        except trio.TooSlowError:
            raise DeadlineError(f"{stream.peer} did not say in time what its tunnel is for") from None
        except pydantic.ValidationError:
            await _refuse(stream, RemoteProtocolError("the header of the tunnel is malformed"))
        except NetworkError:
            raise
        except GolemError as exc:
            log.info("tunnel_refused", peer=stream.peer, error=str(exc))
            await _refuse(stream, exc)

    async def _take_packets(self, stream: ByteStream, header: PacketsHeader) -> None:
        peer = stream.peer
        key = NetworkKey(PeerId(header.owner), header.network)
        segment = self._segments.get(key)
        if segment is None or not segment.may_enter(peer):
            raise NotFoundError(f"there is no network {header.network} here")  # not even that it exists
        with _counted(self._packets, peer, limits.VPN_PEER_TUNNELS, "tunnels"):
            await stream.write(encode_header(["ok"]))
            cutter, pace = PacketCutter(), self._pace_of(peer)
            while data := await _read(stream):
                if self._segments.get(key) is not segment or not segment.may_enter(peer):
                    return  # which tells the peer to ask again
                packets = cutter.feed(data)
                for packet in packets:
                    segment.from_peer(peer, packet)
                await pace.spend(len(packets))

    def _pace_of(self, peer: PeerId) -> Pace:
        """One for all tunnels of a peer."""
        for gone in self._paces.keys() - self._packets.keys():
            del self._paces[gone]
        return self._paces.setdefault(peer, Pace())

    async def _connect_to(self, stream: ByteStream, header: ConnectHeader) -> None:
        key = NetworkKey(stream.peer, header.network)  # so nobody but the owner
        with _counted(self._connections, stream.peer, limits.VPN_PEER_CONNECTIONS, "connections"):
            with trio.move_on_after(limits.VPN_CONNECT_S) as scope:
                inner = await self._connect(key, parse_ip(header.ip), header.port)
            if scope.cancelled_caught:
                raise DeadlineError(f"{header.ip} did not take the connection within {limits.VPN_CONNECT_S:g} s")
            try:
                await stream.write(encode_header(["ok"]))
                await splice(stream, inner)
            finally:
                await trio.aclose_forcefully(inner)


async def _read(stream: ByteStream) -> bytes:
    """What comes next; nothing when the peer should have closed an idle tunnel long ago."""
    with trio.move_on_after(2 * limits.VPN_TUNNEL_IDLE_S):
        return await stream.read(limits.VPN_READ_BYTES)
    return b""


class PacketCutter:
    """Bytes to packets. Holds less than one packet. Raises RemoteProtocolError."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        data = self._rest + data if self._rest else data
        packets, at, end = [], 0, len(data)
        while end - at >= LENGTH_BYTES:
            size = int.from_bytes(data[at : at + LENGTH_BYTES], "big")
            if not 0 < size <= limits.VPN_MTU_BYTES:
                raise RemoteProtocolError(f"a packet of {size} bytes", hint=f"at most {limits.VPN_MTU_BYTES}")
            if end - at - LENGTH_BYTES < size:
                break
            packets.append(data[at + LENGTH_BYTES : at + LENGTH_BYTES + size])
            at += LENGTH_BYTES + size
        self._rest = data[at:]
        return packets


class _counted:  # noqa: N801 - used as a statement
    """One more of ``peer``'s while inside. Raises PolicyError beyond ``most``."""

    def __init__(self, counter: Counter[PeerId], peer: PeerId, most: int, what: str) -> None:
        self._counter, self._peer, self._most, self._what = counter, peer, most, what

    def __enter__(self) -> None:
        if self._counter[self._peer] >= self._most:
            raise PolicyError(f"more than {self._most} {self._what} at a time")
        self._counter[self._peer] += 1

    def __exit__(self, *_: Any) -> None:
        self._counter[self._peer] -= 1
        if not self._counter[self._peer]:
            del self._counter[self._peer]


async def _refuse(stream: ByteStream, error: GolemError) -> None:
    """Say no; the peer closes when it has read it."""
    with trio.move_on_after(limits.STREAM_CLOSE_TIMEOUT_S):
        await stream.write(encode_header(["error", error.code, error.message[:1000], error.hint[:500]]))
        await stream.close_write()
        await stream.read(1)
