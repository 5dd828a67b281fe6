"""The libp2p adapter of the network port."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import DeadlineError, GolemError, NetworkError, PolicyError, RemoteProtocolError, UsageError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p import patches  # first: it decides what of libp2p gets imported

# isort: split
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.patterns import IPattern, PatternXX
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from golemp2p.net.libp2p.addresses import (
    check_bootstrap,
    dial_addresses,
    dialable,
    is_ours,
    is_sound,
    libp2p_id,
    listen_addresses,
)
from golemp2p.net.libp2p.circuit import Circuits, RelayService, is_relayed
from golemp2p.net.libp2p.dht import Dht, make_dht
from golemp2p.net.libp2p.dialer import Dialer
from golemp2p.net.libp2p.gossip import Gossip, make_pubsub
from golemp2p.net.libp2p.inbound import InboundGuard
from golemp2p.net.libp2p.peers import PeerKeeper
from golemp2p.net.libp2p.pnet import prologue_of
from golemp2p.net.libp2p.reach import ReachKeeper
from golemp2p.net.libp2p.streams import Libp2pStream, contain, run_handler
from golemp2p.net.port import (
    ByteStream,
    GossipHandler,
    GossipValidator,
    NetworkStatistics,
    PeerInfo,
    PeerListener,
    Reachability,
    StreamHandler,
)

log = structlog.get_logger(__name__)
_ADDRESS_TTL_S = 24 * 3600


class _Noise(NoiseTransport):  # type: ignore[misc] # libp2p ships no types
    """Noise whose handshake only succeeds between nodes of one network."""

    prologue = b""

    def get_pattern(self) -> IPattern:
        return PatternXX(self.local_peer, self.libp2p_privkey, self.noise_privkey, self.early_data, self.prologue)

    async def secure_inbound(self, conn: Any) -> Any:
        secured = await super().secure_inbound(conn)
        if not is_ours(secured.get_remote_peer()):
            await secured.close()
            raise RemoteProtocolError("a peer without an Ethereum key", hint="nodes of golemp2p have secp256k1 keys")
        return secured


class _PeerStore(PeerStore):  # type: ignore[misc] # as above
    """Of nodes like us only. libp2p's forgets, when it knows too many peers, those without addresses first: ourselves
    with our key."""

    def __init__(self, kept: Callable[[], set[ID]]) -> None:
        """``kept``: those that are never forgotten."""
        super().__init__(max_peers=limits.MAX_KNOWN_PEERS)
        self._kept = kept

    def add_addrs(self, peer_id: ID, addrs: Sequence[Multiaddr], ttl: int = 0) -> None:
        if is_ours(peer_id):  # others' DHT answers, and peers that gossip names, may be of any kind
            super().add_addrs(peer_id, [address for address in addrs if is_sound(address)], ttl)

    def _enforce_peer_limit(self) -> None:
        if len(self.peer_data_map) <= self.max_peers:
            return
        kept = self._kept()
        strangers = [(peer, data) for peer, data in self.peer_data_map.items() if peer not in kept]
        strangers.sort(key=lambda item: (bool(item[1].get_addrs()), not item[1].is_expired()))
        # More than one, or it would be sorted for each new peer.
        for peer, _ in strangers[: len(self.peer_data_map) - self.max_peers + self.max_peers // 10]:
            self.peer_record_map.pop(peer, None)
            del self.peer_data_map[peer]


def make_host(key: NodeKey, config: NetConfig) -> Any:
    """TCP, Noise only, Yamux only; no resource manager (its limits do not act; ours are in inbound.py, streams.py)."""
    pair = create_new_key_pair(key.secret)
    own = ID.from_pubkey(pair.public_key)
    peerstore = _PeerStore(lambda: {own, *swarm.connections})
    peerstore.add_key_pair(own, pair)
    noise = _Noise(pair, noise_privkey=create_x25519_key_pair().private_key)
    noise.prologue = prologue_of(config.network, config.psk)
    swarm = Swarm(
        own,
        peerstore,
        TransportUpgrader(
            secure_transports_by_protocol={TProtocol(NOISE_ID): noise},
            muxer_transports_by_protocol={TProtocol(YAMUX_ID): Yamux},
        ),
        transports=[TCP()],
        psk=config.psk.hex() if config.psk else None,
        retry_config=RetryConfig(max_retries=1, initial_delay=0.05),
        # PeerKeeper keeps the number of peers; libp2p's auto-connector is told to want none.
        connection_config=ConnectionConfig(
            max_connections=limits.MAX_CONNECTIONS,
            min_connections=0,
            low_watermark=0,
            high_watermark=limits.MAX_CONNECTIONS,
            dial_timeout=limits.DIAL_TIMEOUT_S,
            inbound_upgrade_timeout=limits.HANDSHAKE_TIMEOUT_S,
            outbound_upgrade_timeout=limits.DIAL_TIMEOUT_S,
        ),
    )
    announce = [Multiaddr(text) for text in config.announce] or None
    host = BasicHost(
        network=swarm,
        announce_addrs=announce,
        addrs_factory=None if announce else dialable,
        disable_identify_address_discovery=True,
    )
    swarm.set_stream_handler(contain(host._swarm_stream_handler))
    return host


class _Notifee:
    """libp2p's connection events, counted to the first and the last connection of a peer."""

    def __init__(self, network: Libp2pNetwork) -> None:
        self._network = network

    async def connected(self, _network: Any, connection: Any) -> None:
        if not connection.is_closed:  # libp2p tells it late: the connection may have come and gone
            self._network._on_connected(PeerId(str(connection.muxed_conn.peer_id)))
            self._network.reach.on_connection(connection)

    async def disconnected(self, _network: Any, connection: Any) -> None:
        self._network._on_disconnected(PeerId(str(connection.muxed_conn.peer_id)))

    async def opened_stream(self, *_: Any) -> None: ...
    async def closed_stream(self, *_: Any) -> None: ...
    async def listen(self, *_: Any) -> None: ...
    async def listen_close(self, *_: Any) -> None: ...


