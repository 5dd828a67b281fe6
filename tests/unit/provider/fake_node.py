"""The parts of a node's REST client that the provider agent uses, in memory and in virtual time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import trio

from golemp2p.client import NodeClient
from golemp2p.core.money import Amount, format_amount, parse_amount
from golemp2p.errors import ConflictError, GolemError, GoneError, NotFoundError
from golemp2p.wire.rest.market import Agreement, Demand, MarketEvent, Offer, Proposal

COEFFS = [0.001, 0.01, 0.5]  # per second, per cpu-second, start
PLATFORM = "erc20-local-tglm"
NOW = datetime.now(UTC)


@dataclass
class FakeDocument:
    id: str
    agreement_id: str
    amount: str
    activity_id: str = ""
    activity_ids: list[str] = field(default_factory=list)
    status: str = "ISSUED"
    at: float = 0.0
    payment_due_date: datetime | None = None
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))

    # As the client's models name them.
    @property
    def debit_note_id(self) -> str:
        return self.id

    @property
    def invoice_id(self) -> str:
        return self.id

    @property
    def total_amount_due(self) -> str:
        return self.amount


@dataclass
class FakeActivity:
    id: str
    agreement_id: str
    created: float
    ended: float | None = None
    usage_lost_s: float = 0.0  # what a restart forgot

    def usage(self) -> list[float]:
        until = trio.current_time() if self.ended is None else self.ended
        return [max(0.0, until - self.created - self.usage_lost_s), 0.0]


class FakeNode:
    """What survives an agent's restart. Test verbs: ``agree``, ``start``, ``stop``, ``end``, ``accept_all``."""

    def __init__(self) -> None:
        self.agreements_by_id: dict[str, Agreement] = {}
        self.acts: dict[str, FakeActivity] = {}
        self.notes: dict[str, FakeDocument] = {}
        self.invoices_by_id: dict[str, FakeDocument] = {}
        self.terminations: dict[str, str] = {}
        self.rejections: dict[str, str] = {}
        self.rejection_is_final: dict[str, bool] = {}  # of proposals
        self.offers: dict[str, list[MarketEvent]] = {}
        self.published = 0
        self.withdrawn = 0
        self.activity_news: list[dict[str, Any]] = []
        self.agreement_news: list[SimpleNamespace] = []
        self.changed = trio.Event()
        self.accepting = True
        self.paying = False
        self.vouching = True  # mode channel: an accepted note has its voucher at once
        self.channel_refusal = ""
        self.secured: dict[str, int] = {}  # by agreement
        self.failures: list[GolemError] = []  # raised by the next issues of an invoice
        self.approve_error: GolemError | None = None
        self.counter_takes_s = 0.0
        self.broken_probes = 0
        self.bugs: set[str] = set()  # proposals and agreements whose answer breaks the caller
        self.countered: list[str] = []
        self._clock = time.time() + 60  # ahead of the agent, which hears what comes after its start

    def client(self) -> NodeClient:
        parts = SimpleNamespace(
            market=_Market(self),
            activity=_Activity(self),
            payment=_Payment(self),
            channels=_Channels(self),
            wallet=_Wallet(),
            node=_Node(self),
        )
        return cast(NodeClient, parts)

    def tick(self) -> datetime:
        self._clock += 0.001
        return datetime.fromtimestamp(self._clock, UTC)

    def tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    # --- what happens to it ---

    def agreement(
        self,
        name: str,
        *,
        life_s: float = 3600.0,
        state: str = "Approved",
        demand: dict[str, Any] | None = None,
        constraints: str = "()",
    ) -> Agreement:
        properties = {
            "golem.srv.comp.expiration": (time.time() + life_s) * 1000,
            "golem.srv.caps.multi-activity": True,
            **(demand or {}),
        }
        now = datetime.now(UTC)  # a slow machine may have loaded this module long ago
        made = Agreement(
            agreement_id=name,
            demand=Demand(
                properties=properties, constraints=constraints, demand_id="d", requestor_id="0xr", timestamp=now
            ),
            offer=Offer(
                properties={"golem.com.pricing.model.linear.coeffs": COEFFS},
                constraints="()",
                offer_id="o",
                provider_id="0xp",
                timestamp=now,
            ),
            valid_to=now,
            state=state,
            timestamp=now,
        )
        self.agreements_by_id[name] = made
        return made

    def set_state(self, name: str, state: str, **more: Any) -> None:
        self.agreements_by_id[name] = self.agreements_by_id[name].model_copy(update={"state": state, **more})

    def start(self, agreement: str, activity: str) -> None:
        self.acts[activity] = FakeActivity(activity, agreement, trio.current_time())
        self._activity_event("CreateActivity", agreement, activity)

    def stop(self, activity: str) -> None:
        act = self.acts[activity]
        if act.ended is None:
            act.ended = trio.current_time()
            self._activity_event("DestroyActivity", act.agreement_id, activity)

    def _activity_event(self, kind: str, agreement: str, activity: str) -> None:
        event = {
            "eventType": kind,
            "agreementId": agreement,
            "activityId": activity,
            "eventDate": self.tick().isoformat(),
        }
        self.activity_news.append(event)
        self.tell()

    def end(self, agreement: str) -> None:
        """Terminated, by whomever; the node ends its activities."""
        self.set_state(agreement, "Terminated")
        event = SimpleNamespace(event_type="AgreementTerminatedEvent", agreement_id=agreement, event_date=self.tick())
        self.agreement_news.append(event)
        for act in [a for a in self.acts.values() if a.agreement_id == agreement]:
            self.stop(act.id)
        self.tell()

    def propose(self, agreement: str, *, constraints: str = "()") -> None:
        """A requestor's agreement arrives at the first offer."""
        made = self.agreement(agreement, state="Pending", constraints=constraints)
        self.put(MarketEvent(event_type="AgreementEvent", event_date=NOW, agreement=made))

    def put(self, event: MarketEvent) -> None:
        next(iter(self.offers.values())).append(event)
        self.tell()

    def proposal(self, name: str, *, constraints: str = "()", issuer: str = "0xr") -> MarketEvent:
        properties = {
            "golem.srv.comp.expiration": (time.time() + 3600) * 1000,
            "golem.com.payment.chosen-platform": PLATFORM,
            f"golem.com.payment.platform.{PLATFORM}.address": issuer,
        }
        made = Proposal(
            properties=properties,
            constraints=constraints,
            proposal_id=name,
            issuer_id=issuer,
            state="Draft",
            timestamp=NOW,
        )
        return MarketEvent(event_type="ProposalEvent", event_date=NOW, proposal=made)

    async def wait_for(self, news: list[Any], timeout_s: float, fresh: Any) -> list[Any]:
        with trio.move_on_after(timeout_s):
            while True:
                changed = self.changed
                if found := [n for n in news if fresh(n)]:
                    return found
                await changed.wait()
        return []


