"""A node with providers, in memory: what the SDK sees of them through the client."""

from __future__ import annotations

import itertools
from base64 import b64encode
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel

from golemp2p.client.activity import BatchEvent
from golemp2p.core.money import format_amount, linear_cost
from golemp2p.errors import DeadlineError, GoneError, NotFoundError, UsageError
from golemp2p.wire.rest import market, node, payment

PLATFORM = "erc20-fake-tglm"
NOW = datetime(2026, 1, 1, tzinfo=UTC)

# (provider, argv) -> (exit code, stdout)
Program = Callable[[str, Sequence[str]], tuple[int, str]]


@dataclass
class Provider:
    """``dies_after``: batches until it falls silent; ``overcharges``: a factor on its bills; ``takes_s``: per batch."""

    name: str
    per_second: float = 0.001
    start: float = 0.0
    refuses: str = ""
    broken_setup: bool = False
    dies_after: int | None = None
    overcharges: float = 1.0
    takes_s: float = 0.1
    bills: bool = True
    batches: int = 0
    dead: bool = False

    @property
    def id(self) -> str:
        return "0x" + self.name.encode().hex().rjust(40, "0")

    def properties(self) -> dict[str, Any]:
        return {
            "golem.node.id.name": self.name,
            "golem.inf.mem.gib": 4.0,
            "golem.com.pricing.model": "linear",
            "golem.com.usage.vector": ["golem.usage.duration_sec", "golem.usage.cpu_sec"],
            "golem.com.pricing.model.linear.coeffs": [self.per_second, 0.0, self.start],
        }