class Libp2pNetwork:
    """A running host. Made by :func:`open_libp2p_network`."""

    def __init__(self, key: NodeKey, host: Any, config: NetConfig, nursery: trio.Nursery) -> None:
        self._host, self._swarm, self._config, self._nursery = host, host.get_network(), config, nursery
        self._peer_id = key.peer_id
        self._listeners: list[PeerListener] = []
        self._connected: set[PeerId] = set()
        self._bans: dict[PeerId, float] = {}
        self._opened = self._accepted = 0
        self._gossip: Gossip | None = None
        self._dht: Dht | None = None
        self.keeper = PeerKeeper(self, config)
        self._swarm.register_notifee(_Notifee(self))
        self.guard = InboundGuard(self._swarm, max_per_ip=config.max_connections_per_ip, banned=self._is_banned)
        self._swarm._handle_inbound_connection = self.guard.handle
        self.circuits = Circuits(self)
        self.relay_service: RelayService | None = None
        self._swarm.dial_peer = Dialer(self, self._swarm).dial_peer
        self.reach = ReachKeeper(self, host, config)
        host.get_addrs = self.reach.announced  # libp2p's own mangles addresses that lead through relays

    # --- who --------------------------------------------------------------------------------------------------------
    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def addresses(self) -> Sequence[str]:
        return [str(address) for address in self._host.get_addrs()]

    def peers(self) -> Sequence[PeerInfo]:
        store = self._host.get_peerstore()
        known = {str(peer) for peer in store.peers_with_addrs()} - {self._peer_id}
        names = sorted(self._connected) + sorted(known - self._connected)
        return [self._peer_info(PeerId(name)) for name in names[: limits.MAX_KNOWN_PEERS]]

    def _peer_info(self, peer: PeerId) -> PeerInfo:
        connections = self.connections(peer)
        direction = ""
        if connections:
            direction = "in" if connections[0].direction.name == "INBOUND" else "out"
        known = self.known_addresses(peer)
        whole = (text if text.endswith(f"/p2p/{peer}") else f"{text}/p2p/{peer}" for text in known)
        addresses = tuple(dict.fromkeys(whole))
        relayed = bool(connections) and all(is_relayed(connection) for connection in connections)
        return PeerInfo(peer, addresses, bool(connections), direction, self.keeper.round_trip_s.get(peer), relayed)

    def known_addresses(self, peer: PeerId) -> list[str]:
        """Multiaddrs, with or without the peer's /p2p at their end."""
        return list(map(str, self._known_addresses(peer, self._host.get_peerstore())))

    def connections(self, peer: PeerId) -> list[Any]:
        """libp2p's, those that are open."""
        return [c for c in self._swarm.get_connections(libp2p_id(peer)) if not c.is_closed]

    def connected_directly(self) -> list[PeerId]:
        """Peers with a connection that needs no relay."""
        return sorted(p for p in self._connected if any(not is_relayed(c) for c in self.connections(p)))

    def reserved_by(self) -> frozenset[PeerId]:
        """Who is reached through this relay, and must stay connected for that."""
        return frozenset() if self.relay_service is None else self.relay_service.reserved_by()

    def speaks(self, peer: PeerId, protocol: str) -> bool:
        """Whether ``peer`` told us so, by identify."""
        try:
            return bool(self._host.get_peerstore().supports_protocols(libp2p_id(peer), [protocol]))
        except Exception:  # noqa: BLE001 - libp2p's way to say that it knows nothing
            return False

    def _known_addresses(self, peer: PeerId, store: Any) -> list[Any]:
        try:
            return list(store.addrs(libp2p_id(peer)))
        except Exception:  # noqa: BLE001 - libp2p's way to say "none"
            return []

    def statistics(self) -> NetworkStatistics:
        gossip = self._gossip
        return NetworkStatistics(
            connections=len(self._connected),
            streams_opened=self._opened,
            streams_accepted=self._accepted,
            gossip_published=gossip.published if gossip else 0,
            gossip_received=gossip.received if gossip else 0,
            gossip_dropped=gossip.dropped if gossip else 0,
        )

    def reachability(self) -> Reachability:
        return self.reach.verdict

    def start(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run ``task`` as long as the network runs."""
        self._nursery.start_soon(task, *args)

    def add_peer_listener(self, listener: PeerListener) -> None:
        self._listeners.append(listener)

    def is_connected(self, peer: PeerId) -> bool:
        return peer in self._connected

    def _on_connected(self, peer: PeerId) -> None:
        if peer in self._connected:
            return
        self._connected.add(peer)
        log.info("peer connected", peer=peer)
        self.keeper.watch(peer, self._nursery)
        self._tell(peer, connected=True)

    def _on_disconnected(self, peer: PeerId) -> None:
        if peer not in self._connected or any(
            not connection.is_closed for connection in self._swarm.get_connections(libp2p_id(peer))
        ):
            return
        self._connected.discard(peer)
        # Else libp2p asks a peer only once in its life what it speaks and where it is.
        self._host.get_peerstore().clear_protocol_data(libp2p_id(peer))
        log.info("peer disconnected", peer=peer)
        self.keeper.forget(peer)
        self._tell(peer, connected=False)

    def _tell(self, peer: PeerId, *, connected: bool) -> None:
        for listener in self._listeners:
            try:
                listener(peer, connected)
            except Exception as exc:  # one listener's mistake must not reach libp2p's connection task
                log.exception("peer listener failed", peer=peer, error=str(exc))

    # --- connections ------------------------------------------------------------------------------------------------
    async def connect(self, multiaddr: str) -> PeerId:
        peer, found = await dial_addresses(multiaddr)
        if peer == self._peer_id:
            raise UsageError("that address is our own", hint="give the address of another node")
        hearsay = [a for a in found if a not in self._known_addresses(peer, self._host.get_peerstore())]
        self._prefer(peer, found)
        self.keeper.neighbours.dismissed_until.pop(peer, None)
        try:
            await self._dial(peer)
        except GolemError:
            # Whoever names addresses of others must not crowd out those that are right.
            addresses = self._known_addresses(peer, self._host.get_peerstore())
            self._keep_addresses(peer, [a for a in addresses if a not in hearsay])
            raise
        return peer

    def _prefer(self, peer: PeerId, addresses: list[Any]) -> None:
        """Dial ``addresses`` before those that were known before."""
        store = self._host.get_peerstore()
        known = [a for a in self._known_addresses(peer, store) if a not in addresses]
        store.add_addrs(libp2p_id(peer), addresses, _ADDRESS_TTL_S)
        self._keep_addresses(peer, [*addresses, *known])

    def _keep_addresses(self, peer: PeerId, addresses: list[Any]) -> None:
        # Not by clear_addrs(), which forgets the peer's signed record, too.
        data = self._host.get_peerstore().peer_data_map.get(libp2p_id(peer))
        if data is not None:
            data.addrs[:] = addresses[: limits.PEER_ADDRESSES]

    async def _dial(self, peer: PeerId) -> None:
        if peer in self._connected:
            return
        if self._is_banned(peer):
            raise PolicyError(f"peer {peer} is banned for breaking the protocol", hint="it is let in again in a minute")
        # A peer that was down a moment ago may be up now: libp2p would refuse to try for a minute.
        self._swarm._negative_peer_cache.evict(str(libp2p_id(peer)))
        try:
            with trio.fail_after(limits.DIAL_TIMEOUT_S):
                for connection in await self._swarm.dial_peer(libp2p_id(peer)):
                    await connection.event_started.wait()
        except trio.TooSlowError as exc:
            raise DeadlineError(f"peer {peer} did not answer within {limits.DIAL_TIMEOUT_S:.0f} s") from exc
        except Exception as exc:  # libp2p raises several unrelated families here
            raise NetworkError(
                f"peer {peer} cannot be reached: {exc}", hint="is it running, is the address right?"
            ) from exc

    async def disconnect(self, peer: PeerId) -> None:
        self.keeper.neighbours.dismissed_until[peer] = (
            trio.current_time() + limits.PEER_BAN_S
        )  # else it is dialled in a moment
        await self.drop(peer)

    async def drop(self, peer: PeerId) -> None:
        """Close the connections to ``peer``; it may be dialled again at once."""
        with trio.move_on_after(limits.CLOSE_TIMEOUT_S, shield=True):
            try:
                await self._host.disconnect(libp2p_id(peer))
            except Exception as exc:  # noqa: BLE001 - it is to be gone, and is
                log.debug("disconnect failed", peer=peer, error=repr(exc))
        # Without an event of libp2p, which it leaves out when two sides close at once, the peer would stay
        # "connected" for ever, and never be dialled again.
        self._on_disconnected(peer)

    async def drop_one_of_several(self, peer: PeerId, stream: ByteStream | None) -> bool:
        """Close the connection of ``stream``, which does not answer, if ``peer`` has another. Whether it has."""
        dead = stream.connection if isinstance(stream, Libp2pStream) else None
        connections = self.connections(peer)
        found = [c for c in connections if c.muxed_conn is dead]
        if len(connections) == len(found) or not found:
            return False
        with trio.move_on_after(limits.CLOSE_TIMEOUT_S, shield=True):
            try:
                await found[0].close()
            except Exception as exc:  # noqa: BLE001 - it is to be gone, and is
                log.debug("close failed", peer=peer, error=repr(exc))
        return True

    def blame(self, peer: PeerId) -> None:
        self.keeper.blame(peer)

    async def ban(self, peer: PeerId, duration_s: float) -> None:
        """Disconnect and neither dial nor accept ``peer`` for a while."""
        self._bans[peer] = trio.current_time() + duration_s
        log.warning("peer banned", peer=peer, duration_s=duration_s)
        await self.disconnect(peer)

    def _is_banned(self, peer: PeerId) -> bool:
        until = self._bans.get(peer)
        if until is not None and until <= trio.current_time():
            del self._bans[peer]
            return False
        return until is not None

    # --- streams ----------------------------------------------------------------------------------------------------
    async def open_stream(
        self, peer: PeerId, protocol: str, *, timeout_s: float = limits.OPEN_STREAM_TIMEOUT_S
    ) -> ByteStream:
        if peer == self._peer_id:
            raise UsageError("a node opens no stream to itself")
        try:
            with trio.fail_after(timeout_s):
                if peer not in self._connected:
                    await self._reach(peer)
                stream = await self._host.new_stream(libp2p_id(peer), [TProtocol(protocol)])
        except trio.TooSlowError as exc:
            raise DeadlineError(f"no {protocol} stream to {peer} within {timeout_s:g} s") from exc
        except GolemError:
            raise
        except Exception as exc:  # libp2p raises several unrelated families here
            raise NetworkError(f"no {protocol} stream to {peer}: {exc}") from exc
        self._opened += 1
        return Libp2pStream(stream)

    async def _reach(self, peer: PeerId) -> None:
        """Dial by known addresses, then by those that the DHT knows."""
        store = self._host.get_peerstore()
        failure: GolemError = NetworkError(f"no address of peer {peer} is known")
        if self._known_addresses(peer, store):
            try:
                await self._dial(peer)
            except NetworkError as exc:
                failure = exc
            else:
                return
        if self._dht is None:
            raise failure
        found = await self._dht.find_peer(peer)
        if not found:
            raise failure
        self._prefer(peer, found)
        await self._dial(peer)

    def set_stream_handler(self, protocol: str, handler: StreamHandler) -> None:
        async def handle(net_stream: Any) -> None:
            self._accepted += 1
            stream = Libp2pStream(net_stream)
            if self._is_banned(stream.peer):
                await stream.reset()
                return
            await run_handler(handler, stream, protocol)

        self._host.set_stream_handler(TProtocol(protocol), handle)

    # --- gossip -----------------------------------------------------------------------------------------------------
    async def subscribe(self, topic: str, validator: GossipValidator, handler: GossipHandler) -> None:
        await self._need(self._gossip).subscribe(topic, validator, handler)

    async def publish(self, topic: str, data: bytes) -> None:
        await self._need(self._gossip).publish(topic, data)

    # --- DHT --------------------------------------------------------------------------------------------------------
    async def put_record(self, key: str, value: bytes) -> None:
        await self._need(self._dht).put(key, value)

    async def get_record(self, key: str) -> bytes | None:
        value: bytes | None = await self._need(self._dht).get(key)
        return value

    async def provide(self, key: str) -> None:
        await self._need(self._dht).provide(key)

    async def find_providers(self, key: str, *, limit: int = 20) -> Sequence[PeerId]:
        found = await self._need(self._dht).find_providers(key, limit)
        store = self._host.get_peerstore()
        for info in found:
            if info.addrs:
                store.add_addrs(info.peer_id, info.addrs[: limits.DIAL_MAX_ADDRESSES], _ADDRESS_TTL_S)
        return [PeerId(str(info.peer_id)) for info in found]

    @staticmethod
    def _need(part: Any) -> Any:
        if part is None:
            raise PolicyError("the DHT is switched off", hint="set net.dht = true")
        return part


def _quiet() -> None:
    """libp2p sets its own log levels on import and reports every lost connection as an error."""
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    for name in ("async_service", "multiaddr"):
        logging.getLogger(name).setLevel(logging.ERROR)


@asynccontextmanager
async def open_libp2p_network(key: NodeKey, config: NetConfig | None = None) -> AsyncIterator[Libp2pNetwork]:
    """Listen, join gossip and DHT, dial the bootstrap peers (in the background), and be a Network until the exit.

    Raises UsageError for addresses that cannot be listened on or dialled, and what the body raises, not in groups.
    """
    config = config or NetConfig()
    patches.apply()
    _quiet()
    check_bootstrap(config.bootstrap)
    listen = listen_addresses(config.listen)
    host = make_host(key, config)
    failure: Exception | None = None
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(host.run(listen_addrs=listen))
        if not host.get_addrs():
            raise UsageError(f"cannot listen on {', '.join(config.listen)}")
        pubsub, router = make_pubsub(host)
        kad = make_dht(host, config.network) if config.dht else None
        for service in [pubsub, router, *([kad] if kad else [])]:
            await stack.enter_async_context(background_trio_service(service))
        await pubsub.wait_until_ready()
        nursery = await stack.enter_async_context(trio.open_nursery())
        network = Libp2pNetwork(key, host, config, nursery)
        network._gossip = Gossip(pubsub, key.peer_id, nursery, network.keeper)
        network._dht = Dht(kad, key, config.network) if kad else None
        network.circuits.serve()
        if config.relay_service:
            network.relay_service = RelayService(network)
            network.relay_service.serve()
        nursery.start_soon(network.keeper.run)  # ends by keeper.stop
        nursery.start_soon(network.reach.run)
        log.info("network up", peer=key.peer_id, addresses=list(network.addresses()))
        try:
            yield network
        except Exception as exc:  # noqa: BLE001 - raised again below, outside of libp2p's nurseries
            failure = exc
        finally:
            # Before the nurseries end: leaving them does not close libp2p's sockets.
            with trio.move_on_after(limits.CLOSE_TIMEOUT_S, shield=True):
                await network.keeper.stop()
                await host.close()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


__all__ = ["Libp2pNetwork", "make_host", "open_libp2p_network"]
