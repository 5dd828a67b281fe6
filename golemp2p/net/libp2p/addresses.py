"""Multiaddr text at the border: parsed, DNS names resolved, port conflicts found."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psutil
import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.core.peer import address_of, public_key_of
from golemp2p.errors import GolemError, NetworkError, RemoteProtocolError, UsageError

EXAMPLE = "like /ip4/192.0.2.7/tcp/4001/p2p/16Uiu2HA…"
CIRCUIT: Final = "/p2p-circuit"
_PORT: Final = re.compile("[0-9]{1,5}")  # not isdigit(): "²" is a digit to it, and none to int()


@dataclass(frozen=True)
class Via:
    """A relay to go through; ``address``: of the relay, when it was told (without /p2p)."""

    relay: PeerId
    address: Multiaddr | None


def parse_dial(text: str) -> tuple[PeerId, str, str, int]:
    """``/ip4|ip6|dns4|dns6|dns/HOST/tcp/PORT/p2p/PEER`` to (peer, kind, host, port). Raises UsageError."""
    parts = text.split("/")
    if (
        len(parts) != 7
        or parts[0]
        or parts[1] not in ("ip4", "ip6", "dns", "dns4", "dns6")
        or parts[3] != "tcp"
        or parts[5] != "p2p"
        or not _PORT.fullmatch(parts[4])
        or not 0 < int(parts[4]) < 65536
    ):
        raise UsageError(f"{text[:512]!r} is not an address of a peer", hint=EXAMPLE)
    public_key_of(parts[6])
    return PeerId(parts[6]), parts[1], parts[2], int(parts[4])


async def dial_addresses(text: str) -> tuple[PeerId, list[Multiaddr]]:
    """The peer and the numeric multiaddrs (without its /p2p) to dial; ``text`` may lead through a relay.

    Raises UsageError, NetworkError (name unknown).
    """
    before, circuit, after = text.partition(CIRCUIT)
    if circuit:
        relay, addresses = await dial_addresses(before)
        target = after.removeprefix("/p2p/")
        if "/" in target:
            raise UsageError(f"{text!r} is not an address of a peer", hint=EXAMPLE)
        public_key_of(target)
        return PeerId(target), [Multiaddr(f"{address}/p2p/{relay}{CIRCUIT}") for address in addresses]
    peer, kind, host, port = parse_dial(text)
    if kind in ("ip4", "ip6"):
        hosts = [(kind, host)]
    else:
        family = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}[kind]
        try:
            found = await trio.socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:  # UnicodeError: no name at all, like one with an empty label
            raise NetworkError(f"the name {host!r} cannot be resolved: {exc}") from exc
        hosts = [("ip6" if item[0] == socket.AF_INET6 else "ip4", str(item[4][0])) for item in found]
    try:
        return peer, [Multiaddr(f"/{kind}/{host}/tcp/{port}") for kind, host in hosts]
    except ValueError as exc:
        raise UsageError(f"{text!r} is not an address of a peer: {exc}", hint=EXAMPLE) from exc


def check_bootstrap(texts: tuple[str, ...]) -> None:
    """Raises UsageError for text that can never be dialled; whether somebody answers is seen later."""
    for text in texts:
        try:
            before, circuit, after = text.partition(CIRCUIT)
            if circuit:
                public_key_of(after.removeprefix("/p2p/"))
            _, kind, host, port = parse_dial(before)
            if kind in ("ip4", "ip6"):
                Multiaddr(f"/{kind}/{host}/tcp/{port}")
        except (RemoteProtocolError, UsageError, ValueError) as exc:
            raise UsageError(f"bootstrap address {text!r} is no address of a peer: {exc}", hint=EXAMPLE) from exc


def dial_plan(texts: Sequence[str], *, own: PeerId, target: PeerId) -> tuple[list[Multiaddr], list[Via]]:
    """What is known of ``target`` as addresses to dial directly, most promising first, and relays to go through.

    Loopback counts only when there is nothing else: others announce theirs, and it would be ours.
    """
    direct: dict[str, Multiaddr] = {}
    through: dict[PeerId, Via] = {}
    for full in texts:
        text = full.removesuffix(f"/p2p/{target}")
        before, circuit, after = text.partition(CIRCUIT)
        try:
            if circuit:
                relay, kind, host, port = parse_dial(before)
                if not after and relay not in (own, target):
                    through.setdefault(relay, Via(relay, _numeric(kind, host, port)))
                continue
            address = _numeric(*parse_dial(f"{text}/p2p/{target}")[1:])
        except (GolemError, ValueError):
            continue  # of a kind that is unknown here, or malformed: somebody else's claim
        if address is not None:
            direct[str(address)] = address
    chosen = [address for address in direct.values() if not is_loopback(str(address))] or list(direct.values())
    return chosen[: limits.DIAL_MAX_ADDRESSES], list(through.values())


def _numeric(kind: str, host: str, port: int) -> Multiaddr | None:
    """None for a name: whoever may be asked to resolve other people's names can be made to ask anybody."""
    return Multiaddr(f"/{kind}/{host}/tcp/{port}") if kind in ("ip4", "ip6") else None


