"""Being reached: what we announce, who confirms that it works, and relays while it does not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog
import trio
from libp2p.identity.identify_push.identify_push import push_identify_to_peers
from multiaddr import Multiaddr

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p.addresses import CIRCUIT, dial_plan, dialable, host_of, interface_ips, is_local, is_loopback
from golemp2p.net.libp2p.circuit import is_relayed
from golemp2p.net.libp2p.circuit_wire import HOP
from golemp2p.net.libp2p.dialback import PROTOCOL as DIALBACK
from golemp2p.net.libp2p.dialback import Dialback, Seen
from golemp2p.net.libp2p.punch import Puncher
from golemp2p.net.libp2p.reach_verdict import ON_THIS_MACHINE, judge
from golemp2p.net.libp2p.several import Several
from golemp2p.net.libp2p.streams import local_address
from golemp2p.net.port import Reach, Reachability

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork
    from golemp2p.net.libp2p.upnp import Mapping

log = structlog.get_logger(__name__)


class ReachKeeper:
    def __init__(self, network: Libp2pNetwork, host: Any, config: NetConfig) -> None:
        self._network, self._host, self._config = network, host, config
        self._swarm = host.get_network()
        self._dialback = Dialback(network, self._swarm)
        self._puncher = Puncher(network, self._swarm, self)
        self._several = Several(network, host)
        self._woken = trio.Event()
        self._asked: set[PeerId] = set()  # those who could not say either
        self._ask_at = self._redial_at = 0.0
        self._own: list[str] = []
        self.mapped: tuple[str, ...] = ()  # multiaddrs that a router maps to us (upnp.py)
        self.seen: tuple[Seen, ...] = ()
        self.verdict = Reachability(Reach.UNKNOWN, "nobody was asked yet")
        network.add_peer_listener(self._on_peer)

    # --- what others are told ---------------------------------------------------------------------------------------
    def announced(self) -> list[Multiaddr]:
        """Our multiaddrs with /p2p; in the place of ``BasicHost.get_addrs``."""
        own = f"/p2p/{self._network.peer_id}"
        return [Multiaddr(text + own) for text in dict.fromkeys([*self._direct(), *self._through_relays()])]

    def _direct(self) -> list[str]:
        if self._config.announce:
            texts = [text.partition("/p2p/")[0] for text in self._config.announce]
        else:
            texts = [str(address) for address in dialable(self._host.get_transport_addrs())]
            texts += self._forwarded() if self.verdict.reach is Reach.PUBLIC else []
        return [*self.mapped, *texts]

    def _forwarded(self) -> list[str]:
        """Where others reached us, if most of them say the same: one alone could make us announce what it likes."""
        found = Counter(f"/{_kind(s.ip)}/{s.ip}/tcp/{port}" for s in self.seen for port in s.reached)
        return sorted(text for text, count in found.items() if 2 * count > len(self.seen))

    def _through_relays(self) -> list[str]:
        found = []
        for relay, reservation in self._network.circuits.reservations.items():
            # Where we dialled it, and what it says of itself (a name may be all of that).
            dialled = self._dialled(relay)
            told = [*dialled, *reservation.addresses, *self._network.known_addresses(relay)]
            usable = [str(a) for a in dial_plan(told, own=self._network.peer_id, target=relay)[0]]
            # Its word may name others' machines; on a LAN we believe what we have dialled ourselves only.
            usable = [a for a in usable if a in dialled or not (dialled and is_local(host_of(a)))]
            usable.sort(key=lambda text: is_local(host_of(text)))
            found += [f"{text}/p2p/{relay}{CIRCUIT}" for text in usable[: limits.RELAY_MAX_ADDRESSES]]
        return found

    def _dialled(self, peer: PeerId) -> list[str]:
        ends = [
            c.muxed_conn.get_remote_address()
            for c in self._network.connections(peer)
            if c.direction.name == "OUTBOUND" and not is_relayed(c)
        ]
        return [f"/{_kind(end[0])}/{end[0]}/tcp/{end[1]}" for end in ends if end]

    def ports(self) -> list[int]:
        """TCP ports that others may try, the announced ones first."""
        texts = [*self._config.announce, *self.mapped, *map(str, self._host.get_transport_addrs())]
        found = [text.split("/")[4] for text in texts if text.split("/")[3:4] == ["tcp"] and not is_loopback(text)]
        return list(dict.fromkeys(int(port) for port in found if port.isdigit()))

    # --- events -----------------------------------------------------------------------------------------------------
    def _on_peer(self, peer: PeerId, connected: bool) -> None:
        if not connected and self._network.circuits.reservations.pop(peer, None) is not None:
            log.info("relay lost", relay=peer)
        self._asked.discard(peer)
        self._woken.set()

    def _on_mapping(self, mapping: Mapping | None) -> None:
        """The router leads a port to us, or no longer does; whether that works others will say."""
        self.mapped = (f"/ip4/{mapping.ip}/tcp/{mapping.port}",) if mapping else ()
        log.info("port mapped by the router" if mapping else "the router maps no port any more", mapped=self.mapped)
        self._ask_at, self._asked = 0.0, set()
        self._woken.set()

    def on_connection(self, connection: Any) -> None:
        """A connection was made. Through a relay, to us: we try to get a direct one."""
        if len(self._network.connections(PeerId(str(connection.muxed_conn.peer_id)))) > 1:
            self._network.start(self._several.probe_older, connection)
        if is_relayed(connection) and connection.direction.name == "INBOUND":
            self._network.start(self._puncher.initiate, PeerId(str(connection.muxed_conn.peer_id)))

    def relays(self) -> list[PeerId]:
        """Relays that we are connected to, bootstrap peers first."""
        found = [peer for peer in self._network.connected_directly() if self._network.speaks(peer, HOP)]
        return sorted(found, key=lambda peer: not any(peer in address for address in self._config.bootstrap))

    # --- the task ---------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        self._dialback.serve()
        self._puncher.serve()
        if self._config.mdns:
            from golemp2p.net.libp2p.mdns import Mdns  # 40 ms to import, for who asks for it

            self._network.start(Mdns(self._network, self._config).run)
        if self._config.upnp and self.ports():
            from golemp2p.net.libp2p.upnp import UpnpPort

            self._network.start(UpnpPort(self.ports()[-1], self._on_mapping).run)
        while True:
            fresh = self._woken.is_set()
            self._woken = trio.Event()
            try:
                await self._look()
            except Exception as exc:  # a mistake here must not end a node that works
                log.exception("looking at our reachability failed", error=str(exc))
            # Identify takes a moment to say what a new peer speaks.
            with trio.move_on_after(limits.REACH_LOOK_NEW_S if fresh else limits.REACH_LOOK_S):
                await self._woken.wait()
            await trio.sleep(limits.REACH_LOOK_MIN_S)

    async def _look(self) -> None:
        own = self._direct()
        changed = bool(self._own) and sorted(own) != sorted(self._own)
        if changed:
            log.info("our addresses changed", addresses=own)
            self._ask_at, self._asked = 0.0, set()
            await self._leave_lost_addresses()
        self._own = own
        if not self.ports():
            self.verdict = ON_THIS_MACHINE
            return
        await self._ask()
        told = self._network.circuits.reservations.keys() | set()
        await self._keep_reservations()
        self._judge()
        await self._several.close_idle_relayed()
        if changed or told != self._network.circuits.reservations.keys() or sorted(self._direct()) != sorted(own):
            self._own = self._direct()
            await self._tell()

    async def _leave_lost_addresses(self) -> None:
        """TCP would find out after minutes: a connection from an address that is no longer ours is dead."""
        ours = interface_ips()
        for peer in self._network.connected_directly():
            ends = [local_address(c.muxed_conn) for c in self._network.connections(peer) if not is_relayed(c)]
            if all(end is not None and end[0] not in ours and not is_loopback(f"/ip4/{end[0]}") for end in ends):
                await self._network.drop(peer)

    def _judge(self) -> None:
        before = self.verdict
        self.verdict = judge(
            self.seen,
            own_ips=interface_ips(),
            relays=list(self._network.circuits.reservations),
            ports=self.ports(),
            use_relays=self._config.use_relays,
        )
        if before.reach is not self.verdict.reach:
            log.info("reachability", reach=self.verdict.reach.value, reason=self.verdict.reason)

    async def _ask(self) -> None:
        now = trio.current_time()
        if now < self._ask_at:
            return
        able = [p for p in self._network.connected_directly() if self._network.speaks(p, DIALBACK)]
        able = [p for p in able if p not in self._asked and self._remote_ip(p)]
        able.sort(key=lambda peer: is_local(self._remote_ip(peer)))  # who is outside knows more
        if not able:
            return
        found: list[Seen] = []

        async def ask(peer: PeerId) -> None:
            try:
                found.append(await self._dialback.ask(peer, self.ports()))
            except GolemError as exc:
                self._asked.add(peer)
                log.debug("no dial-back", peer=peer, error=str(exc))

        async with trio.open_nursery() as nursery:
            for peer in able[: limits.REACH_ASKED]:
                nursery.start_soon(ask, peer)
        if found:
            self.seen = tuple(found)
            few = len(found) < limits.REACH_ASKED
            self._ask_at = trio.current_time() + (limits.REACH_ASK_FIRST_S if few else limits.REACH_ASK_S)

    def _remote_ip(self, peer: PeerId) -> str:
        """Of a direct connection; "" for loopback, from where nobody can say anything."""
        for connection in self._network.connections(peer):
            if not is_relayed(connection):
                address = connection.muxed_conn.get_remote_address()
                if address and not is_loopback(f"/ip4/{address[0]}"):
                    return str(address[0])
        return ""

    async def _keep_reservations(self) -> None:
        circuits, now = self._network.circuits, time.time()
        direct = set(self._network.connected_directly())
        for relay, reservation in list(circuits.reservations.items()):
            if relay not in direct or reservation.expire_s < now:
                del circuits.reservations[relay]
                log.info("relay lost", relay=relay)
        needed = self._config.use_relays and self.seen and judge_direct(self)
        if not needed:
            return
        due = [r for r, found in circuits.reservations.items() if found.expire_s - now < limits.RELAY_RENEW_BEFORE_S]
        missing = limits.RELAYS_WANTED - len(circuits.reservations)
        new = [relay for relay in self.relays() if relay not in circuits.reservations][: max(0, missing)]
        for relay in [*due, *new]:
            try:
                await circuits.reserve(relay)
                log.info("relay reserved", relay=relay)
            except GolemError as exc:
                log.info("relay refused us", relay=relay, error=str(exc))
        if not circuits.reservations and not self.relays() and trio.current_time() >= self._redial_at:
            self._redial_at = trio.current_time() + limits.BOOTSTRAP_RETRY_MAX_S
            for address in self._config.bootstrap:
                self._network.start(self._redial, address)

    async def _redial(self, address: str) -> None:
        try:
            await self._network.connect(address)
        except GolemError as exc:
            log.debug("no relay", address=address, error=str(exc))

    async def _tell(self) -> None:
        """Identify-push to all peers; they pass our addresses on by the DHT."""
        log.debug("addresses told", addresses=[str(a) for a in self.announced()])
        with trio.move_on_after(limits.OPEN_STREAM_TIMEOUT_S):
            await push_identify_to_peers(self._host)


def judge_direct(keeper: ReachKeeper) -> bool:
    """Whether, relays aside, we cannot be reached."""
    found = judge(keeper.seen, own_ips=interface_ips(), relays=(), ports=keeper.ports())
    return found.reach is not Reach.PUBLIC


def _kind(ip: str) -> str:
    return "ip6" if ":" in ip else "ip4"


__all__: Sequence[str] = ("ReachKeeper",)
