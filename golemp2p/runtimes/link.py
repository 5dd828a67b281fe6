"""The packets of one network device of a payload: a bounded queue towards the guest, a callback away from it.

The runtime moves packets between this and the guest; whoever routes them (golemp2p.vpn) holds the other end. A queue
that is full drops, as networks do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Interface

import trio

from golemp2p import limits


class GuestLink:
    """``from_guest`` is called with each packet of the guest, must not block, and must not believe it."""

    def __init__(
        self, interface: IPv4Interface, from_guest: Callable[[bytes], None], *, mtu: int = limits.VPN_MTU_BYTES
    ) -> None:
        self.interface = interface
        self.mtu = mtu
        self.from_guest = from_guest
        self.dropped = 0
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._news = trio.Event()

    def to_guest(self, packet: bytes) -> bool:
        """Whether there was room."""
        if len(packet) > self.mtu or self._queued_bytes + len(packet) > limits.VPN_QUEUE_BYTES:
            self.dropped += 1
            return False
        self._queue.append(packet)
        self._queued_bytes += max(len(packet), limits.VPN_PACKET_COST_BYTES)
        self._news.set()
        return True

    async def next(self) -> bytes:
        """Waits for a packet."""
        while not self._queue:
            self._news = trio.Event()
            await self._news.wait()
        packet = self._queue.popleft()
        self._queued_bytes -= max(len(packet), limits.VPN_PACKET_COST_BYTES)
        return packet


class Pace:
    """At most VPN_PACE_PACKETS in each VPN_PACE_S, of all who share it: a flood must not take the node's time."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self._packets = 0

    async def spend(self, packets: int) -> None:
        """``packets`` were dealt with; waits when they were too many."""
        self._packets += packets
        if self._packets < limits.VPN_PACE_PACKETS:
            return
        begin_s = max(trio.current_time(), self._until_s)
        self._until_s = begin_s + limits.VPN_PACE_S * self._packets / limits.VPN_PACE_PACKETS
        self._packets = 0
        await trio.sleep_until(begin_s)


def host_names(hostname: str | None, hosts: Mapping[str, str], networks: Sequence[GuestLink]) -> dict[str, str]:
    """Name -> address for /etc/hosts: what the deployment says, and the payload's own name by its first address."""
    own = {hostname: str(networks[0].interface.ip)} if hostname and networks else {}
    return {**own, **hosts}
