"""Connections through relays: circuit relay v2 as a client and as a relay.

A circuit is a stream that a relay joins to another stream. Both ends run Noise and Yamux over it as over a TCP
connection, so the relay reads nothing and can pretend to be nobody. Why it is not libp2p's own: protocols/relay.md.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import ConnectionType, RawConnection
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError, NetworkError, RemoteError, RemoteProtocolError
from golemp2p.net.libp2p.addresses import libp2p_id
from golemp2p.net.libp2p.circuit_wire import (
    HOP,
    STOP,
    HopMessage,
    HopType,
    Status,
    StopMessage,
    StopType,
    read_message,
    send_message,
)
from golemp2p.net.libp2p.streams import Libp2pStream
from golemp2p.net.port import ByteStream
from golemp2p.net.ratelimit import RateLimit

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork

log = structlog.get_logger(__name__)
_PIECE_BYTES: Final = 64 * 1024
_LIMIT: Final = (limits.RELAY_CIRCUIT_S, limits.RELAY_CIRCUIT_BYTES)  # of a circuit, as both ends are told it


class CircuitSocket(ReadWriteCloser):  # type: ignore[misc] # libp2p is not typed for us
    """A circuit's stream in the place of a TCP socket. ``via``: the relay, for who counts connections."""

    def __init__(self, stream: ByteStream, relay: PeerId) -> None:
        self._stream = stream
        self.via = f"relay {relay}"
        self._relay = relay
        self._buffer = memoryview(b"")

    async def read(self, n: int | None = None) -> bytes:
        # Noise reads two bytes, then the rest: one large read serves many of them.
        if not self._buffer:
            try:
                self._buffer = memoryview(await self._stream.read(limits.TCP_READ_BUFFER_BYTES))
            except NetworkError as exc:
                raise ConnectionClosedError(str(exc), transport="circuit") from exc
        end = len(self._buffer) if n is None or n < 0 else n
        piece, self._buffer = bytes(self._buffer[:end]), self._buffer[end:]
        return piece

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except NetworkError as exc:
            raise ConnectionClosedError(str(exc), transport="circuit") from exc

    async def close(self) -> None:
        await self._stream.aclose()

    def get_remote_address(self) -> None:
        """None: the other end's address is not known, and the relay's is not its."""

    def raw(self, initiator: bool) -> RawConnection:
        """What Noise and Yamux run over."""
        address = Multiaddr(f"/p2p/{self._relay}/p2p-circuit")
        return RawConnection(self, initiator, ConnectionType.RELAYED, [address])


@dataclass(frozen=True)
class Reservation:
    """``addresses``: of the relay, as it names them."""

    relay: PeerId
    expire_s: float  # unix time
    addresses: tuple[str, ...]


def is_relayed(connection: Any) -> bool:
    """Of a libp2p connection."""
    return bool(connection.get_connection_type() == ConnectionType.RELAYED)


def is_direct(stream: ByteStream) -> bool:
    """Whether ``stream`` runs over a direct connection."""
    return isinstance(stream, Libp2pStream) and not stream.relayed


