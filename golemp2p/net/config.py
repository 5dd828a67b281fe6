"""What the libp2p adapter needs to know. It knows nothing of markets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from golemp2p import limits


@dataclass(frozen=True)
class NetConfig:
    """Settings of :func:`golemp2p.net.libp2p.open_libp2p_network`.

    ``network`` separates networks that share machines: it is part of every DHT key. ``announce`` replaces the listen
    addresses that we tell to others (a node behind a port forward); empty means the listen addresses. ``psk``: 32 bytes
    that every node of a private network has. ``use_relays``: be reachable through relays while nobody can dial us;
    ``relay_service``: be a relay for others; ``mdns``: find nodes on the LAN; ``upnp``: ask the router for a port.
    ``peers_file``: where good peers are remembered over a restart.
    """

    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    bootstrap: tuple[str, ...] = ()
    network: str = "local"
    subnet: str = "public"
    dht: bool = True
    announce: tuple[str, ...] = ()
    psk: bytes | None = field(default=None, repr=False)
    use_relays: bool = True
    relay_service: bool = False
    mdns: bool = False
    upnp: bool = False
    peers_file: Path | None = None
    min_peers: int = limits.MIN_PEERS
    target_peers: int = limits.TARGET_PEERS
    min_outbound: int = limits.MIN_OUTBOUND_PEERS
    keepalive_interval_s: float = limits.KEEPALIVE_INTERVAL_S
    keepalive_timeout_s: float = limits.KEEPALIVE_TIMEOUT_S
    max_connections_per_ip: int = limits.MAX_CONNECTIONS_PER_IP
