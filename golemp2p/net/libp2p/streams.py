"""A libp2p stream as the port's ByteStream, and the containment of stream handlers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio
from libp2p.connection_types import ConnectionType
from libp2p.io.trio import TrioTCPStream
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError, NetworkError
from golemp2p.net.port import ByteStream, StreamHandler

log = structlog.get_logger(__name__)
_BELOW = ("secured_conn", "conn", "_raw", "stream")  # from a Yamux connection down to its socket


class Libp2pStream:
    """Works on the Yamux stream below libp2p's NetStream; the latter is only told of the end, for its books."""

    def __init__(self, net_stream: Any) -> None:
        self._net = net_stream
        self._muxed = net_stream.muxed_stream
        self._peer = PeerId(str(net_stream.muxed_conn.peer_id))
        self._done = False

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def connection(self) -> Any:
        """libp2p's multiplexed connection that it belongs to."""
        return self._muxed.conn

    @property
    def relayed(self) -> bool:
        """Whether its connection goes through a relay."""
        return bool(self._muxed.conn.get_connection_type() == ConnectionType.RELAYED)

    @property
    def remote_address(self) -> tuple[str, int] | None:
        """(IP, port) of the other end's socket; None through a relay."""
        address: tuple[str, int] | None = self._muxed.conn.get_remote_address()
        return address

    @property
    def own_port(self) -> int:
        """TCP port of our end; 0 when it is not known."""
        address = local_address(self._muxed.conn)
        return address[1] if address else 0

    async def read(self, max_bytes: int) -> bytes:
        try:
            return bytes(await self._muxed.read(max_bytes))
        except (MuxedStreamEOF, MuxedStreamReset):
            # libp2p mixes up FIN, RST and a lost connection. Only a FIN sets recv_closed while the connection lives; a
            # RST after it is the peer's orderly close (see _end).
            if self._muxed.recv_closed and not self._done and not self._muxed.conn.event_shutting_down.is_set():
                return b""
            raise self._broken() from None
        except Exception as exc:  # libp2p raises several unrelated families here
            raise self._broken() from exc

    async def write(self, data: bytes) -> None:
        try:
            await self._muxed.write(data)
        except Exception as exc:  # as above
            raise self._broken() from exc

    async def close_write(self) -> None:
        try:
            await self._net.close_write()
        except Exception as exc:  # as above
            raise self._broken() from exc

    async def aclose(self) -> None:
        await self._end(orderly=True)

    async def reset(self) -> None:
        await self._end(orderly=False)

    async def _end(self, *, orderly: bool) -> None:
        if self._done:
            return
        self._done = True
        with trio.move_on_after(limits.STREAM_CLOSE_TIMEOUT_S, shield=True):
            try:
                if orderly:
                    await self._net.close()
                # A stream the peer has not closed stays in the muxer's tables; the reset frees it on both sides and
                # comes after the FIN, so the peer still reads what we sent.
                if not orderly or not self._muxed.recv_closed:
                    await self._net.reset()
            except Exception as exc:  # noqa: BLE001 - the connection is gone: nothing is left to close
                log.debug("stream close failed", peer=self._peer, error=repr(exc))

    def _broken(self) -> NetworkError:
        return NetworkError(f"the stream to {self._peer} broke", hint="the peer closed it or its connection was lost")


def local_address(connection: Any) -> tuple[str, int] | None:
    """(IP, port) of our end of a Yamux connection; None through a relay and for a closed one."""
    while connection is not None and not isinstance(connection, TrioTCPStream):
        connection = next((v for n in _BELOW if (v := getattr(connection, n, None)) is not None), None)
    try:
        return connection.stream.socket.getsockname()[:2] if connection is not None else None
    except OSError:
        return None


async def run_handler(handler: StreamHandler, stream: ByteStream, protocol: str) -> None:
    """Run one handler to its end; whatever it raises (but a cancellation) costs only this stream."""
    try:
        await handler(stream)
    except Exception as exc:  # noqa: BLE001 - libp2p ends the whole host when a handler raises
        report = log.info if isinstance(exc, GolemError) else log.exception
        report("stream handler failed", peer=stream.peer, protocol=protocol, error=str(exc))
        await stream.reset()
    finally:
        await stream.aclose()


def contain(handler: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """For libp2p's own inbound path (negotiation, identify, ping, gossip, DHT): the same promise, and a bound on
    the streams a peer may have open to us."""
    streams: Counter[str] = Counter()

    async def contained(net_stream: Any) -> None:
        peer = str(net_stream.muxed_conn.peer_id)
        if streams[peer] >= limits.MAX_STREAMS_PER_PEER:
            log.info("stream refused", peer=peer, open_streams=streams[peer])
            await Libp2pStream(net_stream).reset()
            return
        streams[peer] += 1
        try:
            await handler(net_stream)
        except Exception as exc:  # noqa: BLE001 - libp2p ends the whole host when a handler raises
            log.debug("libp2p stream failed", peer=peer, error=repr(exc))
            await Libp2pStream(net_stream).reset()
        finally:
            streams[peer] -= 1
            if not streams[peer]:
                del streams[peer]

    return contained