class Circuits:
    """Of one node: what it asks of relays, and what it takes from them."""

    def __init__(self, network: Libp2pNetwork) -> None:
        self._network = network
        self.reservations: dict[PeerId, Reservation] = {}

    def serve(self) -> None:
        self._network.set_stream_handler(STOP, self._on_stop)

    async def reserve(self, relay: PeerId) -> Reservation:
        """Let ``relay`` bring us connections, or renew that. Raises NetworkError, RemoteError, RemoteProtocolError."""
        answer = await self._ask(relay, HopMessage(HopType.RESERVE), keep=False)
        if not answer[0].expire_s:
            raise RemoteProtocolError(f"relay {relay} made a reservation without an end")
        expire_s = min(answer[0].expire_s, time.time() + limits.RELAY_RESERVATION_S)
        found = Reservation(relay, expire_s, _texts(answer[0].addresses))
        self.reservations[relay] = found
        return found

    async def open(self, relay: PeerId, target: PeerId) -> CircuitSocket:
        """A circuit to ``target``. Raises NetworkError, RemoteError (the relay refused), RemoteProtocolError."""
        message = HopMessage(HopType.CONNECT, peer=libp2p_id(target).to_bytes())
        _, stream = await self._ask(relay, message, keep=True)
        return CircuitSocket(stream, relay)

    async def _ask(self, relay: PeerId, message: HopMessage, *, keep: bool) -> tuple[HopMessage, ByteStream]:
        stream = await self._network.open_stream(relay, HOP)
        done = False
        try:
            with trio.move_on_after(limits.RELAY_HANDSHAKE_S) as scope:
                await send_message(stream, message)
                answer = HopMessage.decode(await read_message(stream))
            if scope.cancelled_caught:
                raise NetworkError(f"relay {relay} did not answer within {limits.RELAY_HANDSHAKE_S:.0f} s")
            if answer.type is not HopType.STATUS:
                raise RemoteProtocolError(f"relay {relay} answered with a {answer.type.name}")
            if answer.status != Status.OK:
                raise RemoteError(f"relay {relay} refused: {status_name(answer.status)}", code="relay_refused")
            done = keep
            return answer, stream
        finally:
            if not done:
                await stream.aclose()

    async def _on_stop(self, stream: ByteStream) -> None:
        """A relay brings a connection; this runs until that ends."""
        with trio.fail_after(limits.RELAY_HANDSHAKE_S):
            message = StopMessage.decode(await read_message(stream))
            refusal = self._refusal(stream, message)
            answer = StopMessage(StopType.STATUS, status=refusal or Status.OK)
            await send_message(stream, answer)
        if refusal is None:
            await self._network.guard.handle(CircuitSocket(stream, stream.peer), None)

    def _refusal(self, stream: ByteStream, message: StopMessage) -> Status | None:
        if message.type is not StopType.CONNECT:
            return Status.UNEXPECTED_MESSAGE
        if not is_direct(stream) or stream.peer not in self.reservations:
            return Status.PERMISSION_DENIED  # nobody is asked to bring us connections but relays of our choice
        return None


class RelayService:
    """A relay for others."""

    def __init__(self, network: Libp2pNetwork) -> None:
        self._network = network
        self._expire_s: dict[PeerId, float] = {}
        self._circuits: Counter[PeerId] = Counter()
        self._open = 0
        self._rate = RateLimit(limits.RELAY_REQUESTS_PER_S, limits.RELAY_REQUESTS_BURST)
        network.add_peer_listener(self._on_peer)

    def serve(self) -> None:
        self._network.set_stream_handler(HOP, self._on_hop)

    def reserved_by(self) -> frozenset[PeerId]:
        return frozenset(self._expire_s)

    def _on_peer(self, peer: PeerId, connected: bool) -> None:
        if not connected:
            self._expire_s.pop(peer, None)  # who is not connected cannot be reached through us

    async def _on_hop(self, stream: ByteStream) -> None:
        with trio.fail_after(limits.RELAY_HANDSHAKE_S):
            try:
                message = HopMessage.decode(await read_message(stream))
            except RemoteProtocolError:
                await _answer(stream, Status.MALFORMED_MESSAGE)
                raise
        if not is_direct(stream):  # no circuits over circuits
            await _answer(stream, Status.PERMISSION_DENIED)
        elif not self._rate.allow(stream.peer, trio.current_time()):
            await _answer(stream, Status.RESOURCE_LIMIT_EXCEEDED)
        elif message.type is HopType.RESERVE:
            await self._reserve(stream)
        elif message.type is HopType.CONNECT:
            await self._connect(stream, message)
        else:
            await _answer(stream, Status.UNEXPECTED_MESSAGE)

    async def _reserve(self, stream: ByteStream) -> None:
        now = time.time()
        self._expire_s = {peer: at for peer, at in self._expire_s.items() if at > now}
        if stream.peer not in self._expire_s and len(self._expire_s) >= limits.RELAY_MAX_RESERVATIONS:
            await _answer(stream, Status.RESERVATION_REFUSED)
            return
        expire_s = int(now + limits.RELAY_RESERVATION_S)
        self._expire_s[stream.peer] = expire_s
        addresses = tuple(
            Multiaddr(text).to_bytes() for text in self._network.addresses() if "/p2p-circuit" not in text
        )[: limits.DIAL_MAX_ADDRESSES]
        log.info("relay reservation", peer=stream.peer, reservations=len(self._expire_s))
        await _answer(stream, Status.OK, expire_s=expire_s, addresses=addresses)

    async def _connect(self, stream: ByteStream, message: HopMessage) -> None:
        try:
            target = PeerId(str(ID(message.peer)))
            libp2p_id(target)
        except (GolemError, ValueError):
            await _answer(stream, Status.MALFORMED_MESSAGE)
            return
        if self._expire_s.get(target, 0.0) <= time.time():
            await _answer(stream, Status.NO_RESERVATION)
            return
        ends = (stream.peer, target)
        if self._open >= limits.RELAY_MAX_CIRCUITS or any(
            self._circuits[end] >= limits.RELAY_MAX_CIRCUITS_PER_PEER for end in ends
        ):
            await _answer(stream, Status.RESOURCE_LIMIT_EXCEEDED)
            return
        self._open += 1
        self._circuits.update(ends)
        try:
            await self._bridge(stream, target)
        finally:
            self._open -= 1
            self._circuits.subtract(ends)
            for end in ends:
                if not self._circuits[end]:
                    del self._circuits[end]

    async def _bridge(self, stream: ByteStream, target: PeerId) -> None:
        onward: ByteStream | None = None
        try:
            try:
                with trio.fail_after(limits.RELAY_HANDSHAKE_S):
                    onward = await self._network.open_stream(target, STOP)
                    source = libp2p_id(stream.peer).to_bytes()
                    await send_message(onward, StopMessage(StopType.CONNECT, source, *_LIMIT))
                    answer = StopMessage.decode(await read_message(onward))
            except (GolemError, trio.TooSlowError) as exc:
                log.info("circuit not made", source=stream.peer, target=target, error=str(exc))
                await _answer(stream, Status.CONNECTION_FAILED)
                return
            if answer.type is not StopType.STATUS or answer.status != Status.OK:
                await _answer(stream, Status.CONNECTION_FAILED)
                return
            await _answer(stream, Status.OK)
            log.info("circuit", source=stream.peer, target=target, circuits=self._open)
            carried = await _carry(stream, onward)
            log.info("circuit ended", source=stream.peer, target=target, carried_bytes=carried)
        finally:
            await stream.reset()
            if onward is not None:
                await onward.reset()


