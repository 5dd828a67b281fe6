"""Paying: accepts bills that are right, rejects the others with the reason, stops what the budget does not cover."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import anyio

from golemp2p import limits
from golemp2p.client import NodeClient
from golemp2p.client.payment import Kind
from golemp2p.core.money import ZERO, Amount, format_amount, parse_amount
from golemp2p.errors import DeadlineError, GolemError, NetworkError, UsageError
from golemp2p.sdk.contracts import Contract, Meter
from golemp2p.sdk.errors import BudgetError
from golemp2p.sdk.log import get_logger
from golemp2p.sdk.news import News
from golemp2p.sdk.offers import implausible
from golemp2p.wire.rest.payment import DebitNote, Invoice, Payment

log = get_logger()

CLOCK_GRACE_S = 5.0
ROUNDING_PARTS = 10**9  # bills made with other rounding may differ by so small a part


class Payments:
    """Of one session: all agreements confirmed with ``session_id``, paid from one allocation.

    ``contracts``: by agreement id; workers add theirs. ``on_budget`` is told, once, when the budget is used up.
    """

    def __init__(
        self,
        client: NodeClient,
        *,
        allocation_id: str,
        budget: Amount,
        session_id: str,
        contracts: dict[str, Contract],
        on_budget: Callable[[BudgetError], None],
    ) -> None:
        self._client = client
        self._allocation = allocation_id
        self._budget = budget
        self._session = session_id
        self._on_budget = on_budget
        self._exhausted = False
        self._news = News()
        self.contracts = contracts

    # --- what workers tell ---

    def begin(self, contract: Contract, activity: str) -> None:
        contract.meters[activity] = Meter(anyio.current_time())

    def changed(self) -> None:
        self._news.tell()

    # --- budget ---

    @property
    def owed(self) -> Amount:
        now_s = anyio.current_time()
        return Amount(sum(contract.owed(now_s) for contract in self.contracts.values()))

    @property
    def room(self) -> int:
        """What is left of the budget when all that runs is stopped at the next check; negative: stop now."""
        then_s = anyio.current_time() + limits.SDK_BUDGET_CHECK_S + limits.SDK_STOP_S
        return self._budget - sum(contract.owed(then_s) for contract in self.contracts.values())

    async def watch_budget(self) -> None:
        """Stops the work while what it has cost can still be paid in full."""
        while True:
            await anyio.sleep(limits.SDK_BUDGET_CHECK_S)
            for contract in list(self.contracts.values()):
                for activity, meter in list(contract.meters.items()):
                    await self._read(contract, activity, meter)
            if self.room < 0:
                self._exhaust()

    async def _read(self, contract: Contract, activity: str, meter: Meter) -> None:
        try:
            usage = await self._client.activity.usage(activity)
        except GolemError as exc:
            log.debug("usage_unknown", activity=activity, error=str(exc))
            return
        by_name = dict(zip(contract.price.usage, usage, strict=False))
        meter.cpu_s = max(meter.cpu_s, by_name.get("golem.usage.cpu_sec", 0.0))

    def _exhaust(self) -> None:
        if not self._exhausted:
            self._exhausted = True
            error = BudgetError(
                f"the budget of {format_amount(self._budget)} GLM is as good as used up:"
                f" {format_amount(self.owed)} GLM are owed",
                hint="give a larger budget",
            )
            log.warning("budget_exhausted", error=error.message)
            self._on_budget(error)

    # --- bills ---

    async def watch(self, kind: Kind) -> None:
        """Answer debit notes or invoices as they come."""
        after = None
        while True:
            try:
                events = await self._client.payment.events(
                    kind, after=after, session_id=self._session, timeout_s=limits.SDK_POLL_S
                )
            except NetworkError as exc:
                log.warning("payment_events_failed", error=str(exc))
                await anyio.sleep(limits.SDK_RETRY_S)
                continue
            for event in events:
                after = event.event_date
                try:
                    if event.debit_note_id is not None:
                        await self._on_note(await self._client.payment.debit_note(event.debit_note_id))
                    elif event.invoice_id is not None:
                        await self._on_invoice(await self._client.payment.invoice(event.invoice_id))
                except GolemError as exc:
                    log.warning("bill_not_answered", event_type=event.event_type, error=str(exc))
                self._news.tell()

    async def _on_note(self, note: DebitNote) -> None:
        contract = self.contracts.get(note.agreement_id)
        if contract is None or note.status != "RECEIVED":
            return
        amount = parse_amount(note.total_amount_due)
        problem = self._wrong_note(contract, note, amount)
        if problem:
            log.warning("debit_note_rejected", note=note.debit_note_id, reason=problem)
            await self._client.payment.reject("debitNote", note.debit_note_id, message=problem)
            return
        contract.notes[note.activity_id] = max(contract.notes.get(note.activity_id, ZERO), amount)
        if not self._affordable():
            self._exhaust()
            return
        await self._client.payment.accept(
            "debitNote", note.debit_note_id, amount=note.total_amount_due, allocation=self._allocation
        )

    def _wrong_note(self, contract: Contract, note: DebitNote, amount: Amount) -> str:
        if note.activity_id not in contract.meters:
            return f"activity {note.activity_id} is not ours"
        life_s = anyio.current_time() - contract.approved_s + CLOCK_GRACE_S
        usage = note.usage_counter_vector
        if problem := implausible(contract.price, usage, life_s=life_s, threads=contract.threads):
            return problem
        price = contract.price.cost(usage)
        return _above(amount, price, "the agreed price of the reported usage")

    async def _on_invoice(self, invoice: Invoice) -> None:
        contract = self.contracts.get(invoice.agreement_id)
        if contract is None or invoice.status != "RECEIVED":
            return
        amount = parse_amount(invoice.amount)
        with anyio.move_on_after(limits.SDK_NOTE_WAIT_S):
            while _above(amount, Amount(sum(contract.notes.values())), ""):
                await self._news.next().wait()
        covered = Amount(sum(contract.notes.values()))
        if problem := _above(amount, covered, "the last debit notes"):
            log.warning("invoice_rejected", invoice=invoice.invoice_id, reason=problem)
            contract.problem = problem
            await self._client.payment.reject("invoice", invoice.invoice_id, message=problem)
            return
        contract.invoice_id, contract.invoiced = invoice.invoice_id, amount
        contract.meters.clear()
        if not self._affordable():
            contract.problem = "the budget does not cover it"
            self._exhaust()
            return
        try:
            await self._client.payment.accept(
                "invoice", invoice.invoice_id, amount=invoice.amount, allocation=self._allocation
            )
        except UsageError as exc:
            contract.problem = exc.message
            raise
        contract.accepted = True
        log.info("invoice_accepted", invoice=invoice.invoice_id, amount=invoice.amount)

    def _affordable(self) -> bool:
        return sum(contract.billed for contract in self.contracts.values()) <= self._budget

    # --- the end ---

    async def wait_invoices(self, timeout_s: float) -> None:
        """Until every ended agreement's invoice is answered; providers that are lost are not waited for."""
        with anyio.move_on_after(timeout_s) as scope:
            while any(c.ended and not c.lost and not c.accepted and not c.problem for c in self.contracts.values()):
                await self._news.next().wait()
        if scope.cancelled_caught:
            missing = [c.agreement_id for c in self.contracts.values() if c.ended and not c.accepted and not c.lost]
            log.warning("invoices_missing", agreements=missing)

    async def wait_settled(self, timeout_s: float) -> list[Payment]:
        """Until every accepted invoice of more than 0 is paid; the payments. Raises DeadlineError with what is not."""
        wanted = {c.invoice_id: c.agreement_id for c in self.contracts.values() if c.accepted and c.invoiced}
        open_ids = set(wanted)
        with anyio.move_on_after(timeout_s):
            while True:
                for invoice_id in list(open_ids):
                    if (await self._client.payment.invoice(invoice_id)).status == "SETTLED":
                        open_ids.discard(invoice_id)
                if not open_ids:
                    return await self.payments_of(wanted.values())
                await anyio.sleep(limits.SDK_SETTLE_POLL_S)
        platforms = await self._client.payment.status()
        problems = "; ".join(p.problem for p in platforms if p.problem)
        raise DeadlineError(
            f"{len(open_ids)} of {len(wanted)} invoices are not settled after {timeout_s:g} s",
            hint=problems or "the node goes on paying; look at: golemp2p payment status",
        )

    async def payments_of(self, agreements: Iterable[str]) -> list[Payment]:
        ours = set(agreements)
        payments = await self._client.payment.payments()
        return [p for p in payments if any(share.agreement_id in ours for share in p.agreement_payments)]


def _above(amount: Amount, price: Amount, what: str) -> str:
    if amount > price + price // ROUNDING_PARTS + 1:
        return f"{format_amount(amount)} is more than {what} ({format_amount(price)})"
    return ""
