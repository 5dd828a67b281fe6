"""The network port. Services know this and nothing of libp2p; both adapters pass the same contract tests.

All methods raise from :mod:`golemp2p.errors` only: NetworkError (unreachable, cut), DeadlineError, UsageError
(malformed address, too large), RemoteProtocolError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from golemp2p.core.ids import PeerId


class ByteStream(Protocol):
    """An ordered, reliable, flow-controlled byte stream to an authenticated peer."""

    @property
    def peer(self) -> PeerId: ...

    async def read(self, max_bytes: int) -> bytes:
        """Up to ``max_bytes``; b"" when the peer closed its side. Raises NetworkError on reset."""
        ...

    async def write(self, data: bytes) -> None:
        """All of ``data``; waits while the peer does not read."""
        ...

    async def close_write(self) -> None:
        """No more from us; the peer reads b""."""
        ...

    async def aclose(self) -> None:
        """Both sides, in order. Never raises, never waits long."""
        ...

    async def reset(self) -> None:
        """Both sides, at once; what is under way is lost."""
        ...


class Verdict(Enum):
    """What a validator says of a gossip message: pass it on, drop it, or drop it and blame the forwarder."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


@dataclass(frozen=True)
class GossipMessage:
    topic: str
    origin: PeerId  # authenticated by the gossip layer's signature
    forwarder: PeerId
    data: bytes


@dataclass(frozen=True)
class PeerInfo:
    peer: PeerId
    addresses: tuple[str, ...]  # multiaddrs with /p2p/<peer>
    connected: bool
    direction: str  # "in", "out" or "" when not connected
    round_trip_s: float | None  # of our own keepalive ping
    relayed: bool = False  # connected through a relay only


class Reach(Enum):
    """How others get to this node."""

    UNKNOWN = "unknown"  # nobody was asked yet, or nobody could say
    PUBLIC = "public"  # who was asked to dial us did
    RELAYED = "relayed"  # behind NAT or a firewall, reachable through a relay
    UNREACHABLE = "unreachable"  # behind NAT or a firewall, and no relay takes us


@dataclass(frozen=True)
class Reachability:
    """The verdict, why, and what the owner may do about it (empty when nothing needs to be done)."""

    reach: Reach
    reason: str
    advice: str = ""
    relays: tuple[PeerId, ...] = ()


@dataclass(frozen=True)
class NetworkStatistics:
    """A snapshot for metrics and status."""

    connections: int
    streams_opened: int
    streams_accepted: int
    gossip_published: int
    gossip_received: int
    gossip_dropped: int


StreamHandler = Callable[[ByteStream], Awaitable[None]]
GossipValidator = Callable[[GossipMessage], Verdict]  # synchronous and fast; it runs before forwarding
GossipHandler = Callable[[GossipMessage], Awaitable[None]]
PeerListener = Callable[[PeerId, bool], None]  # (peer, connected); called on the event loop, must not block


class Network(Protocol):
    """A running node of the p2p network, from its adapter's ``async with``."""

    @property
    def peer_id(self) -> PeerId: ...

    def addresses(self) -> Sequence[str]:
        """Our own multiaddrs with /p2p/<PeerId>, as others can dial them."""
        ...

    def peers(self) -> Sequence[PeerInfo]:
        """Connected peers first, then known ones."""
        ...

    def statistics(self) -> NetworkStatistics: ...

    def reachability(self) -> Reachability: ...

    def add_peer_listener(self, listener: PeerListener) -> None: ...

    async def connect(self, multiaddr: str) -> PeerId:
        """Dial ``/ip4/…/tcp/…/p2p/<PeerId>``; idempotent."""
        ...

    async def disconnect(self, peer: PeerId) -> None: ...

    def blame(self, peer: PeerId) -> None:
        """``peer`` broke a rule: counted, and after a few it is cut off for a while (scoring.py)."""
        ...

    async def ban(self, peer: PeerId, duration_s: float) -> None:
        """Disconnect, and for ``duration_s`` neither dial nor accept: for peers that keep breaking the protocol."""
        ...

    async def open_stream(self, peer: PeerId, protocol: str, *, timeout_s: float = ...) -> ByteStream:
        """A new stream; dials by known addresses, then by the DHT, when not connected."""
        ...

    def set_stream_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Whatever ``handler`` raises resets that stream and is logged; the node lives on."""
        ...

    async def subscribe(self, topic: str, validator: GossipValidator, handler: GossipHandler) -> None:
        """Join ``topic`` for the life of the network. Own messages are not delivered back."""
        ...

    async def publish(self, topic: str, data: bytes) -> None: ...

    async def put_record(self, key: str, value: bytes) -> None:
        """Store in the DHT. Values are signed and expiring (protocols/dht.md)."""
        ...

    async def get_record(self, key: str) -> bytes | None: ...

    async def provide(self, key: str) -> None:
        """Announce that we hold ``key`` (any string; hashed by the adapter)."""
        ...

    async def find_providers(self, key: str, *, limit: int = 20) -> Sequence[PeerId]: ...