class _Market:
    def __init__(self, node: FakeNode) -> None:
        self._n = node

    async def subscribe(self, _side: str, _properties: Any, _constraints: str) -> str:
        self._n.published += 1
        self._n.offers[f"offer-{self._n.published}"] = []
        self._n.tell()
        return f"offer-{self._n.published}"

    async def unsubscribe(self, _side: str, offer: str) -> None:
        await trio.lowlevel.checkpoint()  # as the way to a node takes
        self._n.withdrawn += 1
        del self._n.offers[offer]

    async def events(self, _side: str, offer: str, *, timeout_s: float) -> list[MarketEvent]:
        if offer not in self._n.offers:
            raise NotFoundError("no such offer")
        queue = self._n.offers[offer]
        found = await self._n.wait_for(queue, timeout_s, lambda _: True)
        queue.clear()
        return found

    async def counter(self, _side: str, _offer: str, proposal: str, _properties: Any, _constraints: str) -> str:
        if proposal in self._n.bugs:
            raise OverflowError("int too large to convert to float")
        if proposal.startswith("slow"):
            await trio.sleep(self._n.counter_takes_s)
        self._n.countered.append(proposal)
        return "p2"

    async def reject(self, _side: str, _offer: str, proposal: str, reason: dict[str, Any]) -> None:
        self._n.rejections[proposal] = reason["golem.provider.code"]
        self._n.rejection_is_final[proposal] = reason["golem.proposal.rejection.is-final"]

    async def approve(self, agreement: str, *, timeout_s: float) -> None:
        await trio.sleep(0.01)
        if agreement in self._n.bugs:
            raise OverflowError("int too large to convert to float")
        if self._n.approve_error is not None:
            raise self._n.approve_error
        self._n.set_state(agreement, "Approved")

    async def reject_agreement(self, agreement: str, reason: dict[str, Any]) -> None:
        self._n.rejections[agreement] = reason["golem.provider.code"]
        self._n.set_state(agreement, "Rejected")

    async def terminate(self, agreement: str, reason: dict[str, Any]) -> None:
        if self._n.agreements_by_id[agreement].state != "Approved":
            raise GoneError("it is final")
        self._n.terminations[agreement] = reason["golem.provider.code"]
        self._n.end(agreement)

    async def agreements(self) -> list[dict[str, Any]]:
        return [{"id": a.agreement_id, "role": "Provider", "state": a.state} for a in self._n.agreements_by_id.values()]

    async def agreement(self, agreement: str) -> Agreement:
        return self._n.agreements_by_id[agreement]

    async def agreement_events(self, *, after: datetime, timeout_s: float, role: str | None = None) -> list[Any]:
        return await self._n.wait_for(self._n.agreement_news, timeout_s, lambda n: n.event_date > after)


