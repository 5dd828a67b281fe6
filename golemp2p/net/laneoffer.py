"""What two nodes tell each other on libp2p before a lane: a certificate, a ticket, and where to dial. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from golemp2p import limits
from golemp2p.errors import RemoteProtocolError

MAGIC: Final = b"g2l\1"
NAME_BYTES: Final = 16
TOKEN_BYTES: Final = 32


@dataclass(frozen=True)
class Offer:
    """One side's half of a lane. No places: only the other side can be dialled."""

    cert: bytes  # DER
    name: bytes  # of the ticket; travels in the clear
    token: bytes  # the ticket's secret; travels inside TLS
    places: tuple[tuple[str, int], ...]  # (IP address, port)

    def pack(self) -> list[Any]:
        return [self.cert, self.name, self.token, [list(place) for place in self.places]]

    @classmethod
    def unpack(cls, fields: object) -> Offer:
        """Raises RemoteProtocolError."""
        match fields:
            case [bytes(cert), bytes(name), bytes(token), [*places]]:
                pass
            case _:
                raise RemoteProtocolError("an offer of a lane has not the right fields")
        if len(cert) > limits.LANE_MAX_CERT_BYTES or len(name) != NAME_BYTES or len(token) != TOKEN_BYTES:
            raise RemoteProtocolError("an offer of a lane has fields of wrong lengths")
        if len(places) > limits.LANE_MAX_PLACES:
            raise RemoteProtocolError(f"an offer of a lane has {len(places)} places")
        return cls(cert, name, token, tuple(_place(place) for place in places))


def _place(place: object) -> tuple[str, int]:
    match place:
        case [str(host), int(port)] if 0 < port < 65_536 and len(host) <= 45 and is_dialable(host):
            return host, port
    raise RemoteProtocolError(f"a lane is to be dialled at {str(place)[:80]}")


def is_dialable(host: str) -> bool:
    """Whether ``host`` is an IP address of one machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return not (address.is_multicast or address.is_unspecified or host == "255.255.255.255" or "%" in host)


def hosts_of(addresses: Iterable[str]) -> list[str]:
    """The IP addresses that multiaddrs begin with, each once, in their order."""
    found: dict[str, None] = {}
    for text in addresses:
        parts = text.split("/")
        direct = len(parts) >= 5 and parts[1] in ("ip4", "ip6") and parts[3] == "tcp" and "p2p-circuit" not in parts
        if direct and is_dialable(parts[2]):
            found[parts[2]] = None
    return list(found)


def places_to_try(offer: Offer, known_hosts: Sequence[str]) -> list[tuple[str, int]]:
    """Where libp2p has reached the peer comes first, then what it says itself; never more than LANE_MAX_PLACES."""
    ports = dict.fromkeys(port for _, port in offer.places)
    places = [(host, port) for host in known_hosts for port in list(ports)[:1]]
    return list(dict.fromkeys([*places, *offer.places]))[: limits.LANE_MAX_PLACES]
