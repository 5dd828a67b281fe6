"""A requestor's agent over the services directly: a job of tasks, hired providers, verified results, paid bills.

As golemp2p.sdk does it, without REST: the cheapest offers first, an agreement per worker, tasks tried again elsewhere,
bills accepted when they say no more than was agreed.
"""

from __future__ import annotations

import heapq
import json
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

import trio
from sqlalchemy.engine import Connection

from golemp2p.core.agreement import ALLOCATIONS, AgreementState, Role
from golemp2p.core.ids import ActivityId, AgreementId, AllocationId, DocumentId, PeerId, ProposalId, SubscriptionId
from golemp2p.core.money import Amount, parse_amount
from golemp2p.core.payment import DocumentKind, DocumentState, Side
from golemp2p.core.proposal import Proposal
from golemp2p.core.records import RecordKind
from golemp2p.errors import GolemError, NotFoundError
from golemp2p.market.subscriptions import ProposalReceived, ProposalRejected
from golemp2p.provider.contract import cost_of
from golemp2p.sim.chain import NETWORK
from golemp2p.sim.runtime import right_answer
from golemp2p.sim.terms import DEMAND_WANTS, demand_of
from golemp2p.storage import payment as repo

if TYPE_CHECKING:
    from golemp2p.sim.node import SimNode

POLL_S = 300.0
GATHER_S = 3.0  # offers are waited for before the cheapest is taken
DRAFT_S = 15.0
APPROVAL_S = 20.0
RETRY_S = 2.0
ROUNDING = 1_000


@dataclass
class Requestor:
    """``pays`` False: it hires and never accepts a bill. ``tasks`` of ``task_s`` seconds on ``workers`` providers."""

    name: str
    tasks: int = 4
    task_s: float = 30.0
    workers: int = 2
    budget: str = "10"
    starts_at_s: float = 5.0
    pays: bool = True
    mid_payments_s: float | None = None
    tasks_per_agreement: int = 0  # then another provider is hired; 0: no bound
    life_s: float = 24 * 3_600.0

    async def __call__(self, node: SimNode) -> None:
        await trio.sleep(max(0.0, self.starts_at_s - trio.current_time()))
        await _Job(self, node).run()


@dataclass
class _Waiting:
    draft: Proposal | None = None
    event: trio.Event = field(default_factory=trio.Event)


