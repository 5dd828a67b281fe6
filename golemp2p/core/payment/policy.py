"""What the node itself accepts for an agent that does not answer: only what the agreement plainly says is owed."""

from __future__ import annotations

from collections.abc import Mapping

from golemp2p import limits
from golemp2p.core.agreement import Agreement
from golemp2p.core.ids import ActivityId
from golemp2p.core.money import Amount, format_amount, linear_cost
from golemp2p.core.payment.documents import Document
from golemp2p.core.payment.ledger import Ledger
from golemp2p.errors import UsageError

# A provider that computes its price in floats may round up by a few units: one part in 10^9 is nobody's loss.
_ROUNDING_PARTS = 10**9
_CLOCK_GRACE_S = 60.0


def refusal_of_debit_note(note: Document, agreement: Agreement, ledger: Ledger, *, now: float) -> str:
    """Why the node does not accept ``note`` by itself; "" when it does."""
    try:
        usage = note.usage_vector
        price = linear_cost(agreement.price_coeffs, usage)
        reason = _implausible_usage(agreement, usage, now=now)
        ledger.accept_note(note.activity_id, note.amount, payable=note.payable)
    except UsageError as exc:
        return exc.message
    if reason:
        return reason
    return _above(note.amount, price, "the agreed price of the reported usage")


def refusal_of_invoice(
    invoice: Document,
    agreement: Agreement,
    ledger: Ledger,
    last_notes: Mapping[ActivityId, Document],
    *,
    now: float,
) -> str:
    """Why the node does not accept ``invoice`` by itself; "" when it does.

    ``last_notes`` are the newest debit notes of each activity of the agreement: they report the usage.
    """
    price = 0
    try:
        ledger.accept_invoice(invoice.amount)
        for activity, note in last_notes.items():
            usage = note.usage_vector
            if reason := _implausible_usage(agreement, usage, now=now):
                return f"activity {activity}: {reason}"
            price += linear_cost(agreement.price_coeffs, usage)
    except UsageError as exc:
        return exc.message
    if invoice.amount > 0 and not last_notes:
        return f"an invoice of {format_amount(invoice.amount)} without any debit note that reports usage"
    return _above(invoice.amount, Amount(price), "the agreed price of the last reported usage")


def exceeds(amount: int, price: int) -> bool:
    """More than rounding explains."""
    return amount > price + price // _ROUNDING_PARTS + 1


def _above(amount: Amount, price: Amount, what: str) -> str:
    if exceeds(amount, price):
        return f"{format_amount(amount)} is more than {what} ({format_amount(price)})"
    return ""


def _implausible_usage(agreement: Agreement, usage: list[float], *, now: float) -> str:
    """Running time cannot exceed the life of the agreement, CPU time not the running time of all threads."""
    if any(counter < 0 for counter in usage):
        return "a usage counter is negative"
    began = agreement.approved_at if agreement.approved_at is not None else agreement.created_at
    life_s = max(0.0, now - began) + _CLOCK_GRACE_S
    counters = dict(zip(agreement.usage_vector, usage, strict=False))
    duration_s, cpu_s = counters.get("golem.usage.duration_sec", life_s), counters.get("golem.usage.cpu_sec", 0.0)
    if duration_s > life_s:
        return (
            f"golem.usage.duration_sec of {duration_s:.0f} s is more than the agreement's life allows ({life_s:.0f} s)"
        )
    cpu_limit_s = _threads(agreement) * duration_s + limits.CPU_SLACK_S
    if cpu_s > cpu_limit_s:
        return f"golem.usage.cpu_sec of {cpu_s:.0f} s is more than its running time allows ({cpu_limit_s:.0f} s)"
    return ""


def _threads(agreement: Agreement) -> float:
    """How many may work at once: as offered, but no more than one can believe; a WebAssembly payload has one."""
    threads = agreement.offer.get("golem.inf.cpu.threads")
    if agreement.offer.get("golem.runtime.name") == "wasmtime" or not isinstance(threads, int | float):
        return 1.0
    return float(min(threads, limits.MAX_BILLED_THREADS)) if threads >= 1 else 1.0
