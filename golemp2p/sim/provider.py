"""A provider's agent over the services directly: the rules of golemp2p.provider without REST in between.

Negotiation is golemp2p.provider.negotiator itself; offers, capacity, debit notes, deadlines and the invoice follow
golemp2p.provider.agent and billing.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio
from sqlalchemy.engine import Connection

from golemp2p.core.agreement import Agreement, AgreementState, Role
from golemp2p.core.ids import ActivityId, AgreementId, DocumentId, SubscriptionId
from golemp2p.core.money import Amount
from golemp2p.core.payment import DocumentKind, DocumentState, Side
from golemp2p.core.peer import address_of
from golemp2p.core.properties import Properties, number
from golemp2p.core.records import RecordKind
from golemp2p.errors import DeadlineError, GolemError, NotFoundError
from golemp2p.market.subscriptions import AgreementReceived, MarketEvent, ProposalReceived
from golemp2p.provider.agent import APPROVE_TIMEOUT_S
from golemp2p.provider.billing import END_WAIT_S, PAYMENT_GRACE_S, invoice_id_of
from golemp2p.provider.contract import NO_ACTIVITY_S, cost_of
from golemp2p.provider.negotiator import NO_CAPACITY, Refusal, answer
from golemp2p.provider.offer import ACCEPT_TIMEOUT, NOTE_INTERVAL, PAYMENT_TIMEOUT, ProviderTerms
from golemp2p.sim.terms import offer_of, offer_wants
from golemp2p.storage import payment as repo

if TYPE_CHECKING:
    from golemp2p.sim.node import SimNode

POLL_S = 300.0  # of events; they wake it at once
LOOK_S = 5.0  # at a running contract
_OVER = frozenset(
    {AgreementState.TERMINATED, AgreementState.CANCELLED, AgreementState.EXPIRED, AgreementState.REJECTED}
)


@dataclass
class Provider:
    """``vanishes``: it bids and is not heard of again. ``offers``: how many at a time; a spammer has hundreds."""

    terms: ProviderTerms
    vanishes: bool = False
    offers: int = 1
    starts_at_s: float = 0.0
    halves_price_every_s: float = 0.0  # while nobody comes; for price wars
    _contracts: set[AgreementId] = field(default_factory=set)

    async def __call__(self, node: SimNode) -> None:
        seller = _Seller(self, node)
        async with trio.open_nursery() as nursery:
            seller.nursery = nursery
            await seller.resume()
            await trio.sleep(max(0.0, self.starts_at_s - trio.current_time()))
            for _ in range(self.offers):
                nursery.start_soon(seller.sell)


class _Seller:
    """One life of a provider's agent."""

    def __init__(self, plan: Provider, node: SimNode) -> None:
        assert node.market is not None
        self.plan, self.node, self.market = plan, node, node.market
        self.terms = plan.terms
        self.nursery: trio.Nursery
        self._contracts: set[AgreementId] = set()
        self._changed = trio.Event()

    @property
    def _free(self) -> int:
        return self.terms.max_activities - len(self._contracts)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- offers -----------------------------------------------------------------------------------------------------

    async def sell(self) -> None:
        """An offer on the market while there is capacity."""
        while True:
            while self._free <= 0:
                await self._changed.wait()
            properties = offer_of(self.terms, self.node.key.address)
            offer = await self.market.subscribe(RecordKind.OFFER, properties, offer_wants(self.node.clock()), "agent")
            self.node.world.log.add(self.node.index, "offer", offer[:16], self.terms.price_per_hour)
            with suppress(NotFoundError):
                while self._free > 0:
                    queue = self.market.subscriptions.get(offer, RecordKind.OFFER).events
                    for event in await queue.take(POLL_S, 100):
                        await self._on_event(offer, properties, event)
            with suppress(GolemError):
                await self.market.unsubscribe(RecordKind.OFFER, offer)

    async def _on_event(self, offer: SubscriptionId, properties: Properties, event: MarketEvent) -> None:
        try:
            if isinstance(event, ProposalReceived):
                await self._on_proposal(offer, properties, event)
            elif isinstance(event, AgreementReceived):
                await self._on_agreement(event.agreement)
        except GolemError as exc:
            self.node.world.log.add(self.node.index, "provider-trouble", exc.code)

    async def _on_proposal(self, offer: SubscriptionId, properties: Properties, event: ProposalReceived) -> None:
        proposal = event.proposal
        reply: Properties | Refusal = NO_CAPACITY
        if self._free > 0:
            reply = answer(
                properties, proposal.terms.properties, issuer=address_of(proposal.peer), now=self.node.clock()
            )
        if isinstance(reply, Refusal):
            await self.market.negotiation.reject(RecordKind.OFFER, offer, proposal.id, reply.reason())
        else:
            wants = self.market.subscriptions.get(offer, RecordKind.OFFER).record.constraints
            await self.market.negotiation.counter(RecordKind.OFFER, offer, proposal.id, reply, wants)

    async def _on_agreement(self, agreement: Agreement) -> None:
        if self.plan.vanishes:
            self.node.world.log.add(self.node.index, "vanished", agreement.id[:16])
            return
        if self._free <= 0:
            await self.market.agreements.reject(agreement.id, NO_CAPACITY.reason())
            return
        self._contracts.add(agreement.id)
        self.nursery.start_soon(self._approve, agreement.id)

    async def _approve(self, agreement_id: AgreementId) -> None:
        try:
            await self.node.activity()
            await self.node.payment()
            try:
                await self.market.agreements.approve(agreement_id, APPROVE_TIMEOUT_S)
            except DeadlineError:  # signed, and the node goes on delivering it
                if not await self._outcome(agreement_id):
                    return
            await self._serve(agreement_id)
        except GolemError as exc:
            self.node.world.log.add(self.node.index, "contract-trouble", agreement_id[:16], exc.code)
        finally:
            self._contracts.discard(agreement_id)
            self._wake()

    async def _outcome(self, agreement_id: AgreementId) -> bool:
        while True:
            agreement = await self.market.agreements.get(agreement_id)
            if agreement.state is not AgreementState.PENDING:
                return agreement.state in (AgreementState.APPROVED, AgreementState.TERMINATED)
            await trio.sleep(LOOK_S)

    # --- contracts --------------------------------------------------------------------------------------------------

    async def resume(self) -> None:
        """Agreements of a former life: go on, bill, invoice."""
        for agreement in await self.market.agreements.all():
            if agreement.role is not Role.PROVIDER:
                continue
            if agreement.state is AgreementState.PENDING and not agreement.provider_signature:
                with suppress(GolemError):
                    await self.market.agreements.reject(agreement.id, {"message": "the provider was restarted"})
            elif agreement.state in (AgreementState.APPROVED, AgreementState.TERMINATED, AgreementState.PENDING):
                self._contracts.add(agreement.id)
                self.nursery.start_soon(self._resume, agreement)

    async def _resume(self, agreement: Agreement) -> None:
        try:
            if agreement.state is not AgreementState.PENDING or await self._outcome(agreement.id):
                await self._serve(agreement.id)
        except GolemError as exc:
            self.node.world.log.add(self.node.index, "contract-trouble", agreement.id[:16], exc.code)
        finally:
            self._contracts.discard(agreement.id)
            self._wake()

    async def _serve(self, agreement_id: AgreementId) -> None:
        """From approval to the invoice."""
        activity, payment = await self.node.activity(), await self.node.payment()
        invoice_id = DocumentId(invoice_id_of(agreement_id))
        if await self._stored(invoice_id) is None:
            await self._bill_until_the_end(agreement_id)
            records = [r for r in await activity.provider.records(live_only=False) if r.agreement_id == agreement_id]
            total = 0
            for record in records:
                total += await self._note(agreement_id, record.id, list(record.usage), due_at=None)
            agreement = await self.market.agreements.get(agreement_id)
            timeout_s = _seconds(agreement, PAYMENT_TIMEOUT, 120.0)
            await payment.documents.issue_invoice(
                agreement_id,
                Amount(total),
                activity_ids=sorted(r.id for r in records),
                due_at=self.node.clock() + timeout_s,
                document_id=invoice_id,
            )
            self.node.world.log.add(self.node.index, "invoice", agreement_id[:16], total)
        await payment.documents.send(DocumentKind.INVOICE, invoice_id)

    async def _stored(self, document_id: DocumentId) -> repo.StoredDocument | None:
        return await self.node.storage.run(lambda c: repo.find_document(c, document_id, Side.PAYEE))

    async def _bill_until_the_end(self, agreement_id: AgreementId) -> None:
        """Returns when the agreement has ended and no activity of it lives."""
        activity = await self.node.activity()
        agreement = await self.market.agreements.get(agreement_id)
        interval_s = _seconds(agreement, NOTE_INTERVAL, self.terms.debit_note_interval_s)
        accept_s = _seconds(agreement, ACCEPT_TIMEOUT, self.terms.accept_timeout_s)
        asked = number(agreement.demand.get(PAYMENT_TIMEOUT))
        pay_s = asked if number(agreement.demand.get(NOTE_INTERVAL)) is not None else None
        idle_since = next_note = trio.current_time()
        next_note += interval_s
        pending: list[tuple[DocumentId, float, float | None]] = []
        while (agreement := await self.market.agreements.get(agreement_id)).state not in _OVER:
            now = trio.current_time()
            live = [r for r in await activity.provider.records(live_only=True) if r.agreement_id == agreement_id]
            if live:
                idle_since = now
            if self.node.clock() >= agreement.expires_at:
                await self._terminate(agreement_id, "Expired")
            elif now >= idle_since + NO_ACTIVITY_S:
                await self._terminate(agreement_id, "NoActivity")
            elif code := await self._overdue(pending, now):
                await self._terminate(agreement_id, code)
            elif now >= next_note:
                next_note = now + interval_s
                for record in live:
                    due_at = None if pay_s is None else self.node.clock() + pay_s
                    note = DocumentId(f"{invoice_id_of(record.id)[:-12]}{round(now):012d}")
                    await self._note(agreement_id, record.id, list(record.usage), due_at=due_at, note=note)
                    pay_by = None if pay_s is None else now + pay_s + PAYMENT_GRACE_S
                    pending.append((note, now + accept_s, pay_by))
            await trio.sleep(LOOK_S)
        with trio.move_on_after(END_WAIT_S):
            while any(r.agreement_id == agreement_id for r in await activity.provider.records(live_only=True)):  # noqa: ASYNC110 - its end has no event
                await trio.sleep(1.0)

    async def _note(
        self,
        agreement_id: AgreementId,
        activity_id: ActivityId,
        usage: list[float],
        *,
        due_at: float | None,
        note: DocumentId | None = None,
    ) -> Amount:
        """Issue and send one over the usage so far; its amount, which never goes down."""
        payment = await self.node.payment()
        agreement = await self.market.agreements.get(agreement_id)
        earlier = await self.node.storage.run(partial(_billed, agreement_id=agreement_id, activity_id=activity_id))
        amount = max(cost_of(agreement.offer, usage), earlier)
        issued = await payment.documents.issue_debit_note(
            agreement_id, activity_id, amount, usage=usage, due_at=due_at, document_id=note
        )
        await payment.documents.send(DocumentKind.DEBIT_NOTE, issued.document.id)
        return amount

    async def _overdue(self, pending: list[tuple[DocumentId, float, float | None]], now: float) -> str:
        for entry in list(pending):
            note, accept_by, pay_by = entry
            stored = await self._stored(note)
            state = None if stored is None else stored.state
            if state is DocumentState.REJECTED:
                return "DebitNoteRejected"
            deadline = pay_by if state is DocumentState.ACCEPTED else accept_by
            if state is DocumentState.SETTLED or deadline is None:
                pending.remove(entry)
            elif now >= deadline:
                return "DebitNoteNotPaid" if state is DocumentState.ACCEPTED else "DebitNotesDeadline"
        return ""

    async def _terminate(self, agreement_id: AgreementId, code: str) -> None:
        with suppress(GolemError):  # it is final already
            await self.market.agreements.terminate(agreement_id, {"message": code, "golem.provider.code": code})
            self.node.world.log.add(self.node.index, "provider-ends", agreement_id[:16], code)


def _seconds(agreement: Agreement, name: str, default: float) -> float:
    for properties in (agreement.demand, agreement.offer):
        value = number(properties.get(name))
        if value is not None:
            return value
    return default


def _billed(connection: Connection, *, agreement_id: AgreementId, activity_id: ActivityId) -> Amount:
    notes = repo.find_documents(connection, kind=DocumentKind.DEBIT_NOTE, side=Side.PAYEE, agreement_id=agreement_id)
    return Amount(max((n.document.amount for n in notes if n.document.activity_id == activity_id), default=0))
