"""Market nodes on the memory network: real services, real rpc, a database in memory, virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import pytest
import trio

from golemp2p.core.eip712 import Domain
from golemp2p.core.ids import SubscriptionId
from golemp2p.core.properties import Properties
from golemp2p.core.records import RecordKind
from golemp2p.identity import NodeKey
from golemp2p.market.rendezvous import Spread
from golemp2p.market.service import MarketService
from golemp2p.market.subscriptions import MarketEvent
from golemp2p.net.memory import MemoryHub, MemoryNetwork, open_memory_network
from golemp2p.net.rpc import Rpc
from golemp2p.storage import Storage, open_storage

DOMAIN = Domain("test", 31337)

OFFER: Properties = {"golem.runtime.name": "wasmtime", "golem.inf.mem.gib": 1.5, "price": [0.0, 0.1, 0.0]}
DEMAND: Properties = {"golem.srv.comp.expiration": 1_900_000_000_000}
NOW = 1_800_000_000.0
_STARTED: WeakKeyDictionary[MemoryHub, float] = WeakKeyDictionary()
WANT = "(golem.runtime.name=wasmtime)"


@dataclass
class Node:
    key: NodeKey
    network: MemoryNetwork
    market: MarketService
    now: Callable[[], float]

    async def offer(self, properties: Properties = OFFER, constraints: str = "()") -> SubscriptionId:
        return await self.market.subscribe(RecordKind.OFFER, properties, constraints, "key")

    async def demand(self, properties: Properties = DEMAND, constraints: str = WANT) -> SubscriptionId:
        return await self.market.subscribe(RecordKind.DEMAND, properties, constraints, "key")

    async def events(self, kind: RecordKind, subscription: SubscriptionId, timeout_s: float = 5.0) -> list[MarketEvent]:
        return await self.market.subscriptions.get(subscription, kind).events.take(timeout_s, 100)


@asynccontextmanager
async def open_node(
    hub: MemoryHub, key: NodeKey | None = None, stored: Storage | None = None, spread: Spread = Spread.GOSSIP
) -> AsyncIterator[Node]:
    """``stored``: what a former life of the node left on disk."""
    key = key or NodeKey.generate()
    clock = hub_clock(hub)
    async with (
        nullcontext(stored) if stored else open_storage(None) as storage,
        open_memory_network(hub, key) as network,
        trio.open_nursery() as nursery,
    ):
        rpc = Rpc(network)
        await nursery.start(rpc.run)
        market = MarketService(
            storage=storage,
            signer=key,
            domain=DOMAIN,
            network=network,
            rpc=rpc,
            clock=clock,
            spread=spread,
        )
        await nursery.start(market.run, "public")
        yield Node(key, network, market, clock)
        nursery.cancel_scope.cancel()


def hub_clock(hub: MemoryHub) -> Callable[[], float]:
    """One wall clock for all nodes of a hub: it starts at NOW and runs on virtual time."""
    started = _STARTED.setdefault(hub, trio.current_time())
    return lambda: NOW + trio.current_time() - started


async def link(one: Node, *others: Node) -> None:
    for other in others:
        await one.network.connect(other.network.addresses()[0])


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub(latency_s=0.01)