async def _carry(one: ByteStream, other: ByteStream) -> int:
    """Until an end closes, both are idle, or a limit is reached; the bytes that went either way."""
    carried = 0
    end = trio.current_time() + limits.RELAY_CIRCUIT_S

    async def carry(source: ByteStream, sink: ByteStream) -> None:
        nonlocal carried
        try:
            while carried < limits.RELAY_CIRCUIT_BYTES and (piece := await source.read(_PIECE_BYTES)):
                scope.deadline = min(end, trio.current_time() + limits.RELAY_CIRCUIT_IDLE_S)
                await sink.write(piece)
                carried += len(piece)
        except NetworkError:
            pass  # one end broke: so does the circuit
        scope.cancel()  # an end that closes its side of a connection has closed the connection

    with trio.CancelScope(deadline=trio.current_time() + limits.RELAY_CIRCUIT_IDLE_S) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry, one, other)
            nursery.start_soon(carry, other, one)
    return carried


async def _answer(stream: ByteStream, status: Status, *, expire_s: int = 0, addresses: tuple[bytes, ...] = ()) -> None:
    duration_s, data_bytes = _LIMIT if status is Status.OK else (0, 0)
    message = HopMessage(
        HopType.STATUS,
        expire_s=expire_s,
        addresses=addresses,
        duration_s=duration_s,
        data_bytes=data_bytes,
        status=status,
    )
    await send_message(stream, message)


def status_name(status: int) -> str:
    try:
        return Status(status).name.lower().replace("_", " ")
    except ValueError:
        return f"status {status}"


def _texts(addresses: tuple[bytes, ...]) -> tuple[str, ...]:
    """Those that can be read; a relay may name addresses of kinds that are unknown here."""
    found = []
    for raw in addresses[: limits.DIAL_MAX_ADDRESSES]:
        try:
            found.append(str(Multiaddr(raw)))
        except (ValueError, KeyError) as exc:
            log.debug("relay address not understood", error=str(exc))
    return tuple(found)