@dataclass
class FakeNode:
    """Everything that happened is in ``agreements``, ``destroyed``, ``accepted`` and so on."""

    providers: list[Provider]
    program: Program = lambda _provider, _argv: (0, "")
    agreements: dict[str, tuple[Provider, str]] = field(default_factory=dict)  # id -> provider, state
    activities: dict[str, tuple[str, float]] = field(default_factory=dict)  # id -> agreement, began
    destroyed: dict[str, float] = field(default_factory=dict)  # activity -> usage in s
    demands: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    notes: dict[str, payment.DebitNote] = field(default_factory=dict)
    invoices: dict[str, payment.Invoice] = field(default_factory=dict)
    accepted: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    released: bool = False
    busy: int = 0
    busiest: int = 0

    def __post_init__(self) -> None:
        self._ids: Iterator[int] = itertools.count(1)
        self._market: deque[market.MarketEvent] = deque()
        self._bills: dict[str, list[payment.PaymentEvent]] = {"debitNote": [], "invoice": []}
        self._offered: dict[str, Provider] = {}
        self._batches: dict[str, list[dict[str, Any]]] = {}
        self._changed = anyio.Event()
        self._files: dict[str, bytes] = {}
        self.market = self.activity = self.payment = self.files = self.node = self

    def new_id(self, kind: str) -> str:
        return f"{kind}-{next(self._ids)}"

    def tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    @asynccontextmanager
    async def connect(self, _url: str, _key: str) -> AsyncIterator[FakeNode]:
        yield self

    # --- node ---

    async def explain(self, _properties: object, _constraints: str) -> list[node.OfferVerdict]:
        return [
            node.OfferVerdict(
                offer_id="o",
                provider_id=p.id,
                provider_name=p.name,
                result="true",
                demand_clauses=[],
                offer_clauses=[],
                unresolved=[],
            )
            for p in self.providers
        ]

    # --- market ---

    def _proposal(self, provider: Provider, state: str, previous: str | None = None) -> market.Proposal:
        found = market.Proposal(
            properties=provider.properties(),
            constraints="()",
            proposal_id=self.new_id("R-proposal"),
            issuer_id=provider.id,
            state=state,
            timestamp=NOW,
            prev_proposal_id=previous,
        )
        self._offered[found.proposal_id] = provider
        return found

    async def subscribe(self, _side: str, properties: dict[str, Any], constraints: str) -> str:
        assert isinstance(properties["golem.srv.comp.expiration"], int)
        assert "(golem.runtime.name=wasmtime)" in constraints
        demand = self.new_id("demand")
        self.demands.append(demand)
        for provider in self.providers:
            proposal = self._proposal(provider, "Initial")
            self._market.append(market.MarketEvent(event_type="ProposalEvent", event_date=NOW, proposal=proposal))
        return demand

    async def unsubscribe(self, _side: str, demand: str) -> None:
        self.withdrawn.append(demand)

    async def events(self, *args: Any, **kwargs: Any) -> Any:
        if args[0] == "demands":
            return await self._market_events()
        return await self._payment_events(args[0], kwargs["after"])

    async def _market_events(self) -> list[market.MarketEvent]:
        while not self._market:
            await self._changed.wait()
        found = list(self._market)
        self._market.clear()
        return found

    async def counter(self, _side: str, _demand: str, proposal: str, properties: dict[str, Any], _c: str) -> str:
        assert properties["golem.com.payment.chosen-platform"] == PLATFORM
        provider = self._offered[proposal]
        ours = self.new_id("R-ours")
        if provider.refuses:
            event = market.MarketEvent(
                event_type="ProposalRejectedEvent",
                event_date=NOW,
                proposal_id=ours,
                reason={"message": provider.refuses},
            )
        else:
            draft = self._proposal(provider, "Draft", ours)
            event = market.MarketEvent(event_type="ProposalEvent", event_date=NOW, proposal=draft)
        self._market.append(event)
        self.tell()
        return ours

    async def create_agreement(self, proposal: str, *, valid_to: float) -> str:
        del valid_to
        agreement = self.new_id("agreement")
        self.agreements[agreement] = (self._offered[proposal], "Proposal")
        return agreement

    async def confirm(self, agreement: str, *, session_id: str) -> None:
        assert session_id
        self.agreements[agreement] = (self.agreements[agreement][0], "Approved")

    async def wait_approved(self, agreement: str, *, timeout_s: float) -> None:
        await anyio.lowlevel.checkpoint()

    async def agreement(self, agreement: str) -> market.Agreement:
        provider, state = self.agreements[agreement]
        return market.Agreement(
            agreement_id=agreement,
            demand=market.Demand(properties={}, constraints="()", demand_id="d", requestor_id="0xr", timestamp=NOW),
            offer=market.Offer(
                properties=provider.properties(), constraints="()", offer_id="o", provider_id=provider.id, timestamp=NOW
            ),
            valid_to=NOW,
            state=state,
            timestamp=NOW,
        )

    async def cancel(self, agreement: str, _reason: object) -> None:
        if self.agreements[agreement][1] == "Approved":
            raise GoneError("approved")
        self.agreements[agreement] = (self.agreements[agreement][0], "Cancelled")

    async def terminate(self, agreement: str, _reason: object) -> None:
        provider, state = self.agreements[agreement]
        assert state == "Approved"
        self.agreements[agreement] = (provider, "Terminated")
        if not provider.dead and provider.bills:
            self._bill(agreement, provider)

    def _bill(self, agreement: str, provider: Provider) -> None:
        total = 0
        coeffs = [provider.per_second, 0.0, provider.start]
        for activity, (under, _) in self.activities.items():
            if under != agreement:
                continue
            usage = [self.destroyed[activity], 0.0]
            amount = int(linear_cost(coeffs, usage) * provider.overcharges)
            total += amount
            note = payment.DebitNote(
                debit_note_id=self.new_id("note"),
                issuer_id=provider.id,
                recipient_id="0xr",
                payee_addr=provider.id,
                payer_addr="0xr",
                payment_platform=PLATFORM,
                timestamp=NOW,
                agreement_id=agreement,
                activity_id=activity,
                total_amount_due=format_amount(amount),
                usage_counter_vector=usage,
                status="RECEIVED",
            )
            self.notes[note.debit_note_id] = note
            self._bill_event("debitNote", debit_note_id=note.debit_note_id)
        invoice = payment.Invoice(
            invoice_id=self.new_id("invoice"),
            issuer_id=provider.id,
            recipient_id="0xr",
            payee_addr=provider.id,
            payer_addr="0xr",
            payment_platform=PLATFORM,
            timestamp=NOW,
            agreement_id=agreement,
            activity_ids=[],
            amount=format_amount(total),
            payment_due_date=NOW,
            status="RECEIVED",
        )
        self.invoices[invoice.invoice_id] = invoice
        self._bill_event("invoice", invoice_id=invoice.invoice_id)

    def _bill_event(self, kind: str, **ids: str) -> None:
        moment = NOW + timedelta(seconds=next(self._ids))
        self._bills[kind].append(payment.PaymentEvent(event_type=f"{kind}ReceivedEvent", event_date=moment, **ids))
        self.tell()

    # --- activity ---

    async def create(self, agreement: str, *, timeout_s: float) -> str:
        provider, state = self.agreements[agreement]
        assert state == "Approved"
        if provider.dead:
            await anyio.sleep(timeout_s)
            raise DeadlineError("the provider did not create the activity")
        activity = self.new_id("activity")
        self.activities[activity] = (agreement, anyio.current_time())
        return activity

    def _of(self, activity: str) -> Provider:
        return self.agreements[self.activities[activity][0]][0]

    async def destroy(self, activity: str, *, timeout_s: float) -> None:
        if self._of(activity).dead:
            await anyio.sleep(timeout_s)
            raise DeadlineError("no answer")
        self.destroyed[activity] = anyio.current_time() - self.activities[activity][1]

    async def execute(self, activity: str, commands: list[dict[str, Any]]) -> str:
        if activity in self.destroyed:
            raise GoneError("destroyed")
        batch = self.new_id("batch")
        self._batches[batch] = commands
        return batch

    async def state(self, activity: str) -> dict[str, Any]:
        dead = self._of(activity).dead or activity in self.destroyed
        return {"state": ["Unresponsive" if dead else "Ready", None]}

    async def usage(self, activity: str) -> list[float]:
        return [anyio.current_time() - self.activities[activity][1], 0.0]

    async def run_batch(self, activity: str, batch: str) -> AsyncIterator[BatchEvent]:
        provider = self._of(activity)
        numbers = itertools.count()
        provider.batches += 1
        if provider.dies_after is not None and provider.batches > provider.dies_after:
            provider.dead = True
        await anyio.sleep(10.0 if provider.dead else provider.takes_s)
        for index, command in enumerate(self._batches[batch]):
            code, message = 0, None
            (kind, body), *_ = command.items()
            if provider.dead:
                code, message = -1, "the provider does not answer"
            elif kind == "deploy" and provider.broken_setup:
                code, message = -1, "disk full"
            elif kind == "run":
                code, output = self.program(provider.name, [body["entry_point"], *body["args"]])
                if output:
                    yield BatchEvent(next(numbers), index, "stdout", b64encode(output.encode()).decode())
                message = f"ExeScript command exited with code {code}" if code else None
            yield BatchEvent(next(numbers), index, "finished", {"return_code": code, "message": message})
            if code:
                return

    # --- payment ---

    async def accounts(self) -> list[payment.Account]:
        return [
            payment.Account(
                platform=PLATFORM, address="0xr", driver="erc20", network="fake", token="tglm", send=True, receive=True
            )
        ]

    async def create_allocation(self, amount: str, *, platform: str) -> Any:
        if float(amount) > 100:
            raise UsageError("account 0xr has 100")
        return SimpleNamespace(allocation_id="allocation", platform=platform)

    async def decorate_demand(self, _allocation: str) -> payment.Decoration:
        return payment.Decoration(properties=[], constraints=[])

    async def release_allocation(self, _allocation: str) -> None:
        self.released = True

    async def _payment_events(self, kind: str, after: datetime | None) -> list[payment.PaymentEvent]:
        while True:
            found = [e for e in self._bills[kind] if after is None or e.event_date > after]
            if found:
                return found
            await self._changed.wait()

    async def debit_note(self, note: str) -> payment.DebitNote:
        return self.notes[note]

    async def invoice(self, invoice: str) -> payment.Invoice:
        return self.invoices[invoice]

    async def accept(self, _kind: str, document: str, *, amount: str, allocation: str) -> None:
        assert allocation == "allocation"
        self.accepted[document] = amount

    async def reject(self, _kind: str, document: str, *, message: str) -> None:
        self.rejected[document] = message

    # --- files ---

    async def publish(self, source: bytes) -> Any:
        return SimpleNamespace(url="gftp://0xr/file", sha3_256="00")

    async def open_slot(self) -> Any:
        slot = self.new_id("slot")
        return SimpleNamespace(slot=slot, url=f"gftp://0xr/{slot}")

    async def read_slot(self, slot: str, *, timeout_s: float) -> bytes:
        return slot.encode()

    async def close_slot(self, slot: str) -> None:
        if not slot:
            raise NotFoundError("no slot")


class FakeActivity:
    """``events`` of activities has another shape than those of the other parts, so it has its own object."""

    def __init__(self, fake: FakeNode) -> None:
        self._fake = fake

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fake, name)

    @asynccontextmanager
    async def events(self, activity: str, batch: str, **_: Any) -> AsyncIterator[AsyncIterator[BatchEvent]]:
        fake = self._fake
        fake.busy += 1
        fake.busiest = max(fake.busiest, fake.busy)
        try:
            yield fake.run_batch(activity, batch)
        finally:
            fake.busy -= 1


def make_node(providers: Sequence[Provider], program: Program | None = None) -> FakeNode:
    fake = FakeNode(list(providers)) if program is None else FakeNode(list(providers), program)
    fake.activity = FakeActivity(fake)  # type: ignore[assignment] # stands in
    return fake
