"""A node that only helps others to find and to reach each other: bootstrap, DHT, relay, and a memory of offers.

It has no market of its own, no activities, no payments, no REST API, and holds no money.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from golemp2p import __version__, limits
from golemp2p.config import Settings
from golemp2p.core.ids import PeerId
from golemp2p.core.records import MarketRecord
from golemp2p.identity import NodeKey
from golemp2p.locations import Locations
from golemp2p.market.book import Applied, OrderBook
from golemp2p.market.selftest import SelfTest
from golemp2p.market.sync import RecordSync
from golemp2p.net.libp2p import open_libp2p_network
from golemp2p.net.port import Network
from golemp2p.net.rpc import Rpc
from golemp2p.wire.p2p.market import PROTOCOL
from golemp2p.wiring import domain_of, net_config

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork

log = structlog.get_logger("golemp2p.bootnode")
EXPIRE_EVERY_S: Final = 30.0


@dataclass(frozen=True)
class BootNode:
    """A running bootnode."""

    settings: Settings
    network: Network
    book: OrderBook

    def facts(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "peer_id": self.network.peer_id,
            "addresses": list(self.network.addresses()),
            "network": self.settings.net.network,
            "private": bool(self.settings.net.psk),
        }


def _heard(record: MarketRecord, applied: Applied) -> None:
    """Nobody here waits for offers."""


@asynccontextmanager
async def open_bootnode(settings: Settings, where: Locations, key: NodeKey) -> AsyncIterator[BootNode]:
    """Ready when entered. Raises UsageError (addresses)."""
    async with open_libp2p_network(key, net_config(settings, where, relay_service=True)) as network:
        rpc, book = Rpc(network), OrderBook()
        sync = RecordSync(book, network, rpc, domain_of(settings), time.time, _heard, settings.net.allows)
        test = SelfTest(book, key.peer_id, network, rpc, time.time)
        rpc.serve(PROTOCOL, {**sync.handlers(), "holds": test.on_holds})
        async with trio.open_nursery() as nursery:
            await nursery.start(rpc.run)
            await nursery.start(sync.run, settings.net.subnet)
            nursery.start_soon(_expire, book)
            nursery.start_soon(_report, network, book)
            nursery.start_soon(_keep_room, network)
            node = BootNode(settings, network, book)
            log.info("bootnode_ready", peer_id=key.peer_id, addresses=list(network.addresses()))
            yield node
            nursery.cancel_scope.cancel()


async def _expire(book: OrderBook) -> None:
    while True:
        await trio.sleep(EXPIRE_EVERY_S)
        book.remove_expired(time.time())


async def _report(network: Network, book: OrderBook) -> None:
    """For its operator's log."""
    while True:
        await trio.sleep(limits.BOOTNODE_REPORT_S)
        seen = network.statistics()
        log.info("bootnode", peers=seen.connections, records=len(book), gossip_received=seen.gossip_received)


async def _keep_room(network: Libp2pNetwork) -> None:
    """Who has others by now makes room for those who come: a full bootnode would end a network's growth."""
    since: dict[PeerId, float] = {}
    while True:
        await trio.sleep(limits.BOOTNODE_LOOK_S)
        await make_room(network, since, trio.current_time())


async def make_room(network: Libp2pNetwork, since: dict[PeerId, float], now: float) -> None:
    """Above BOOTNODE_PEERS_HIGH connections those go that are here for the longest, down to BOOTNODE_PEERS_LOW; not
    those that are reached through this relay. ``since``: peer -> when it was first seen connected."""
    connected = {peer.peer for peer in network.peers() if peer.connected}
    for peer in since.keys() - connected:
        del since[peer]
    for peer in connected:
        since.setdefault(peer, now)
    if len(connected) <= limits.BOOTNODE_PEERS_HIGH:
        return
    stay = network.reserved_by()
    old = [peer for peer in since if peer not in stay and now - since[peer] >= limits.BOOTNODE_STAY_S]
    for peer in old[: len(connected) - limits.BOOTNODE_PEERS_LOW]:
        await network.drop(peer)
    log.info("bootnode_made_room", peers=len(connected), reached_through_us=len(stay))
