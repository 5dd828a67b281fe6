"""A requestor's and a provider's payment service, joined by a fake RPC, paying on a fake chain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import sqlalchemy as sa
import trio

from golemp2p.core.agreement import Agreement, AgreementState, Role
from golemp2p.core.eip712 import Domain
from golemp2p.core.ids import ActivityId, Address, AgreementId, PeerId, SubscriptionId
from golemp2p.core.money import Amount, parse_amount
from golemp2p.core.properties import Properties
from golemp2p.errors import NetworkError, NotFoundError
from golemp2p.identity.keys import NodeKey
from golemp2p.payment import PaymentNetwork, PaymentService, PaymentSettings
from golemp2p.payment.drivers.base import ChainDriver
from golemp2p.payment.drivers.fake import FakeChain, FakeDriver
from golemp2p.payment.ports import Clock, Handler, KnowsActivity
from golemp2p.payment.settlement import Checkpoint
from golemp2p.storage.engine import Storage, open_storage

TOKEN = Address("0x" + "70" * 20)
NETWORK = PaymentNetwork("local", 31337, TOKEN, "tglm", ("http://127.0.0.1:1",), confirmations=1)
PLATFORM = NETWORK.platform
DOMAIN = Domain("test", 31337)
START = 1_800_000_000.0
COEFFS = [0.001, 0.002, 0.5]  # per second, per CPU second, start
ACTIVITY = ActivityId("a1")


def glm(text: str) -> Amount:
    return parse_amount(text)


def clock() -> float:
    """Virtual time since the epoch."""
    return START + trio.current_time() % 1e9


def make_agreement(
    requestor: NodeKey, provider: NodeKey, agreement_id: str = "ag1", *, began: float = START, platform: str = PLATFORM
) -> Agreement:
    """As the requestor's node sees it."""
    address = f"golem.com.payment.platform.{platform}.address"
    demand: Properties = {address: requestor.address, "golem.com.payment.chosen-platform": platform}
    offer: Properties = {
        address: provider.address,
        "golem.com.usage.vector": ["golem.usage.duration_sec", "golem.usage.cpu_sec"],
        "golem.com.pricing.model.linear.coeffs": list(COEFFS),
        "golem.inf.cpu.threads": 2,
    }
    return Agreement(
        id=AgreementId(agreement_id),
        role=Role.REQUESTOR,
        requestor=requestor.peer_id,
        provider=provider.peer_id,
        demand_id=SubscriptionId("d"),
        offer_id=SubscriptionId("o"),
        demand=demand,
        offer=offer,
        demand_constraints="()",
        offer_constraints="()",
        content=b"{}",
        created_at=began,
        valid_to=began + 3600,
        state=AgreementState.APPROVED,
        approved_at=began,
        session_id="session-1",
    )


@dataclass
class FakeRpc:
    """Calls the handlers of the others directly, unless one is cut off."""

    me: PeerId
    wires: dict[PeerId, FakeRpc]
    handlers: dict[str, Handler] = field(default_factory=dict)
    cut: bool = False
    calls: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    lose_answers: int = 0  # so many next calls arrive, but seem lost to the caller

    def serve(self, protocol: str, methods: Mapping[str, Handler]) -> None:
        self.handlers = {f"{protocol} {name}": handler for name, handler in methods.items()}

    async def call(
        self, peer: PeerId, protocol: str, method: str, body: Mapping[str, object], *, timeout_s: float
    ) -> object:
        await trio.sleep(0.01)
        other = self.wires.get(peer)
        if self.cut or other is None or other.cut:
            raise NetworkError(f"{peer} cannot be reached")
        self.calls.append((method, body))
        answer = await other.handlers[f"{protocol} {method}"](self.me, body)
        if self.lose_answers:
            self.lose_answers -= 1
            raise NetworkError("the answer was lost")
        return answer


@dataclass
class FakeAgreements:
    known: dict[AgreementId, Agreement]

    async def agreement(self, agreement_id: AgreementId) -> Agreement:
        try:
            return self.known[agreement_id]
        except KeyError:
            raise NotFoundError(f"no agreement {agreement_id}") from None


@dataclass
class Node:
    key: NodeKey
    rpc: FakeRpc
    agreements: FakeAgreements
    storage: Storage
    service: PaymentService
    driver: ChainDriver


@dataclass
class World:
    chain: FakeChain
    requestor: Node
    provider: Node

    def add_agreement(self, agreement_id: str) -> AgreementId:
        agreement = make_agreement(self.requestor.key, self.provider.key, agreement_id, began=clock())
        self.requestor.agreements.known[agreement.id] = agreement
        self.provider.agreements.known[agreement.id] = replace(agreement, role=Role.PROVIDER)
        return agreement.id

    def tokens(self, node: Node) -> int:
        return self.chain.tokens(TOKEN, node.key.address)


def make_service(
    key: NodeKey,
    rpc: FakeRpc,
    agreements: FakeAgreements,
    storage: Storage,
    driver: ChainDriver,
    *,
    settings: PaymentSettings | None = None,
    checkpoint: Checkpoint | None = None,
    clock: Clock = clock,
    knows_activity: KnowsActivity | None = None,
) -> PaymentService:
    return PaymentService(
        storage=storage,
        rpc=rpc,
        agreements=agreements,
        signer=key,
        domain=DOMAIN,
        drivers={driver.network.platform: driver},
        clock=clock,
        settings=settings,
        knows_activity=knows_activity,
        checkpoint=checkpoint,
    )


@asynccontextmanager
async def open_world(
    *,
    chain: FakeChain | None = None,
    network: PaymentNetwork = NETWORK,
    balance: str = "100",
    settings: PaymentSettings | None = None,
    knows_activity: KnowsActivity | None = None,
) -> AsyncIterator[World]:
    """Both nodes run. The requestor has ``balance`` GLM; agreement "ag1" is approved."""
    chain = chain or FakeChain()
    wires: dict[PeerId, FakeRpc] = {}
    async with open_storage(None) as first, open_storage(None) as second, trio.open_nursery() as nursery:
        nodes = []
        for storage in (first, second):
            key = NodeKey.generate()
            wires[key.peer_id] = rpc = FakeRpc(key.peer_id, wires)
            agreements, driver = FakeAgreements({}), FakeDriver(chain, network)
            service = make_service(
                key, rpc, agreements, storage, driver, settings=settings, knows_activity=knows_activity
            )
            nodes.append(Node(key, rpc, agreements, storage, service, driver))
            await nursery.start(service.run)
        world = World(chain, *nodes)
        chain.fund(world.requestor.key.address, TOKEN, glm(balance))
        world.add_agreement("ag1")
        yield world
        nursery.cancel_scope.cancel()


async def table_count(storage: Storage, table: sa.Table) -> int:
    def count(connection: sa.Connection) -> int:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()

    return await storage.run(count)
