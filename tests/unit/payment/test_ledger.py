"""The arithmetic of money: whatever the order and however often, nothing is paid beyond or twice."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golemp2p.core.ids import ActivityId, AllocationId
from golemp2p.core.money import Amount
from golemp2p.core.payment import Charge, Ledger, charge_allocations, check_budget
from golemp2p.errors import ConflictError, UsageError

A, B = ActivityId("a"), ActivityId("b")


@dataclass(frozen=True)
class Step:
    what: str
    activity: ActivityId
    amount: int
    payable: bool
    allocation: AllocationId


STEPS = st.lists(
    st.builds(
        Step,
        what=st.sampled_from(["note", "note", "note", "invoice", "pay"]),
        activity=st.sampled_from([A, B]),
        amount=st.integers(0, 30),
        payable=st.booleans(),
        allocation=st.sampled_from([AllocationId("x"), AllocationId("y")]),
    ),
    max_size=25,
)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_any_order_and_repetition_schedules_the_accepted_total_once(steps: list[Step]) -> None:
    """Model: the agreed total is the invoice, or the sum of the highest accepted payable notes."""
    ledger, payouts, charges = Ledger(), 0, [Charge(AllocationId("x"))]
    highest: dict[ActivityId, int] = {}
    invoice: int | None = None
    for step in [s for s in steps for _ in range(2)]:  # everything is delivered twice
        if step.what == "pay":
            ledger = ledger.pay(Amount(ledger.scheduled - ledger.paid))
            continue
        before = ledger
        try:
            if step.what == "invoice":
                ledger = ledger.accept_invoice(Amount(step.amount))
                invoice = step.amount
            else:
                ledger = ledger.accept_note(step.activity, Amount(step.amount), payable=step.payable)
                if step.payable:
                    highest[step.activity] = max(highest.get(step.activity, 0), step.amount)
        except ConflictError:
            assert ledger is before
            continue
        charges = charge_allocations(charges, step.allocation, before, ledger)
        ledger, due = ledger.schedule()
        payouts += due
        assert due >= 0
        assert before.accepted <= ledger.accepted
        agreed = invoice if invoice is not None else sum(highest.values())
        assert payouts == ledger.scheduled == agreed
        assert sum(c.spent for c in charges) == ledger.scheduled
        assert sum(c.reserved for c in charges) == ledger.accepted - ledger.scheduled
        assert all(c.reserved >= 0 and c.spent >= 0 for c in charges)
    assert ledger.paid <= ledger.scheduled <= ledger.payable <= ledger.accepted


def test_an_invoice_below_the_accepted_notes_is_refused() -> None:
    ledger = Ledger().accept_note(A, Amount(5), payable=False)
    with pytest.raises(ConflictError, match="below the accepted debit notes"):
        ledger.accept_invoice(Amount(4))


def test_notes_beyond_an_accepted_invoice_and_a_second_invoice_are_refused() -> None:
    ledger = Ledger().accept_invoice(Amount(5))
    with pytest.raises(ConflictError, match="exceed the accepted invoice"):
        ledger.accept_note(A, Amount(6), payable=True)
    with pytest.raises(ConflictError, match="accepted already"):
        ledger.accept_invoice(Amount(6))
    assert ledger.accept_invoice(Amount(5)) == ledger


def test_paying_more_than_was_scheduled_stops_us() -> None:
    ledger, _ = Ledger().accept_invoice(Amount(5)).schedule()
    with pytest.raises(AssertionError):
        ledger.pay(Amount(6))


def test_documents_are_covered_by_what_was_paid() -> None:
    ledger = Ledger().accept_note(A, Amount(3), payable=True).accept_note(B, Amount(2), payable=True)
    assert not ledger.covers(A, Amount(3))
    assert ledger.credit(Amount(5)).covers(A, Amount(3))
    assert not ledger.credit(Amount(4)).covers(A, Amount(3))
    assert ledger.credit(Amount(5)).covers(None, Amount(5))
    assert not ledger.credit(Amount(5)).covers(None, Amount(6))


def test_a_budget_error_has_the_numbers() -> None:
    with pytest.raises(UsageError, match=r"has 1 of 4 left, 2\.5 is needed \(raise it by 1\.5\)"):
        check_budget(Amount(10**18), Amount(25 * 10**17), allocation=AllocationId("x"), total=Amount(4 * 10**18))