class _Activity:
    def __init__(self, node: FakeNode) -> None:
        self._n = node

    async def usage(self, activity: str) -> list[float]:
        return self._n.acts[activity].usage()

    async def state(self, activity: str) -> dict[str, Any]:
        return {"state": ["Ready" if self._n.acts[activity].ended is None else "Terminated", None]}

    async def agent_events(self, *, after: datetime, timeout_s: float) -> list[dict[str, Any]]:
        return await self._n.wait_for(
            self._n.activity_news, timeout_s, lambda n: datetime.fromisoformat(n["eventDate"]) > after
        )


class _Payment:
    def __init__(self, node: FakeNode) -> None:
        self._n = node

    async def accounts(self) -> list[Any]:
        return [SimpleNamespace(platform=PLATFORM, address="0xp")]

    async def issue_debit_note(
        self, activity: str, *, agreement: str, amount: str, usage: list[float], due_at: float | None
    ) -> FakeDocument:
        last = [parse_amount(n.amount) for n in self._n.notes.values() if n.activity_id == activity]
        if last and parse_amount(amount) < max(last):
            raise ConflictError("debit notes are cumulative")
        name = f"note-{len(self._n.notes)}"
        self._n.notes[name] = FakeDocument(name, agreement, amount, activity, at=trio.current_time())
        if due_at is not None:
            self._n.notes[name].payment_due_date = datetime.fromtimestamp(due_at, UTC)
        return self._n.notes[name]

    async def issue_invoice(
        self, agreement: str, *, activities: list[str], amount: str, due_at: float, document: str
    ) -> FakeDocument:
        if self._n.failures:
            raise self._n.failures.pop()
        if any(i.agreement_id == agreement for i in self._n.invoices_by_id.values()):
            raise ConflictError("there is an invoice already")
        claimed = [parse_amount(n.amount) for n in self._n.notes.values() if n.agreement_id == agreement]
        assert parse_amount(amount) >= max(claimed, default=0), "an invoice below an accepted note is refused"
        made = FakeDocument(document, agreement, amount, activity_ids=activities, at=trio.current_time())
        self._n.invoices_by_id[document] = made
        return made

    async def send(self, kind: str, document: str) -> None:
        book = self._n.notes if kind == "debitNote" else self._n.invoices_by_id
        if book[document].status == "ISSUED":
            accepted = kind == "debitNote" and self._n.accepting
            status = "SETTLED" if accepted and self._n.paying else "ACCEPTED" if accepted else "RECEIVED"
            book[document] = replace(book[document], status=status)
            if accepted and self._n.vouching:
                self._n.secured[book[document].agreement_id] = parse_amount(book[document].amount)
            self._n.tell()

    async def debit_note(self, document: str) -> FakeDocument:
        return self._n.notes[document]

    async def debit_notes(self) -> list[FakeDocument]:
        return list(self._n.notes.values())

    async def invoices(self) -> list[FakeDocument]:
        return list(self._n.invoices_by_id.values())


class _Channels:
    def __init__(self, node: FakeNode) -> None:
        self._n = node

    async def refusal(self, _agreement: str, *, timeout_s: float) -> str:
        return self._n.channel_refusal

    async def cover(self, agreement: str) -> Any:
        amount = format_amount(Amount(self._n.secured.get(agreement, 0)))
        return SimpleNamespace(vouched=amount, secured=amount)


class _Wallet:
    async def networks(self) -> list[Any]:
        return [SimpleNamespace(contracts={"channels": "0xc"})]


class _Node:
    def __init__(self, node: FakeNode) -> None:
        self._n = node

    async def activities(self) -> list[dict[str, Any]]:
        return [
            {
                "activityId": a.id,
                "agreementId": a.agreement_id,
                "role": "provider",
                "state": "Ready" if a.ended is None else "Terminated",
            }
            for a in self._n.acts.values()
        ]

    async def runtimes(self) -> list[Any]:
        return [SimpleNamespace(id="wasmtime")]

    async def runtime(self, name: str) -> Any:
        """As often as ``broken_probes`` says, it does not work."""
        works = self._n.broken_probes <= 0
        self._n.broken_probes -= 1
        return SimpleNamespace(
            id=name, name=name, properties={"golem.runtime.name": name}, works=works, reason="no engine", hint=""
        )
