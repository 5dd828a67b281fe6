"""Packets of one network to one peer: a bounded queue, and a tunnel stream that is opened when there is something.

Packets are frames of two bytes of length (big-endian) and the packet. The stream goes one way; the peer opens its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import DeadlineError, GolemError, NetworkError
from golemp2p.net.datawire import Wire, encode_header
from golemp2p.net.port import ByteStream, Network
from golemp2p.vpn.segment import NetworkKey
from golemp2p.wire.p2p.vpn import TUNNEL_PROTOCOL, PacketsHeader

log = structlog.get_logger(__name__)

LENGTH_BYTES = 2


@dataclass
class Share:
    """What all tunnels for one owner's networks may use together. Who is in a network is its owner's word."""

    queued_bytes: int = 0
    trunks: int = 0
    opening: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(limits.VPN_OPENS_AT_ONCE))

    @property
    def free_bytes(self) -> int:
        return limits.VPN_OWNER_QUEUE_BYTES - self.queued_bytes


class Trunk:
    """:meth:`run` ends when nothing was sent for VPN_TUNNEL_IDLE_S. ``unreachable`` is told when the peer is."""

    def __init__(
        self, network: Network, key: NetworkKey, peer: PeerId, share: Share, unreachable: Callable[[], None]
    ) -> None:
        self._share = share
        self._unreachable = unreachable
        self._network = network
        self._key = key
        self._peer = peer
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._news = trio.Event()

    def put(self, packet: bytes) -> bool:
        """Whether there was room. A queue takes no more than what it leaves for the owner's other ones."""
        if self._queued_bytes + _cost(packet) > min(limits.VPN_QUEUE_BYTES, self._share.free_bytes):
            return False
        self._queue.append(packet)
        self._count(_cost(packet))
        self._news.set()
        return True

    def drop(self) -> None:
        """What still waits."""
        self._queue.clear()
        self._count(-self._queued_bytes)

    def _count(self, more_bytes: int) -> None:
        self._queued_bytes += more_bytes
        self._share.queued_bytes += more_bytes

    async def run(self) -> None:
        """Send until idle, or until the peer did not take what we had. Never raises but Cancelled."""
        while self._queue:
            try:
                async with self._share.opening:
                    stream = await self._open()
            except GolemError as exc:
                if isinstance(exc, NetworkError):
                    self._unreachable()
                log.info("tunnel_not_opened", peer=self._peer, network=self._key.id, error=str(exc))
                await trio.sleep(limits.VPN_RETRY_S)
                return  # with what waited: who sent it sends again
            try:
                await self._send_on(stream)
            except NetworkError as exc:
                log.info("tunnel_broke", peer=self._peer, network=self._key.id, error=str(exc))
            finally:
                await stream.aclose()

    async def _open(self) -> ByteStream:
        header = PacketsHeader(owner=self._key.owner, network=self._key.id)
        return await open_tunnel(self._network, self._peer, header.model_dump(), timeout_s=limits.VPN_OPEN_S)

    async def _send_on(self, stream: ByteStream) -> None:
        """Until idle, or until the peer closes its side: then it wants no more."""
        async with trio.open_nursery() as nursery:
            failure: list[NetworkError] = []

            async def work() -> None:
                try:
                    while await self._wait():
                        with trio.move_on_after(limits.VPN_STALL_S) as stall:
                            await stream.write(self._batch())
                        if stall.cancelled_caught:
                            self.drop()
                            failure.append(NetworkError(f"{self._peer} took nothing for {limits.VPN_STALL_S:g} s"))
                            break
                except NetworkError as exc:
                    failure.append(exc)
                nursery.cancel_scope.cancel()

            async def listen() -> None:
                try:
                    if await stream.read(1):
                        failure.append(NetworkError(f"{self._peer} answers in a stream that goes one way"))
                except NetworkError as exc:
                    failure.append(exc)
                nursery.cancel_scope.cancel()

            nursery.start_soon(work)
            nursery.start_soon(listen)
        if failure:
            raise failure[0]

    async def _wait(self) -> bool:
        """For a packet; False when none came for long."""
        with trio.move_on_after(limits.VPN_TUNNEL_IDLE_S):
            while not self._queue:
                self._news = trio.Event()
                await self._news.wait()
        return bool(self._queue)

    def _batch(self) -> bytes:
        parts, size = [], 0
        while self._queue and size < limits.VPN_BATCH_BYTES:
            packet = self._queue.popleft()
            self._count(-_cost(packet))
            parts += [len(packet).to_bytes(LENGTH_BYTES, "big"), packet]
            size += len(packet)
        return b"".join(parts)


def _cost(packet: bytes) -> int:
    return max(len(packet), limits.VPN_PACKET_COST_BYTES)


async def open_tunnel(network: Network, peer: PeerId, header: dict[str, object], *, timeout_s: float) -> ByteStream:
    """A tunnel stream whose header the peer has accepted. Raises what the peer said, NetworkError, DeadlineError."""
    try:
        with trio.fail_after(timeout_s):
            stream = await network.open_stream(peer, TUNNEL_PROTOCOL, timeout_s=timeout_s)
            try:
                wire = Wire(stream)
                await wire.send(encode_header([header]))
                await wire.answer()
            except BaseException:
                with trio.CancelScope(shield=True):
                    await stream.reset()
                raise
            return stream
    except trio.TooSlowError:
        raise DeadlineError(f"{peer} did not open a tunnel within {timeout_s:g} s") from None


class Trunks:
    """All tunnels of this node to others, made on demand by :meth:`send`; :meth:`run` owns their tasks."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._trunks: dict[tuple[NetworkKey, PeerId], Trunk] = {}
        self._shares: dict[PeerId, Share] = {}  # by owner
        self._relayed_until_s: dict[PeerId, float] = {}  # the soonest over first
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def send(self, key: NetworkKey, peer: PeerId, packet: bytes) -> bool:
        """Queue ``packet``, by way of the network's owner when ``peer`` cannot be reached. False: no room."""
        if self._nursery is None:
            return False
        if self._relayed_until_s and peer != key.owner and key.owner != self._network.peer_id:
            if trio.current_time() < self._relayed_until_s.get(peer, 0.0):
                peer = key.owner
            else:
                self._relayed_until_s.pop(peer, None)
        trunk = self._trunks.get((key, peer))
        if trunk is not None:
            return trunk.put(packet)
        share = self._shares.setdefault(key.owner, Share())
        if share.trunks >= limits.MAX_VPN_NODES:
            return False
        trunk = Trunk(self._network, key, peer, share, partial(self._relay, key, peer))
        if not trunk.put(packet):
            return False
        self._trunks[key, peer] = trunk
        share.trunks += 1
        self._nursery.start_soon(self._carry, key, peer, trunk, share)
        return True

    async def _carry(self, key: NetworkKey, peer: PeerId, trunk: Trunk, share: Share) -> None:
        try:
            await trunk.run()
        finally:
            del self._trunks[key, peer]
            trunk.drop()
            share.trunks -= 1
            if not share.trunks:
                del self._shares[key.owner]

    def _relay(self, key: NetworkKey, peer: PeerId) -> None:
        if peer != key.owner and key.owner != self._network.peer_id:
            self._relayed_until_s.pop(peer, None)
            self._relayed_until_s[peer] = trio.current_time() + limits.VPN_RELAY_S
            if len(self._relayed_until_s) > limits.MAX_VPN_RELAYED:
                del self._relayed_until_s[next(iter(self._relayed_until_s))]