class _Job:
    """One life of a requestor's agent. Results and the allocation are on the node's disk (``memo``)."""

    def __init__(self, plan: Requestor, node: SimNode) -> None:
        assert node.market is not None
        self.plan, self.node, self.market = plan, node, node.market
        self.results = cast(dict[str, str], node.memo.setdefault("results", {}))
        wanted = [f"{plan.name}-{i}" for i in range(plan.tasks)]
        self.todo = deque(task for task in wanted if task not in self.results)
        self.under_way = 0
        self.demand: SubscriptionId
        self.allocation: AllocationId
        self.offers: list[tuple[float, int, ProposalId, PeerId]] = []  # heap by price
        self.waiting: dict[ProposalId, _Waiting] = {}
        self.banned = cast(set[PeerId], node.memo.setdefault("banned", set()))
        self.busy: set[PeerId] = set()
        self.news = trio.Event()
        self._count = 0

    def _tell(self) -> None:
        self.news.set()
        self.news = trio.Event()

    async def run(self) -> None:
        node = self.node
        await node.activity()
        await self._make_allocation()
        async with trio.open_nursery() as nursery:
            if self.plan.pays:
                for kind in (DocumentKind.DEBIT_NOTE, DocumentKind.INVOICE):
                    nursery.start_soon(self._pay, kind)
            await self._end_leftovers()
            if not self.todo:
                await trio.sleep_forever()
            expires_at = node.clock() + self.plan.life_s
            demand = demand_of(
                self.plan.name, node.key.address, expires_at=expires_at, mid_payments_s=self.plan.mid_payments_s
            )
            demand[ALLOCATIONS] = self.allocation
            self.properties = demand
            self.demand = await self.market.subscribe(RecordKind.DEMAND, demand, DEMAND_WANTS, "agent")
            node.world.log.add(node.index, "demand", self.demand[:16])
            nursery.start_soon(self._hear)
            async with trio.open_nursery() as workers:
                for _ in range(min(self.plan.workers, len(self.todo))):
                    workers.start_soon(self._work)
            node.world.log.add(node.index, "job-done", len(self.results))
            with suppress(GolemError):
                await self.market.unsubscribe(RecordKind.DEMAND, self.demand)
            await trio.sleep_forever()  # bills still come

    async def _make_allocation(self) -> None:
        payment = await self.node.payment()
        known = self.node.memo.get("allocation")
        if isinstance(known, str):
            self.allocation = AllocationId(known)
            return
        while True:
            try:
                made = await payment.allocations.create(platform=NETWORK.platform, total=parse_amount(self.plan.budget))
                break
            except GolemError as exc:
                self.node.world.log.add(self.node.index, "no-allocation", exc.code)
                await trio.sleep(60.0)
        self.allocation = made.id
        self.node.memo["allocation"] = made.id

    async def _end_leftovers(self) -> None:
        """Of a former life: nobody works with them any more."""
        for agreement in await self.market.agreements.all():
            if agreement.role is Role.REQUESTOR and agreement.state is AgreementState.APPROVED:
                await self._end(agreement.id, "the agent was restarted")

    # --- hiring -----------------------------------------------------------------------------------------------------

    async def _hear(self) -> None:
        with suppress(NotFoundError):
            while True:
                queue = self.market.subscriptions.get(self.demand, RecordKind.DEMAND).events
                for event in await queue.take(POLL_S, 100):
                    if isinstance(event, ProposalReceived):
                        self._take(event.proposal)
                    elif isinstance(event, ProposalRejected) and (found := self.waiting.get(event.proposal_id)):
                        found.event.set()

    def _take(self, proposal: Proposal) -> None:
        if proposal.previous is not None:
            found = self.waiting.get(proposal.previous)
            if found is not None:
                found.draft = proposal
                found.event.set()
            return
        coeffs = proposal.terms.properties.get("golem.com.pricing.model.linear.coeffs")
        if proposal.peer in self.banned or not isinstance(coeffs, list):
            return
        self._count += 1
        heapq.heappush(self.offers, (sum(map(float, coeffs)), self._count, proposal.id, proposal.peer))
        self._tell()

    async def _next_offer(self) -> tuple[ProposalId, PeerId]:
        """The cheapest of a provider that does not work for us now."""
        await trio.sleep(GATHER_S)
        while True:
            skipped = []
            found = None
            while self.offers and found is None:
                entry = heapq.heappop(self.offers)
                if entry[3] in self.banned:
                    continue
                if entry[3] in self.busy:
                    skipped.append(entry)
                else:
                    found = entry
            for entry in skipped:
                heapq.heappush(self.offers, entry)
            if found is not None:
                return found[2], found[3]
            with trio.move_on_after(30.0):
                await self.news.wait()

    async def _hire(self) -> AgreementId | None:
        proposal, peer = await self._next_offer()
        self.busy.add(peer)
        agreement_id: AgreementId | None = None
        try:
            ours = await self.market.negotiation.counter(
                RecordKind.DEMAND, self.demand, proposal, self.properties, DEMAND_WANTS
            )
            waiting = self.waiting[ours] = _Waiting()
            draft = self._draft_of(ours)
            if draft is None:
                with trio.move_on_after(DRAFT_S):
                    await waiting.event.wait()
                draft = waiting.draft
            self.waiting.pop(ours, None)
            if draft is None:
                self.node.world.log.add(self.node.index, "no-draft", self.node.world.name_of(peer))
                return None
            agreement_id = await self.market.agreements.create(draft.id, self.node.clock() + self.plan.life_s)
            await self.market.agreements.confirm(agreement_id, None)
            await self.market.agreements.wait_approved(agreement_id, APPROVAL_S)
        except GolemError as exc:
            self.node.world.log.add(self.node.index, "not-hired", self.node.world.name_of(peer), exc.code)
            if agreement_id is not None:
                with suppress(GolemError):
                    await self.market.agreements.cancel(agreement_id, {"message": "no approval"})
            return None
        else:
            return agreement_id
        finally:
            if agreement_id is None:
                self.busy.discard(peer)

    def _draft_of(self, ours: ProposalId) -> Proposal | None:
        """The answer may have come before the acknowledgement."""
        return next((p for p in self.market.negotiation._proposals.values() if p.previous == ours), None)

    # --- working ----------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while len(self.results) < self.plan.tasks:
            if not self.todo:
                await trio.sleep(RETRY_S)  # another worker's task may fail
                continue
            agreement_id = await self._hire()
            if agreement_id is None:
                await trio.sleep(RETRY_S)
                continue
            agreement = await self.market.agreements.get(agreement_id)
            try:
                await self._use(agreement_id, agreement.provider)
            except GolemError as exc:
                self.node.world.log.add(self.node.index, "work-trouble", agreement_id[:16], exc.code)
            finally:
                self.busy.discard(agreement.provider)
            await self._end(agreement_id, "done")

    async def _use(self, agreement_id: AgreementId, provider: PeerId) -> None:
        activities = (await self.node.activity()).requestor
        activity_id = await activities.create(agreement_id, timeout_s=30.0)
        done = 0
        try:
            await self._batch(activity_id, [{"deploy": {}}, {"start": {"args": []}}])
            while self.todo and not 0 < self.plan.tasks_per_agreement <= done:
                task = self.todo.popleft()
                try:
                    said = await self._batch(activity_id, [_run(task, self.plan.task_s)])
                    if said != right_answer(task):
                        self.banned.add(provider)
                        self.node.world.log.add(self.node.index, "wrong-result", self.node.world.name_of(provider))
                        return
                    self.results[task] = said
                    done += 1
                    self.node.world.log.add(self.node.index, "task", task, self.node.world.name_of(provider))
                finally:
                    if task not in self.results:
                        self.todo.append(task)
        finally:
            with trio.move_on_after(10.0), suppress(GolemError):
                activity = activities.activity(activity_id)
                if activity is not None:
                    await activity.destroy(10.0)

    async def _batch(self, activity_id: ActivityId, commands: list[dict[str, object]]) -> str:
        """What the last command said. Raises GolemError when one failed."""
        activity = await (await self.node.activity()).requestor.live_activity(activity_id)
        batch = activity.batch(activity.exec(json.dumps(commands)))
        await batch.ended.wait()
        results = await batch.results(0.0)
        if not results or not results[-1].ok:
            raise NotFoundError(f"the batch failed: {results[-1].message if results else ''}")
        output = results[-1].stdout
        return output if isinstance(output, str) else (output or b"").decode()

    async def _end(self, agreement_id: AgreementId, why: str) -> None:
        with suppress(GolemError):
            await self.market.agreements.terminate(agreement_id, {"message": why})

    # --- paying -----------------------------------------------------------------------------------------------------

    async def _pay(self, kind: DocumentKind) -> None:
        payment = await self.node.payment()
        after_us = 0
        while True:
            for event in await payment.events(kind, after_us=after_us, timeout_s=POLL_S):
                after_us = event.date_us
                with suppress(GolemError):
                    await self._answer(kind, event.document_id)

    async def _answer(self, kind: DocumentKind, document_id: DocumentId) -> None:
        payment = await self.node.payment()
        stored = await payment.document(kind, document_id)
        if stored.state is not DocumentState.RECEIVED or stored.side is not Side.PAYER:
            return
        document = stored.document
        agreement = await self.market.agreements.get(document.agreement_id)
        if kind is DocumentKind.DEBIT_NOTE:
            fair = cost_of(agreement.offer, document.usage_vector)
        else:
            fair = await self.node.storage.run(partial(_noted, agreement_id=document.agreement_id))
        if document.amount > fair + fair // ROUNDING + 1:
            self.node.world.log.add(self.node.index, "bill-refused", document.amount, fair)
            await payment.documents.reject(kind, document_id, code="TOO_MUCH", message="more than was agreed")
            return
        await payment.documents.accept(kind, document_id, amount=document.amount, allocation_id=self.allocation)
        self.node.world.log.add(self.node.index, "accepted", kind.value, document.amount)


def _run(task: str, task_s: float) -> dict[str, object]:
    capture: dict[str, object] = {"stdout": {"atEnd": {}}}
    return {"run": {"entry_point": "task", "args": [task, str(task_s)], "capture": capture}}


def _noted(connection: Connection, *, agreement_id: AgreementId) -> Amount:
    """What the last debit notes of an agreement's activities say together."""
    notes = repo.last_notes(connection, agreement_id, Side.PAYER)
    return Amount(sum(note.amount for note in notes.values()))
