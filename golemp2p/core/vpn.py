"""Private networks (protocols/tunnel.md): who is in one, which packets may pass, the echo of an address without a host.

Pure. Addresses in packets are 4 bytes as on the wire; elsewhere :class:`ipaddress.IPv4Address`. IPv4 only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network, NetmaskValueError
from typing import Final

from golemp2p import limits
from golemp2p.core.ids import Address, PeerId
from golemp2p.errors import ConflictError, NotFoundError, UsageError

MIN_HEADER_BYTES: Final = 20
ICMP: Final = 1
_ECHO_REQUEST: Final = 8
_ADDRESS: Final = re.compile(r"0x[0-9a-f]{40}")
_NETWORK_ID: Final = re.compile(r"[0-9a-f]{32}")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,253}[A-Za-z0-9_])?")


# --- what clients write ---------------------------------------------------------------------------------------------


def parse_ip(text: object) -> IPv4Address:
    """Raises UsageError."""
    try:
        return IPv4Address(str(text))
    except AddressValueError:
        raise UsageError(f"{str(text)[:60]!r} is no IPv4 address") from None


def parse_network(ip: object, mask: object = None) -> IPv4Network:
    """ "192.168.0.0/24", or an address and a mask (which wins over a prefix); /24 without either, as yagna has it.

    Raises UsageError.
    """
    address, _, prefix = str(ip).partition("/")
    width = str(mask) if mask else prefix or "24"
    try:
        network = IPv4Network(f"{parse_ip(address)}/{width}", strict=False)
    except (NetmaskValueError, ValueError):
        raise UsageError(f"{width[:40]!r} is no network mask") from None
    if network.prefixlen > 30 or network.prefixlen < 8:
        raise UsageError(f"network {network} has no room, or too much", hint="a prefix of 8 to 30")
    if network.is_loopback or network.is_multicast or network.is_link_local or network.is_unspecified:
        raise UsageError(f"network {network} is for other purposes", hint="for example 192.168.0.0/24")
    return network


def parse_node(text: object) -> Address:
    """A node id: an Ethereum address, in any case. Raises UsageError."""
    found = str(text).lower()
    if not _ADDRESS.fullmatch(found):
        raise UsageError(f"{str(text)[:60]!r} is no node id (0x and 40 hex digits)")
    return Address(found)


def check_host(network: IPv4Network, ip: IPv4Address) -> None:
    """Raises UsageError unless ``ip`` can be a host's in ``network``."""
    if ip not in network or ip in (network.network_address, network.broadcast_address):
        raise UsageError(f"{ip} is not the address of a host in {network}")


@dataclass(frozen=True)
class NetworkOrder:
    """One entry of ``net`` in a deploy command: in which network the activity is, as whom, with whom."""

    id: str
    network: IPv4Network
    ip: IPv4Address
    nodes: Mapping[IPv4Address, Address] = field(default_factory=dict)

    @property
    def interface(self) -> IPv4Interface:
        return IPv4Interface(f"{self.ip}/{self.network.prefixlen}")


def parse_order(item: Mapping[str, object]) -> NetworkOrder:
    """``{id, ip, mask?, gateway?, nodeIp, nodes: {ip: node id}}``. Raises UsageError."""
    network_id, nodes = item.get("id"), item.get("nodes") or {}
    if not isinstance(network_id, str) or not _NETWORK_ID.fullmatch(network_id):
        raise UsageError("a network's id is 32 hex digits")
    network = parse_network(item.get("ip"), item.get("mask"))
    if item.get("nodeIp") is None:
        raise UsageError(f"network {network_id} has no nodeIp")
    ip = parse_ip(item["nodeIp"])
    check_host(network, ip)
    if not isinstance(nodes, Mapping) or len(nodes) > limits.MAX_VPN_NODES:
        raise UsageError(f"the nodes of network {network_id} are no object of at most {limits.MAX_VPN_NODES} entries")
    found = {parse_ip(address): parse_node(node) for address, node in nodes.items()}
    for address in found:
        check_host(network, address)
    return NetworkOrder(network_id, network, ip, found)


