"""The requestor's side: its networks, who is in them, and connections to the activities in them.

Networks live as long as the node: as in yagna they are gone after a restart.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import Address, PeerId
from golemp2p.core.peer import address_of
from golemp2p.core.vpn import Member, Membership, echo_reply
from golemp2p.errors import ConflictError, GolemError, NetworkError, NotFoundError
from golemp2p.net.port import ByteStream, Network
from golemp2p.net.rpc import Rpc
from golemp2p.vpn.providing import FindPeer
from golemp2p.vpn.segment import NetworkKey, Segment
from golemp2p.vpn.trunk import Trunks, open_tunnel
from golemp2p.wire.p2p.vpn import NETWORK_PROTOCOL, ConnectHeader, MemberBody, Members, NetworkRef

log = structlog.get_logger(__name__)


class UnreachableError(NetworkError):
    """No connection to a port of an activity could be made; the message says why."""

    code = "unreachable"


@dataclass
class OwnedNetwork:
    """One network of this node. ``connections`` are those that clients have open through it now."""

    id: str
    gateway: IPv4Address
    membership: Membership
    segment: Segment
    connections: dict[int, tuple[IPv4Address, int, trio.CancelScope]] = field(default_factory=dict)
    pushing: set[PeerId] = field(default_factory=set)
    told: dict[PeerId, int] = field(default_factory=dict)  # the newest version that each peer has

    @property
    def network(self) -> IPv4Network:
        return self.membership.network


class Owning:
    """:meth:`run` owns the pushes. ``segments`` are the node's."""

    def __init__(
        self,
        network: Network,
        rpc: Rpc,
        trunks: Trunks,
        segments: MutableMapping[NetworkKey, Segment],
        find_peer: FindPeer,
    ) -> None:
        self._net = network
        self._me = network.peer_id
        self._address = address_of(network.peer_id)
        self._rpc = rpc
        self._trunks = trunks
        self._segments = segments
        self._find_peer = find_peer
        self._networks: dict[str, OwnedNetwork] = {}
        self._nursery: trio.Nursery | None = None
        self._serial = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    # --- networks ---------------------------------------------------------------------------------------------------

    def create(self, network: IPv4Network, gateway: IPv4Address | None = None) -> OwnedNetwork:
        """Raises ConflictError when there are too many."""
        if len(self._networks) >= limits.MAX_VPN_NETWORKS:
            raise ConflictError(f"this node has {len(self._networks)} networks already", hint="remove some")
        key = NetworkKey(self._me, secrets.token_hex(16))
        segment = self._segments[key] = Segment(key, self._me, partial(self._trunks.send, key))
        made = OwnedNetwork(key.id, gateway or next(network.hosts()), Membership(network), segment)
        self._networks[key.id] = made
        log.info("network_created", network=key.id, range=str(network))
        return made

    def all(self) -> list[OwnedNetwork]:
        return list(self._networks.values())

    def get(self, network_id: str) -> OwnedNetwork:
        """Raises NotFoundError."""
        try:
            return self._networks[network_id]
        except KeyError:
            raise NotFoundError(f"there is no network {network_id[:64]}") from None

    def remove(self, network_id: str) -> None:
        """Its connections are cut, its members told. Raises NotFoundError."""
        owned = self.get(network_id)
        del self._networks[network_id]
        before = owned.membership.members
        owned.membership.clear()
        self._changed(owned, before)
        del self._segments[owned.segment.key]
        for _, _, scope in list(owned.connections.values()):
            scope.cancel()
        log.info("network_removed", network=network_id)

    # --- members ----------------------------------------------------------------------------------------------------

    def add_address(self, network_id: str, ip: IPv4Address) -> None:
        """Our own. Raises NotFoundError, UsageError, ConflictError (also when it is ours already, as in yagna)."""
        owned = self.get(network_id)
        before = owned.membership.members
        if not owned.membership.add(ip, self._address, self._me):
            raise ConflictError(f"{ip} is this node's address already")
        self._changed(owned, before)

    def addresses(self, network_id: str) -> list[IPv4Address]:
        return [ip for ip, member in self.get(network_id).membership.members.items() if member.node == self._address]

    def places_of(self, node: Address) -> list[tuple[str, str]]:
        """(network, IP) of a node in all networks of ours."""
        return [
            (owned.id, str(ip))
            for owned in self._networks.values()
            for ip, member in owned.membership.members.items()
            if member.node == node
        ]

    async def add_node(self, network_id: str, node: Address, ip: IPv4Address) -> None:
        """Idempotent. Raises NotFoundError, UsageError, ConflictError."""
        owned = self.get(network_id)
        peer = self._me if node == self._address else await self._find_peer(node)
        before = owned.membership.members
        if owned.membership.add(ip, node, peer):
            self._changed(owned, before)
        if peer is None:
            log.info("node_not_known_yet", network=network_id, node=node, hint="it is learnt when it joins")

    def remove_node(self, network_id: str, node: Address) -> None:
        """Raises NotFoundError."""
        owned = self.get(network_id)
        before = owned.membership.members
        owned.membership.remove(node)
        self._changed(owned, before)

    def _changed(self, owned: OwnedNetwork, before: Mapping[IPv4Address, Member]) -> None:
        """Bring our own part up to date, and tell all peers that are or were in it."""
        segment, members = owned.segment, owned.membership.members
        segment.set_members(owned.membership.version, members)
        for ip, member in before.items():
            if member.node == self._address and ip not in members:
                segment.remove_port(ip)
        for ip, member in members.items():
            if member.node == self._address and not segment.has_port(ip):
                segment.add_port(ip, partial(self._echo, segment, ip.packed))
        everybody = {member.peer for member in (*before.values(), *members.values())}
        for peer in everybody - {None, self._me}:
            if peer is not None and peer not in owned.pushing and self._nursery is not None:
                owned.pushing.add(peer)
                self._nursery.start_soon(self._push, owned, peer)

    @staticmethod
    def _echo(segment: Segment, ip: bytes, packet: bytes) -> bool:
        """Nothing listens at the requestor's own address, but it answers pings."""
        reply = echo_reply(packet)
        if reply is not None:
            segment.from_port(ip, reply)
        return True

    async def _push(self, owned: OwnedNetwork, peer: PeerId) -> None:
        """Until the peer has the newest list, or runs nothing in the network. Never raises but Cancelled."""
        try:
            for attempt in range(limits.VPN_PUSH_ATTEMPTS):
                await trio.sleep(attempt * limits.VPN_RETRY_S)
                while owned.told.get(peer, -1) < owned.membership.version:
                    body = _members(owned)
                    try:
                        await self._rpc.call(
                            peer, NETWORK_PROTOCOL, "update", body.model_dump(), timeout_s=limits.VPN_RPC_S
                        )
                    except NetworkError as exc:
                        log.info("members_not_pushed", network=owned.id, peer=peer, error=str(exc))
                        break
                    except GolemError as exc:  # it runs nothing in this network (any more)
                        log.debug("members_not_wanted", network=owned.id, peer=peer, error=str(exc))
                    owned.told[peer] = body.version
                else:
                    return
        finally:
            owned.pushing.discard(peer)

    async def on_members(self, peer: PeerId, body: Any) -> object:
        """A provider asks, and tells by asking which peer its node is."""
        wanted = NetworkRef.model_validate(body).network
        owned = self._networks.get(wanted)
        node = address_of(peer)
        if owned is None or all(member.node != node for member in owned.membership.members.values()):
            raise NotFoundError(f"there is no network {wanted}")
        before = owned.membership.members
        if owned.membership.learn(node, peer):
            self._changed(owned, before)
        return _members(owned).model_dump()

    # --- connections ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connection(self, network_id: str, ip: IPv4Address, port: int) -> AsyncIterator[ByteStream]:
        """A TCP connection to a port of the activity with that address, as long as the network lives.

        Raises NotFoundError (network, address), UnreachableError.
        """
        owned = self.get(network_id)
        member = owned.membership.members.get(ip)
        if member is None:
            raise NotFoundError(f"nobody has {ip} in network {network_id}")
        stream = await self._reach(owned, member, ip, port)
        self._serial += 1
        serial = self._serial
        try:
            with trio.CancelScope() as scope:
                owned.connections[serial] = (ip, port, scope)
                yield stream
        finally:
            owned.connections.pop(serial, None)
            await stream.aclose()

    async def _reach(self, owned: OwnedNetwork, member: Member, ip: IPv4Address, port: int) -> ByteStream:
        """Through passing trouble of the network, and while the activity is still being deployed."""
        why = f"the peer of node {member.node} is not known"
        header = ConnectHeader(network=owned.id, ip=str(ip), port=port).model_dump()
        with trio.move_on_after(limits.VPN_CONNECT_S):
            while True:
                peer = member.peer or await self._find_peer(member.node)
                if peer == self._me:
                    why = f"{ip} is this node's own address: nothing listens there"
                    break
                if peer is not None:
                    try:
                        return await open_tunnel(self._net, peer, header, timeout_s=limits.VPN_CONNECT_S)
                    except (NotFoundError, NetworkError) as exc:
                        why = exc.message
                    except GolemError as exc:
                        raise UnreachableError(f"cannot connect to {ip}:{port}: {exc.message}") from None
                await trio.sleep(limits.VPN_RETRY_S)
        raise UnreachableError(f"cannot connect to {ip}:{port} within {limits.VPN_CONNECT_S:g} s: {why}")


def _members(owned: OwnedNetwork) -> Members:
    nodes = [
        MemberBody(ip=str(ip), node=member.node, peer=member.peer or "")
        for ip, member in owned.membership.members.items()
    ]
    return Members(network=owned.id, version=owned.membership.version, nodes=nodes)
