"""A simulated node: the services as node.py joins them, on simulated wires, disk and chain; it can crash and restart.

Activity and payment services start with the first agreement (or allocation), also after a restart: an idle provider is
a market service, so that ten thousand fit into one process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from golemp2p.activity.service import ActivityService
from golemp2p.core.agreement import Agreement, AgreementState
from golemp2p.core.ids import ActivityId, AgreementId
from golemp2p.core.records import MarketRecord
from golemp2p.errors import NetworkError, NotFoundError
from golemp2p.identity.keys import NodeKey
from golemp2p.market.book import Applied
from golemp2p.market.rendezvous import Spread
from golemp2p.market.service import MarketService
from golemp2p.payment.drivers.fake import FakeDriver
from golemp2p.payment.ports import PaymentSettings
from golemp2p.payment.service import PaymentService
from golemp2p.sim.chain import NETWORK
from golemp2p.sim.disk import Disk, SimStorage
from golemp2p.sim.network import SimNetwork, open_sim_network
from golemp2p.sim.rpc import SimRpc
from golemp2p.sim.runtime import Content, Data, SimRuntime

if TYPE_CHECKING:
    from golemp2p.sim.world import World

ENDED = frozenset({AgreementState.TERMINATED, AgreementState.CANCELLED, AgreementState.EXPIRED})
Agent = Callable[["SimNode"], Awaitable[None]]


class SimNode:
    """``agent`` is what acts through the node; it runs as long as the node does, and begins anew with it."""

    def __init__(self, world: World, index: int, key: NodeKey, agent: Agent, role: str, runtime: SimRuntime) -> None:
        self.world, self.index, self.key, self.role = world, index, key, role
        self.agent, self.runtime = agent, runtime
        self.disk = Disk(world.disks)
        self.memo: dict[str, object] = {}  # what its agent has on disk
        self.skew_s = 0.0  # of its clock
        self.auto_accept_after_s: float | None = PaymentSettings().auto_accept_after_s
        self.network: SimNetwork | None = None
        self.market: MarketService | None = None
        self.lives = 0
        self.joins_at_s = 0.0
        self.up_since_s = 0.0
        self.has_payments = False  # or had, in an earlier life
        self.agreements_seen = 0
        self.storage: SimStorage
        self.rpc: SimRpc
        self.nursery: trio.Nursery
        self._activity: ActivityService | None = None
        self._payment: PaymentService | None = None
        self._opening = trio.Lock()
        self._scope: trio.CancelScope | None = None
        self._gone = trio.Event()

    def clock(self) -> float:
        return self.world.wall() + self.skew_s

    @property
    def alive(self) -> bool:
        return self.market is not None

    # --- life -------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One life: until :meth:`crash` or cancellation."""
        world = self.world
        self.lives += 1
        self.up_since_s = trio.current_time()
        self._gone = trio.Event()
        self.storage = SimStorage(self.disk)
        self._activity = self._payment = None
        self._opening = trio.Lock()
        try:
            with trio.CancelScope() as self._scope:
                async with open_sim_network(world.hub, self.key) as network, trio.open_nursery() as nursery:
                    self.nursery, self.network = nursery, network
                    self.rpc = SimRpc(network, world.rpcs, world.on_call)
                    market = _ToldMarket(
                        self,
                        storage=self.storage,
                        signer=self.key,
                        domain=world.domain,
                        network=network,
                        rpc=self.rpc,
                        clock=self.clock,
                        spread=Spread(world.scenario.spread),
                    )
                    market.agreements.add_listener(self._on_agreement)
                    await nursery.start(market.run, world.subnet)
                    self.market = market
                    world.log.add(self.index, "up", self.lives)
                    nursery.start_soon(world.topology.keep_connected, self)
                    if self.lives > 1 and await market.agreements.all():
                        await self.payment()
                        await self.activity()
                    task_status.started()
                    nursery.start_soon(self._run_agent)
                    await trio.sleep_forever()
        finally:
            self.market, self.network = None, None
            world.rpcs.pop(self.key.peer_id, None)
            self._gone.set()

    async def _run_agent(self) -> None:
        await self.agent(self)

    async def crash(self) -> None:
        """As SIGKILL or a power cut: nothing more is written or said; returns when all its tasks are gone."""
        if self._scope is None or not self.alive:
            return
        self.world.log.add(self.index, "crash")
        self.storage.crashed = True
        self.world.hub.kill(self.key.peer_id)
        self._scope.cancel()
        await self._gone.wait()

    async def stop(self) -> None:
        """A clean end: subscriptions are withdrawn first."""
        if self._scope is None or self.market is None:
            return
        with trio.move_on_after(2.0):
            await self.market.subscriptions.withdraw_all()
            await trio.sleep(0.1)
        self.world.log.add(self.index, "stop")
        self._scope.cancel()
        await self._gone.wait()

    # --- services ---------------------------------------------------------------------------------------------------

    async def activity(self) -> ActivityService:
        async with self._opening:
            if self._activity is None:
                activity = ActivityService(
                    storage=self.storage,
                    rpc=self.rpc,
                    data=Data(),
                    content=Content(),
                    agreement=self._market().agreements.usable,
                    runtimes={self.runtime.id: self.runtime},
                    work_root=self.world.work_root / str(self.index),
                    now=self.clock,
                )
                await self.nursery.start(activity.run)
                self._activity = activity
            return self._activity

    async def payment(self) -> PaymentService:
        async with self._opening:
            if self._payment is None:
                payment = PaymentService(
                    storage=self.storage,
                    rpc=self.rpc,
                    agreements=_Lookup(self._market()),
                    signer=self.key,
                    domain=self.world.domain,
                    drivers={NETWORK.platform: FakeDriver(self.world.chain, NETWORK)},
                    clock=self.clock,
                    settings=PaymentSettings(auto_accept_after_s=self.auto_accept_after_s),
                    knows_activity=self._knows_activity,
                )
                self._market().agreements.before_confirm = payment.channels.prepare
                if self.network is not None:
                    self.network.add_peer_listener(payment.on_peer)
                await self.nursery.start(payment.run)
                self._payment = payment
                self.has_payments = True
            return self._payment

    @property
    def opened_activity(self) -> ActivityService | None:
        return self._activity

    def _market(self) -> MarketService:
        if self.market is None:
            raise NetworkError("this node is down")
        return self.market

    async def _knows_activity(self, agreement_id: AgreementId, activity_id: ActivityId) -> bool:
        activity = await self.activity()
        if activity.requestor.asked_for(agreement_id, activity_id):
            return True
        with suppress(NotFoundError):
            return (await activity.requestor.record(activity_id)).agreement_id == agreement_id
        return False

    def _on_agreement(self, agreement: Agreement) -> None:
        self.agreements_seen += 1
        self.world.on_agreement(self, agreement)
        if agreement.state in ENDED and self._activity is not None:
            self.nursery.start_soon(self._activity.on_agreement_ended, agreement.id)


class _ToldMarket(MarketService):
    """The market service; the world hears of every record that changes its book."""

    def __init__(self, node: SimNode, **parts: Any) -> None:
        self._node = node
        super().__init__(**parts)

    def _on_record(self, record: MarketRecord, applied: Applied) -> None:
        super()._on_record(record, applied)
        self._node.world.measures.on_record(self._node, record, applied)
        self._node.world.checks.on_record(self._node, record)


class _Lookup:
    def __init__(self, market: MarketService) -> None:
        self._market = market

    async def agreement(self, agreement_id: AgreementId) -> Agreement:
        return await self._market.agreements.usable(agreement_id)
