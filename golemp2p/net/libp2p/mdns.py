"""Finding nodes of the same network on the LAN by multicast DNS (opt-in: [net] mdns).

Each node is a service of type ``_golemp2p._tcp``. What is told to the LAN: PeerId, port, addresses, and a hash that
only nodes of the same network compute alike: nobody else's nodes are dialled, and a private network's name is not told.
Not libp2p's own, whose handlers are global to the process.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog
import trio
from zeroconf import NonUniqueNameException, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p.addresses import CIRCUIT, host_of, is_local

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork

log = structlog.get_logger(__name__)
SERVICE: Final = "_golemp2p._tcp.local."
_LABEL_CHARS: Final = 63  # of DNS


def tag_of(config: NetConfig) -> str:
    """The same on all nodes of one network; without its key a private network's name cannot be tried out."""
    return hashlib.sha256(b"golemp2p-mdns/1/" + (config.psk or b"") + b"/" + config.network.encode()).hexdigest()[:32]


class Mdns:
    """Announces this node and dials what it finds, as long as :meth:`run` runs."""

    def __init__(self, network: Libp2pNetwork, config: NetConfig) -> None:
        self._network = network
        self._tag = tag_of(config)
        self._found, self._finds = trio.open_memory_channel[str](limits.MDNS_QUEUE)
        self._tried: dict[PeerId, float] = {}

    async def run(self) -> None:
        """A machine without multicast costs a line in the log and nothing else."""
        own = [a for a in self._network.addresses() if a.startswith("/ip4/") and CIRCUIT not in a]
        local = [a for a in own if is_local(host_of(a))]
        if not local:
            log.info("no mDNS: this node has no address on a LAN")
            return
        token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            try:
                zeroconf = await trio.to_thread.run_sync(self._start, local, token)
            except (OSError, NonUniqueNameException) as exc:
                log.warning("mDNS does not work here", error=str(exc))
                return
            try:
                nursery.start_soon(self._dial_finds)
                await trio.sleep_forever()
            finally:
                with trio.move_on_after(limits.CLOSE_TIMEOUT_S, shield=True):
                    await trio.to_thread.run_sync(zeroconf.close, abandon_on_cancel=True)

    def _start(self, addresses: list[str], token: trio.lowlevel.TrioToken) -> Zeroconf:
        """In a worker thread: zeroconf waits here until its name is known to be free."""
        hosts = [host_of(address) for address in addresses]
        peer = str(self._network.peer_id)
        zeroconf = Zeroconf(interfaces=hosts)
        try:
            info = ServiceInfo(
                SERVICE,
                f"{peer[-_LABEL_CHARS:]}.{SERVICE}",
                port=int(addresses[0].split("/")[4]),
                addresses=[socket.inet_aton(host) for host in hosts],
                properties={"net": self._tag, "peer": peer},
                server=f"{peer[-_LABEL_CHARS:].lower()}.local.",
            )
            zeroconf.register_service(info)
            ServiceBrowser(zeroconf, SERVICE, handlers=[self._listener(token)])
        except BaseException:
            zeroconf.close()
            raise
        return zeroconf

    def _listener(self, token: trio.lowlevel.TrioToken) -> Callable[..., None]:
        def changed(*, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
            """In zeroconf's thread."""
            if state_change is ServiceStateChange.Removed:
                return
            info = zeroconf.get_service_info(service_type, name, timeout=limits.MDNS_RESOLVE_MS)
            for address in self._addresses(info) if info is not None else []:
                try:
                    token.run_sync_soon(self._queue, address)
                except trio.RunFinishedError:
                    return

        return changed

    def _addresses(self, info: ServiceInfo) -> list[str]:
        """Dialable ones of a node of our network. All of it is what anybody on the LAN may say."""
        told = info.properties
        if told.get(b"net") != self._tag.encode():
            return []
        try:
            peer = (told.get(b"peer") or b"").decode("ascii")
        except UnicodeDecodeError:
            return []
        if not info.port or peer == self._network.peer_id:
            return []
        hosts = [host for host in info.parsed_addresses()[: limits.DIAL_MAX_ADDRESSES] if is_local(host)]
        return [f"/ip4/{host}/tcp/{info.port}/p2p/{peer}" for host in hosts if ":" not in host]

    def _queue(self, address: str) -> None:
        try:
            self._found.send_nowait(address)
        except (trio.WouldBlock, trio.BrokenResourceError):
            log.debug("mDNS find dropped", address=address)

    async def _dial_finds(self) -> None:
        async for address in self._finds:
            peer = PeerId(address.rpartition("/")[2])
            now = trio.current_time()
            self._tried = {p: at for p, at in self._tried.items() if now - at < limits.MDNS_AGAIN_S}
            if self._network.is_connected(peer) or len(self._tried) >= limits.MDNS_QUEUE:
                continue
            self._tried[peer] = now
            try:
                await self._network.connect(address)
            except GolemError as exc:
                log.debug("found by mDNS, not reached", address=address, error=str(exc))
            else:
                log.info("found by mDNS", peer=peer)
