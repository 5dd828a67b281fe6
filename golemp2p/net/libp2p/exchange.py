"""Peers tell each other whom they know: `/golemp2p/peers/1`.

A node that has only its bootnode asks it for others. What comes back is hearsay: addresses to dial, where the
handshake shows who answers. One stream per question: the asked side writes a msgpack list of multiaddrs and closes.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import msgpack
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import DeadlineError, RemoteProtocolError
from golemp2p.net.libp2p.addresses import CIRCUIT, host_of, is_loopback
from golemp2p.net.port import ByteStream
from golemp2p.net.ratelimit import RateLimit

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork

PROTOCOL: Final = "/golemp2p/peers/1"


class PeerExchange:
    def __init__(self, network: Libp2pNetwork) -> None:
        self._network = network
        self._rate = RateLimit(1 / limits.PEER_EXCHANGE_AGAIN_S, limits.PEER_EXCHANGE_BURST)
        network.set_stream_handler(PROTOCOL, self._answer)

    async def _answer(self, stream: ByteStream) -> None:
        if not self._rate.allow(stream.peer, trio.current_time()):
            await stream.reset()
            return
        peers = [p for p in self._network.peers() if p.connected and p.peer != stream.peer and p.addresses]
        random.shuffle(peers)
        # One address each, direct ones first; addresses on loopback help only those who are there, too.
        chosen = [min(p.addresses, key=lambda a: (CIRCUIT in a, is_loopback(a))) for p in peers]
        await stream.write(msgpack.packb(chosen[: limits.PEER_EXCHANGE_ADDRESSES]))
        await stream.close_write()

    async def ask(self, peer: PeerId) -> list[str]:
        """Multiaddrs of peers that ``peer`` is connected to. Raises NetworkError, RemoteProtocolError."""
        try:
            with trio.fail_after(limits.PEER_EXCHANGE_TIMEOUT_S):
                stream = await self._network.open_stream(peer, PROTOCOL)
                try:
                    data = b""
                    while piece := await stream.read(limits.PEER_EXCHANGE_BYTES):
                        data += piece
                        if len(data) > limits.PEER_EXCHANGE_BYTES:
                            raise RemoteProtocolError(f"{peer} names too many peers")
                finally:
                    await stream.aclose()
        except trio.TooSlowError as exc:
            raise DeadlineError(f"{peer} names no peers within {limits.PEER_EXCHANGE_TIMEOUT_S:g} s") from exc
        return parse_answer(data)[: limits.PEER_EXCHANGE_ADDRESSES]


def parse_answer(data: bytes) -> list[str]:
    """Raises RemoteProtocolError."""
    try:
        found = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as exc:
        raise RemoteProtocolError(f"a list of peers is no msgpack: {exc}") from exc
    if not isinstance(found, list) or not all(isinstance(one, str) and len(one) <= 512 for one in found):
        raise RemoteProtocolError("a list of peers holds something else")
    return [str(one) for one in found]


def group_of(address: str) -> str:
    """Who probably has one owner: the /16 of an IPv4 address, the /32 of an IPv6 address."""
    host = host_of(address)
    if ":" in host:
        return ":".join(host.split(":")[:2])
    return ".".join(host.split(".")[:2]) if host.replace(".", "").isdigit() else host