def is_numeric(address: str) -> bool:
    """Whether dialling ``address`` asks no name server: see :func:`_numeric`."""
    return address.startswith(("/ip4/", "/ip6/"))


def host_of(address: str) -> str:
    """The IP address or name in ``/ip4/HOST/…``; "" when there is none."""
    parts = address.split("/")
    return parts[2] if len(parts) > 2 else ""


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(host_of(address)).is_loopback
    except ValueError:
        return False


_LOCAL_NETWORKS: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "127.0.0.0/8",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)


def is_local(ip: str) -> bool:
    """Of a LAN, of a provider's own network (RFC 6598) or of this machine: of no use to strangers."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    return any(address in network for network in _LOCAL_NETWORKS if network.version == address.version)


def interface_ips() -> frozenset[str]:
    return frozenset(_interface_hosts("ip4")) | frozenset(_interface_hosts("ip6"))


def dialable(addresses: Sequence[Multiaddr]) -> list[Multiaddr]:
    """What to tell others: a wildcard stands for the addresses of all interfaces; loopback comes last."""
    found: dict[str, Multiaddr] = {}
    for address in addresses:
        _, kind, host, *rest = str(address).split("/")
        hosts = _interface_hosts(kind) if host in ("0.0.0.0", "::") else [host]  # noqa: S104 - compared, not bound
        for one in hosts:
            text = "/".join(["", kind, one, *rest])
            found[text] = Multiaddr(text)
    return sorted(found.values(), key=lambda a: str(a).split("/")[2] in ("127.0.0.1", "::1"))


def _interface_hosts(kind: str) -> list[str]:
    """Addresses of this machine's interfaces, without those that need a zone (fe80::1%eth0)."""
    family = socket.AF_INET6 if kind == "ip6" else socket.AF_INET
    hosts = [item.address for items in psutil.net_if_addrs().values() for item in items if item.family == family]
    return [host for host in hosts if "%" not in host and not host.startswith("fe80:")]


def libp2p_id(peer: PeerId) -> ID:
    """Raises RemoteProtocolError for a PeerId without a secp256k1 key."""
    public_key_of(peer)
    return ID.from_base58(peer)


def is_ours(peer: ID) -> bool:
    """Whether a golemp2p node can have that PeerId. libp2p knows other kinds of keys, and hashes of keys."""
    try:
        address_of(str(peer))
    except RemoteProtocolError:
        return False
    return True


def is_sound(address: Multiaddr) -> bool:
    """Whether it is one: made of bytes, a multiaddr is only looked at when somebody wants its text."""
    try:
        str(address)
    except ValueError:
        return False
    return True


def listen_addresses(texts: tuple[str, ...]) -> list[Multiaddr]:
    """Raises UsageError for a malformed address and for a port in use.

    libp2p listens with SO_REUSEPORT, so without this check a second node on the same port starts happily and the
    kernel deals out the connections between the two.
    """
    result = []
    for text in texts:
        parts = text.split("/")
        if len(parts) != 5 or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp" or not parts[4].isdigit():
            raise UsageError(f"{text!r} is not an address to listen on", hint="like /ip4/0.0.0.0/tcp/4001")
        try:
            result.append(Multiaddr(text))
            if int(parts[4]):
                family = socket.AF_INET6 if parts[1] == "ip6" else socket.AF_INET
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((parts[2], int(parts[4])))
        except (OSError, OverflowError, ValueError) as exc:
            raise UsageError(
                f"cannot listen on {text}: {exc}", hint="choose another port, or 0 for a free one"
            ) from exc
    return result
