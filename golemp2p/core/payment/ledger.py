"""The arithmetic of one agreement and of an allocation. Totals only grow; a payout is always a difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from golemp2p.core.ids import ActivityId, AllocationId
from golemp2p.core.money import ZERO, Amount, format_amount
from golemp2p.errors import ConflictError, UsageError


@dataclass(frozen=True)
class NoteTotals:
    """Of one activity: the highest accepted note, and the highest accepted note that was payable at once."""

    accepted: Amount = ZERO
    payable: Amount = ZERO


@dataclass(frozen=True)
class Ledger:
    """What was accepted, scheduled for payment and paid under one agreement.

    Invariants: scheduled <= payable <= accepted, on the payer's side also paid <= scheduled; every one of them only
    grows; and once an invoice has been accepted, accepted == invoice for ever.
    """

    notes: Mapping[ActivityId, NoteTotals] = field(default_factory=dict)
    invoice: Amount | None = None
    scheduled: Amount = ZERO
    paid: Amount = ZERO

    @property
    def noted(self) -> Amount:
        return Amount(sum(n.accepted for n in self.notes.values()))

    @property
    def accepted(self) -> Amount:
        return self.noted if self.invoice is None else self.invoice

    @property
    def payable(self) -> Amount:
        return Amount(sum(n.payable for n in self.notes.values())) if self.invoice is None else self.invoice

    def accept_note(self, activity: ActivityId, total: Amount, *, payable: bool) -> Ledger:
        """Accept a debit note (cumulative ``total``). An older or repeated one changes nothing.

        Raises ConflictError when the notes together would exceed an invoice that was accepted already.
        """
        old = self.notes.get(activity, NoteTotals())
        new = NoteTotals(max(old.accepted, total), max(old.payable, total) if payable else old.payable)
        grown = replace(self, notes={**self.notes, activity: new})
        if self.invoice is not None and grown.noted > self.invoice:
            raise ConflictError(
                f"debit notes of {format_amount(grown.noted)} exceed the accepted invoice"
                f" of {format_amount(self.invoice)}",
                hint="an invoice is the final amount of its agreement",
            )
        return grown._checked()

    def accept_invoice(self, amount: Amount) -> Ledger:
        """Accept the invoice: the final amount. Raises ConflictError when it contradicts what was accepted before."""
        if self.invoice is not None and self.invoice != amount:
            raise ConflictError(
                f"an invoice of {format_amount(self.invoice)} is accepted already, so one of"
                f" {format_amount(amount)} cannot be"
            )
        if amount < self.noted:
            raise ConflictError(
                f"an invoice of {format_amount(amount)} is below the accepted debit notes ({format_amount(self.noted)})"
            )
        return replace(self, invoice=amount)._checked()

    def schedule(self) -> tuple[Ledger, Amount]:
        """Everything payable becomes scheduled; the second value is what has to be paid for that (may be 0)."""
        due = Amount(self.payable - self.scheduled)
        return replace(self, scheduled=self.payable)._checked(), due

    def pay(self, amount: Amount) -> Ledger:
        """``amount`` of what was scheduled is on the chain, finally."""
        paid = replace(self, paid=Amount(self.paid + amount))._checked()
        assert paid.paid <= paid.scheduled, paid
        return paid

    def credit(self, amount: Amount) -> Ledger:
        """The payee's view of :meth:`pay`: what arrived counts, even before we hear that it was accepted."""
        return replace(self, paid=Amount(self.paid + amount))

    def covers(self, activity: ActivityId | None, amount: Amount) -> bool:
        """Whether what was paid settles a document of cumulative ``amount`` (``activity`` None: an invoice)."""
        if activity is None:
            return self.paid >= amount
        # Notes of other activities may be owed first: a note is settled when all that is payable is paid, or
        # when so much is paid that this note must be within it.
        others = Amount(self.noted - self.notes.get(activity, NoteTotals()).accepted)
        return self.paid >= self.payable > ZERO or self.paid >= others + amount

    def _checked(self) -> Ledger:
        # Paired with the property tests: on the money path a broken invariant must stop us, not pay.
        assert ZERO <= self.scheduled <= self.payable <= self.accepted, self
        return self


@dataclass(frozen=True)
class Charge:
    """One allocation's part in one agreement: accepted but not payable yet (reserved), and made payable (spent)."""

    allocation: AllocationId
    reserved: Amount = ZERO
    spent: Amount = ZERO


def check_budget(remaining: Amount, needed: Amount, *, allocation: AllocationId, total: Amount) -> None:
    """Raises UsageError with the numbers when ``needed`` exceeds what remains."""
    if needed > remaining:
        raise UsageError(
            f"allocation {allocation} has {format_amount(remaining)} of {format_amount(total)} left,"
            f" {format_amount(needed)} is needed",
            hint=f"raise it by {format_amount(needed - remaining)}",
        )


def charge_allocations(
    charges: Sequence[Charge], allocation: AllocationId, before: Ledger, after: Ledger
) -> list[Charge]:
    """Charge the growth from ``before`` to ``after`` to ``allocation``.

    New acceptances are reserved in it; what became payable turns from reserved to spent, first in it, then in the
    others that the agreement has used. Returns all charges of the agreement.
    """
    grown = after.accepted - before.accepted
    to_spend = after.payable - before.payable
    mine = next((c for c in charges if c.allocation == allocation), Charge(allocation))
    rest = [c for c in charges if c.allocation != allocation]
    result: list[Charge] = []
    for charge in [replace(mine, reserved=Amount(mine.reserved + grown)), *rest]:
        moved = min(charge.reserved, to_spend)
        to_spend -= moved
        result.append(replace(charge, reserved=Amount(charge.reserved - moved), spent=Amount(charge.spent + moved)))
    assert to_spend == 0, "what becomes payable was reserved when it was accepted"
    return result
