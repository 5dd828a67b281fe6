"""The side of activities: their addresses in networks of requestors, and connections to their ports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from typing import Any

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import Address, PeerId
from golemp2p.core.manifest import OutboundRule, read_manifest
from golemp2p.core.peer import address_of
from golemp2p.core.vpn import Member, NetworkOrder, parse_ip, parse_node
from golemp2p.errors import ConflictError, GolemError, NotFoundError, PolicyError, UsageError
from golemp2p.net.rpc import Rpc
from golemp2p.runtimes.link import GuestLink
from golemp2p.vpn.outbound import OutboundGate, Resolve
from golemp2p.vpn.segment import NetworkKey, Segment
from golemp2p.vpn.trunk import Trunks
from golemp2p.wire.p2p.vpn import NETWORK_PROTOCOL, MemberBody, Members

log = structlog.get_logger(__name__)

FindPeer = Callable[[Address], Awaitable[PeerId | None]]
Connect = Callable[[IPv4Address, int], Awaitable[trio.abc.HalfCloseableStream]]
"""To a port of the activity, by its own address in the network. Raises RuntimeFailureError."""


@dataclass(frozen=True)
class Joined:
    """An activity in its networks. ``links`` are the payload's devices, in order. :meth:`leave` is always called."""

    links: Sequence[GuestLink]
    _leave: Callable[[], None]

    def leave(self) -> None:
        self._leave()


class Providing:
    """``segments`` are the node's, shared with its own networks. ``rule``: what payloads may reach outside."""

    def __init__(
        self,
        me: PeerId,
        rpc: Rpc,
        trunks: Trunks,
        segments: MutableMapping[NetworkKey, Segment],
        find_peer: FindPeer,
        rule: OutboundRule,
        resolve: Resolve,
    ) -> None:
        self._rule = rule
        self._resolve = resolve
        self._me = me
        self._rpc = rpc
        self._trunks = trunks
        self._segments = segments
        self._find_peer = find_peer
        self._connects: dict[tuple[NetworkKey, IPv4Address], Connect] = {}
        self._reading: dict[NetworkKey, trio.Lock] = {}

    async def join(self, owner: PeerId, orders: Sequence[NetworkOrder], connect: Connect) -> Joined:
        """Take the addresses of an activity whose requestor is ``owner``. Raises UsageError, ConflictError."""
        places: list[tuple[NetworkKey, IPv4Address]] = []
        leave = partial(self._leave, places)
        try:
            links = [self._enter(owner, order, connect, places) for order in orders]
            for order in orders:
                await self._learn_members(NetworkKey(owner, order.id), order)
        except BaseException:
            leave()
            raise
        return Joined(links, leave)

    def _enter(
        self, owner: PeerId, order: NetworkOrder, connect: Connect, places: list[tuple[NetworkKey, IPv4Address]]
    ) -> GuestLink:
        node = order.nodes.get(order.ip)
        if node is not None and node != address_of(self._me):
            raise UsageError(f"{order.ip} in network {order.id} is the address of {node}, not of this provider")
        key = NetworkKey(owner, order.id)
        segment = self._segments.get(key)
        if segment is None:
            segment = self._segments[key] = Segment(key, self._me, partial(self._trunks.send, key))
            self._reading[key] = trio.Lock()
        if segment.has_port(order.ip):
            raise ConflictError(f"{order.ip} in network {order.id} is the address of another activity here")
        link = GuestLink(order.interface, partial(segment.from_port, order.ip.packed))
        segment.add_port(order.ip, link.to_guest)
        places.append((key, order.ip))
        self._connects[key, order.ip] = connect
        log.info("network_joined", network=order.id, ip=str(order.ip), owner=owner)
        return link

    def _leave(self, places: list[tuple[NetworkKey, IPv4Address]]) -> None:
        for key, ip in places:
            del self._connects[key, ip]
            segment = self._segments[key]
            segment.remove_port(ip)
            log.info("network_left", network=key.id, ip=str(ip), passed=segment.passed, dropped=dict(segment.dropped))
            if segment.is_empty and not segment.is_owner:
                del self._segments[key]
                del self._reading[key]
        places.clear()

    def outbound(self, demand: Mapping[str, object]) -> OutboundGate | None:
        """What the demand's manifest may reach. Raises PolicyError (not by our rule), UsageError (no manifest)."""
        manifest = read_manifest(demand)
        if manifest is None or manifest.outbound is None:
            return None
        refusal = self._rule.refusal(manifest.outbound)
        if refusal is not None:
            raise PolicyError(refusal, hint="its owner allows hosts with provider.outbound.whitelist")
        return OutboundGate(self._rule, manifest.outbound, resolve=self._resolve)

    async def connect(self, key: NetworkKey, ip: IPv4Address, port: int) -> trio.abc.HalfCloseableStream:
        """For the tunnels. Raises NotFoundError, RuntimeFailureError."""
        connect = self._connects.get((key, ip))
        if connect is None:
            raise NotFoundError(f"no activity here has {ip} in network {key.id}")
        return await connect(ip, port)

    async def _learn_members(self, key: NetworkKey, order: NetworkOrder) -> None:
        """The owner's list; what the script said when the owner has none (it was restarted) or cannot be asked."""
        segment = self._segments[key]
        if segment.is_owner:
            return
        try:
            answer = await self._rpc.call(
                key.owner, NETWORK_PROTOCOL, "members", {"network": key.id}, timeout_s=limits.VPN_RPC_S
            )
            await self._take(segment, Members.model_validate(answer))
        except (GolemError, ValueError) as exc:  # pydantic's error is a ValueError
            log.info("members_not_told", network=key.id, owner=key.owner, error=str(exc))
            known = {order.ip: address_of(self._me), **order.nodes}
            segment.set_members(0, {ip: Member(node, await self._peer_of(node, key)) for ip, node in known.items()})

    async def _peer_of(self, node: Address, key: NetworkKey) -> PeerId | None:
        for peer in (self._me, key.owner):
            if address_of(peer) == node:
                return peer
        return await self._find_peer(node)

    async def on_update(self, peer: PeerId, body: Any) -> object:
        """The owner tells of a change."""
        news = Members.model_validate(body)
        segment = self._segments.get(NetworkKey(peer, news.network))
        if segment is None or segment.is_owner:
            raise NotFoundError(f"there is no network {news.network} here")
        await self._take(segment, news)
        return {}

    async def _take(self, segment: Segment, news: Members) -> None:
        """One list of a network after the other."""
        async with self._reading[segment.key]:
            if news.version < segment.version:
                return
            members = await members_of(news.nodes)
            taken = segment.set_members(news.version, members)
        if taken:
            log.info("members_learnt", network=segment.key.id, version=news.version, nodes=len(news.nodes))


async def members_of(nodes: Sequence[MemberBody]) -> Mapping[IPv4Address, Member]:
    """Raises UsageError for addresses that are none. A PeerId that is not the node's is not believed.

    With pauses: to look at a thousand new keys takes 0.2 s, and an owner may send such lists without end.
    """
    found: dict[IPv4Address, Member] = {}
    for number, entry in enumerate(nodes, 1):
        if number % limits.VPN_MEMBERS_AT_ONCE == 0:
            await trio.sleep(limits.VPN_MEMBERS_PAUSE_S)
        node = parse_node(entry.node)
        peer = PeerId(entry.peer) if entry.peer and address_of(entry.peer) == node else None
        found[parse_ip(entry.ip)] = Member(node, peer)
    return found