def check_name(name: str, address: str) -> tuple[str, str]:
    """A line of ``hosts``, as it may be written into /etc/hosts. Raises UsageError."""
    if not _HOST_NAME.fullmatch(name):
        raise UsageError(f"{name[:80]!r} is no host name")
    return name, str(parse_ip(address))


# --- who is in a network --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """``peer`` None: its PeerId is not known (yet)."""

    node: Address
    peer: PeerId | None = None


class Membership:
    """The owner's list. ``version`` counts its changes, so that news that overtake each other do no harm."""

    def __init__(self, network: IPv4Network) -> None:
        self.network = network
        self.version = 1
        self._members: dict[IPv4Address, Member] = {}

    @property
    def members(self) -> Mapping[IPv4Address, Member]:
        return dict(self._members)

    def add(self, ip: IPv4Address, node: Address, peer: PeerId | None) -> bool:
        """Whether anything changed. One node may have several addresses. Raises UsageError, ConflictError."""
        check_host(self.network, ip)
        known = self._members.get(ip)
        if known is not None and known.node != node:
            raise ConflictError(f"{ip} is the address of {known.node} already")
        if known is not None and (peer is None or known.peer == peer):
            return False
        if known is None and len(self._members) >= limits.MAX_VPN_NODES:
            raise ConflictError(f"the network has {len(self._members)} nodes already")
        self._members[ip] = Member(node, peer)
        self.version += 1
        return True

    def learn(self, node: Address, peer: PeerId) -> bool:
        """Which peer a node is. Whether that was news."""
        news = [ip for ip, member in self._members.items() if member.node == node and member.peer != peer]
        for ip in news:
            self._members[ip] = Member(node, peer)
        self.version += bool(news)
        return bool(news)

    def remove(self, node: Address) -> None:
        """With all its addresses. Raises NotFoundError."""
        gone = [ip for ip, member in self._members.items() if member.node == node]
        if not gone:
            raise NotFoundError(f"node {node} is not in the network")
        for ip in gone:
            del self._members[ip]
        self.version += 1

    def clear(self) -> None:
        self._members.clear()
        self.version += 1

    def unknown(self) -> Iterable[Address]:
        return {member.node for member in self._members.values() if member.peer is None}


# --- packets --------------------------------------------------------------------------------------------------------


def addresses_of(packet: bytes) -> tuple[bytes, bytes] | None:
    """(source, destination) of a whole IPv4 packet; None for anything else."""
    size = len(packet)
    if size < MIN_HEADER_BYTES or packet[0] >> 4 != 4 or size > limits.VPN_MTU_BYTES:
        return None
    header = (packet[0] & 15) * 4
    if header < MIN_HEADER_BYTES or header > size or int.from_bytes(packet[2:4], "big") != size:
        return None
    return packet[12:16], packet[16:20]


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    # The sum of the 16-bit words with end-around carry is the number modulo 2**16 - 1: C does it in microseconds, where
    # a loop over a large ping takes 10 ms, which floods of them would take from everybody.
    number = int.from_bytes(data, "big")
    total = number % 0xFFFF or (0xFFFF if number else 0)
    return ~total & 0xFFFF


def echo_reply(packet: bytes) -> bytes | None:
    """The answer to an ICMP echo request (RFC 792); None for every other packet, fragments and wrong checksums."""
    if addresses_of(packet) is None or packet[9] != ICMP or int.from_bytes(packet[6:8], "big") & 0x3FFF:
        return None
    header = (packet[0] & 15) * 4
    message = packet[header:]
    if len(message) < 8 or message[0] != _ECHO_REQUEST or message[1] != 0 or checksum(message) != 0:
        return None
    if checksum(packet[:header]) != 0:
        return None
    answer = bytearray(b"\0\0\0\0" + message[4:])
    answer[2:4] = checksum(bytes(answer)).to_bytes(2, "big")
    # Without options: they speak of the way there.
    head = bytearray(packet[:MIN_HEADER_BYTES])
    head[0] = 0x45
    head[2:4] = (MIN_HEADER_BYTES + len(answer)).to_bytes(2, "big")
    head[6:8] = bytes(2)
    head[8] = 64
    head[10:12] = bytes(2)
    head[12:16], head[16:20] = packet[16:20], packet[12:16]
    head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
    return bytes(head + answer)
