"""What both kinds of node need: what they make of the settings, and that each is alone on its data directory."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from golemp2p.config import Settings
from golemp2p.core.eip712 import Domain
from golemp2p.errors import PolicyError
from golemp2p.locations import Locations
from golemp2p.net.config import NetConfig
from golemp2p.networks import merge

log = structlog.get_logger("golemp2p.node")


def domain_of(settings: Settings) -> Domain:
    """What signatures are valid for: the network, and the chain that it settles on first (0: none)."""
    chains = settings.payment.networks
    return Domain(settings.net.network, merge(chains[0]).chain_id if chains else 0)


def net_config(settings: Settings, where: Locations, *, relay_service: bool | None = None) -> NetConfig:
    """Section ``net`` as the network adapter takes it; ``relay_service``: whatever the settings say."""
    net = settings.net
    return NetConfig(
        listen=tuple(net.listen),
        bootstrap=tuple(net.bootstrap),
        announce=tuple(net.announce),
        network=net.network,
        subnet=net.subnet,
        dht=net.dht,
        psk=bytes.fromhex(net.psk) or None,
        use_relays=net.relay,
        relay_service=net.relay_service if relay_service is None else relay_service,
        mdns=net.mdns,
        upnp=net.upnp,
        peers_file=where.peers,
        max_connections_per_ip=net.connections_per_ip,
    )


@contextmanager
def only_one(locations: Locations) -> Iterator[None]:
    """Two nodes on one data directory would corrupt it and sign against each other."""
    locations.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Made by hand or by a copy they may be open to all; a payment network's URL may hold a secret.
    for path, mode in ((locations.data, 0o700), (locations.config, 0o600)):
        try:
            path.chmod(mode)
        except FileNotFoundError:
            pass
        except OSError as exc:
            log.warning("permissions_not_set", path=str(path), error=exc.strerror)
    with locations.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PolicyError(
                f"another node is running on {locations.data}", hint="stop it, or give --data-dir another directory"
            ) from None
        yield
