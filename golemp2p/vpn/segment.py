"""One network as one node sees it: its members, its own addresses here, and where each packet goes.

Synchronous: a packet is passed on, or dropped and counted, at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from golemp2p.core.ids import PeerId
from golemp2p.core.vpn import Member, addresses_of

Deliver = Callable[[bytes], bool]  # a packet to an address of ours; False: no room
Send = Callable[[PeerId, bytes], bool]  # a packet to a peer; False: no room

MALFORMED: Final = "malformed"
SPOOFED: Final = "spoofed"
NOBODY: Final = "nobody"
FULL: Final = "full"


@dataclass(frozen=True)
class NetworkKey:
    """Ids are made by owners, who need not be honest: the same id of another owner is another network."""

    owner: PeerId
    id: str


class Segment:
    """``send`` queues a packet for a peer. ``dropped`` counts by reason."""

    def __init__(self, key: NetworkKey, me: PeerId, send: Send) -> None:
        self.key = key
        self.version = -1
        self.dropped: Counter[str] = Counter()
        self.passed = 0
        self._me = me
        self._send = send
        self._ports: dict[bytes, Deliver] = {}
        self._peers: dict[bytes, PeerId | None] = {}
        self._members: dict[IPv4Address, Member] = {}

    @property
    def is_owner(self) -> bool:
        return self.key.owner == self._me

    @property
    def members(self) -> Mapping[IPv4Address, Member]:
        return self._members

    @property
    def is_empty(self) -> bool:
        """Nobody of this node is in it."""
        return not self._ports

    def set_members(self, version: int, members: Mapping[IPv4Address, Member]) -> bool:
        """False: this is old news."""
        if version < self.version:
            return False
        self.version = version
        self._members = dict(members)
        self._peers = {ip.packed: member.peer for ip, member in members.items()}
        return True

    def add_port(self, ip: IPv4Address, deliver: Deliver) -> None:
        self._ports[ip.packed] = deliver

    def remove_port(self, ip: IPv4Address) -> None:
        self._ports.pop(ip.packed, None)

    def has_port(self, ip: IPv4Address) -> bool:
        return ip.packed in self._ports

    def may_enter(self, peer: PeerId) -> bool:
        """Whether ``peer`` may send packets here at all."""
        return peer == self.key.owner or peer in self._peers.values()

    def from_port(self, ip: bytes, packet: bytes) -> None:
        """A packet that the holder of address ``ip`` here sends."""
        found = addresses_of(packet)
        if found is None:
            self.dropped[MALFORMED] += 1
        elif found[0] != ip or ip not in self._peers:
            self.dropped[SPOOFED] += 1
        else:
            self._forward(packet, found[1])

    def from_peer(self, peer: PeerId, packet: bytes) -> None:
        """A packet that came by a tunnel. The owner may bring everybody's: it relays."""
        found = addresses_of(packet)
        if found is None:
            self.dropped[MALFORMED] += 1
            return
        source, target = found
        sender = self._peers.get(source)
        if source not in self._peers or source in self._ports or (sender != peer and peer != self.key.owner):
            self.dropped[SPOOFED] += 1
        elif target in self._ports:
            self._deliver(packet, target)
        elif self.is_owner and peer != self._peers.get(target):
            self._forward(packet, target)
        else:
            self.dropped[NOBODY] += 1

    def _deliver(self, packet: bytes, target: bytes) -> None:
        if target not in self._peers:  # no member any more
            self.dropped[NOBODY] += 1
        elif self._ports[target](packet):
            self.passed += 1
        else:
            self.dropped[FULL] += 1

    def _forward(self, packet: bytes, target: bytes) -> None:
        if target in self._ports:
            return self._deliver(packet, target)
        peer = self._peers.get(target)
        if peer is None or peer == self._me:
            self.dropped[NOBODY] += 1
        elif self._send(peer, packet):
            self.passed += 1
        else:
            self.dropped[FULL] += 1
        return None
