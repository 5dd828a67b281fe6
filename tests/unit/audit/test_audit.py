"""The auditor: sound books have no finding, and each way of being unsound has one that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from golemp2p.core.payment import Side
from golemp2p.core.payment import journal as bodies
from golemp2p.core.payment.audit import Report, audit
from golemp2p.core.payment.journal import EntryKind
from golemp2p.errors import RemoteProtocolError
from tests.unit.audit.exchange import (
    AGREEMENT,
    DOMAIN,
    Exchange,
    Journal,
    fixed_key,
    full_exchange,
    glm,
    make_signed_agreement,
)

OTHER = "0c" * 32


def only_finding(report: Report) -> str:
    assert [finding.reason for finding in report.findings] != []
    assert report.findings_total == 1, report.findings
    return report.findings[0].reason


@pytest.mark.parametrize("side", Side)
def test_sound_books_of_either_side_have_no_finding_and_the_right_sums(side: Side) -> None:
    exchange = full_exchange()
    report = (exchange.payer if side is Side.PAYER else exchange.payee).audit()
    assert report.findings == ()
    (account,) = report.accounts
    assert (account.agreement_id, account.side, account.documents) == (AGREEMENT, side, 5)
    assert (account.billed, account.accepted, account.paid, account.open) == (glm("1.35"), glm("1.35"), glm("1.35"), 0)


def test_what_is_accepted_and_not_paid_is_open() -> None:
    exchange = Exchange()
    exchange.agree()
    exchange.accept(exchange.note("n1", "0.6", usage="[100.0, 0.0]"))
    exchange.note("n2", "0.7", usage="[200.0, 0.0]", previous="n1")
    (account,) = exchange.payer.audit().accounts
    assert (account.billed, account.accepted, account.paid, account.open) == (glm("0.7"), glm("0.6"), 0, glm("0.6"))


def test_a_node_that_buys_from_itself_has_both_sides_in_one_journal() -> None:
    one = Journal(fixed_key(1))
    exchange = Exchange(payer=one, payee=one)
    exchange.both = lambda: [(one, Side.PAYER), (one, Side.PAYEE)]  # type: ignore[method-assign] # one journal
    agreement = make_signed_agreement(one.key, one.key)
    one.append(EntryKind.AGREEMENT, bodies.agreement_body(agreement, DOMAIN), AGREEMENT)
    exchange.accept(exchange.note("n1", "0.6", usage="[100.0, 0.0]"))
    report = one.audit()
    assert report.findings == ()
    assert [account.side for account in report.accounts] == [Side.PAYER, Side.PAYEE]


def test_one_notice_may_pay_several_agreements() -> None:
    exchange = Exchange()
    for number, agreement in enumerate((AGREEMENT, OTHER)):
        exchange.agree(agreement)
        exchange.accept(exchange.note(f"n{number}", "0.6", usage="[100.0, 0.0]", agreement_id=agreement))
        exchange.accept(exchange.invoice(f"i{number}", "0.6", agreement_id=agreement))
    exchange.pay("p", {AGREEMENT: "0.6", OTHER: "0.6"})
    for journal, _ in exchange.both():
        report = journal.audit()
        assert report.findings == ()
        assert [account.paid for account in report.accounts] == [glm("0.6"), glm("0.6")]


def test_a_note_without_invoice_may_arrive_after_the_invoice_was_accepted() -> None:
    """golem-js accepts in this order at times; the usage is judged when all is known."""
    exchange = Exchange()
    exchange.agree()
    exchange.accept(exchange.invoice("i1", "0.6"))
    exchange.accept(exchange.note("n1", "0.6", usage="[100.0, 0.0]"))
    assert exchange.payer.audit().ok


# --- unsound books -------------------------------------------------------------------------------------------------


def overpriced_note(exchange: Exchange) -> None:
    exchange.accept(exchange.note("n1", "0.61", usage="[100.0, 0.0]"))


def overpriced_invoice(exchange: Exchange) -> None:
    exchange.accept(exchange.note("n1", "0.6", usage="[100.0, 0.0]"))
    exchange.accept(exchange.invoice("i1", "0.7"))


def usage_that_does_not_fit(exchange: Exchange) -> None:
    exchange.accept(exchange.note("n1", "0.6", usage="[]"))


def shrinking_total(exchange: Exchange) -> None:
    exchange.note("n1", "0.6", usage="[100.0, 0.0]")
    exchange.note("n2", "0.5", usage="[100.0, 0.0]", previous="n1")


def second_invoice(exchange: Exchange) -> None:
    exchange.invoice("i1", "0.6")
    exchange.invoice("i2", "0.6")


def invoice_below_the_notes(exchange: Exchange) -> None:
    exchange.accept(exchange.note("n1", "0.6", usage="[100.0, 0.0]"))
    exchange.invoice("i1", "0.5")


def note_above_the_invoice(exchange: Exchange) -> None:
    exchange.note("n0", "0.5", usage="[100.0, 0.0]")
    exchange.accept(exchange.invoice("i1", "0.5"))
    exchange.accept(exchange.note("n1", "0.6", usage="[100.0, 0.0]", previous="n0"))


def the_same_note_twice(exchange: Exchange) -> None:
    exchange.bill(exchange.note("n1", "0.6", usage="[100.0, 0.0]"))


def paid_more_than_accepted(exchange: Exchange) -> None:
    exchange.accept(exchange.note("n1", "0.6", usage="[100.0, 0.0]", payable=True))
    exchange.pay("p1", {AGREEMENT: "0.7"})


def one_transfer_for_two_notices(exchange: Exchange) -> None:
    exchange.accept(exchange.note("n1", "0.6", usage="[100.0, 0.0]", payable=True))
    exchange.pay("p1", {AGREEMENT: "0.3"})
    exchange.pay("p2", {AGREEMENT: "0.3"})


def rejected_after_acceptance(exchange: Exchange) -> None:
    document = exchange.note("n1", "0.6", usage="[100.0, 0.0]")
    exchange.accept(document)
    exchange.reject(document)


def bill_without_agreement(exchange: Exchange) -> None:
    exchange.note("n1", "0.6", usage="[100.0, 0.0]", agreement_id=OTHER)


UNSOUND: list[tuple[Callable[[Exchange], None], str, set[Side]]] = [
    (overpriced_note, "more than the agreed price", {Side.PAYER, Side.PAYEE}),
    (overpriced_invoice, "more than the agreed price", {Side.PAYER, Side.PAYEE}),
    (usage_that_does_not_fit, "cannot be checked", {Side.PAYER, Side.PAYEE}),
    (shrinking_total, "totals never go down", {Side.PAYER, Side.PAYEE}),
    (second_invoice, "has an invoice already", {Side.PAYER, Side.PAYEE}),
    (invoice_below_the_notes, "below the accepted debit notes", {Side.PAYER, Side.PAYEE}),
    (note_above_the_invoice, "exceed the accepted invoice", {Side.PAYER, Side.PAYEE}),
    (the_same_note_twice, "written down before", {Side.PAYER, Side.PAYEE}),
    (paid_more_than_accepted, "of which 0.6 was accepted", {Side.PAYER, Side.PAYEE}),
    (one_transfer_for_two_notices, "paid for something else before", {Side.PAYEE}),
    (rejected_after_acceptance, "accepted before it was rejected", {Side.PAYER, Side.PAYEE}),
    (bill_without_agreement, "is not in the journal before it", {Side.PAYER, Side.PAYEE}),
]


@pytest.mark.parametrize(("spoil", "reason", "sides"), UNSOUND, ids=[case[0].__name__ for case in UNSOUND])
def test_books_that_do_not_fit_together_are_found_with_the_reason(
    spoil: Callable[[Exchange], None], reason: str, sides: set[Side]
) -> None:
    exchange = Exchange()
    exchange.agree()
    spoil(exchange)
    for journal, side in exchange.both():
        if side in sides:
            assert reason in only_finding(journal.audit())


# --- forged by the node itself: chained and signed anew, so that only the others' signatures can tell ----------------


def forge(kind: str, change: Callable[[dict[str, Any]], None], side: Side = Side.PAYEE) -> Report:
    exchange = full_exchange()
    journal = exchange.payer if side is Side.PAYER else exchange.payee
    place = next(number for number, entry in enumerate(journal.entries) if entry.kind == kind)
    body = json.loads(journal.entries[place].body)
    change(body)
    return journal.rewritten(place, body).audit()


def first_reason(report: Report) -> str:
    assert not report.ok
    return report.findings[0].reason


MESSAGES = {
    EntryKind.DEBIT_NOTE: ("totalAmountDue", "signed by the provider", Side.PAYER),
    EntryKind.INVOICE: ("amount", "signed by the provider", Side.PAYER),
    EntryKind.ACCEPTANCE: ("amount", "signed by the requestor", Side.PAYEE),
    EntryKind.PAYMENT_NOTICE: ("amount", "do not add up", Side.PAYEE),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_an_amount_that_its_signer_did_not_write_is_found(kind: EntryKind) -> None:
    name, reason, side = MESSAGES[kind]

    def raise_it(body: dict[str, Any]) -> None:
        body["message"][name] = str(int(body["message"][name]) + 1)

    assert reason in first_reason(forge(kind, raise_it, side))


def test_an_agreement_whose_terms_were_changed_is_found() -> None:
    def cheaper(body: dict[str, Any]) -> None:
        body["content"] = body["content"].replace("0.001", "0.009")

    assert "not signed by its requestor" in first_reason(forge(EntryKind.AGREEMENT, cheaper))


def test_a_payment_for_what_was_never_accepted_is_found() -> None:
    exchange = Exchange()
    exchange.agree()
    exchange.note("n1", "0.6", usage="[100.0, 0.0]", payable=True)
    exchange.pay("p1", {AGREEMENT: "0.6"})
    assert "0.6 was paid, of which 0 was accepted" in only_finding(exchange.payee.audit())
    assert "of which 0 was accepted for payment" in only_finding(exchange.payer.audit())


def test_a_transfer_to_somebody_else_does_not_pay() -> None:
    def redirect(body: dict[str, Any]) -> None:
        body["legs"][0]["to"] = "0x" + "99" * 20

    assert "goes to somebody else" in first_reason(forge(EntryKind.PAYMENT, redirect))


def test_a_transfer_of_less_does_not_pay() -> None:
    def lower(body: dict[str, Any]) -> None:
        body["legs"][0]["amount"] = str(int(body["legs"][0]["amount"]) - 1)

    assert "do not add up" in first_reason(forge(EntryKind.PAYMENT, lower))


def test_a_journal_of_strangers_is_not_this_nodes() -> None:
    exchange = full_exchange()
    exchange.payee.key = fixed_key(9)
    assert "has no part in it" in first_reason(exchange.payee.audit())


def test_a_file_about_one_agreement_is_checked_by_itself() -> None:
    exchange = Exchange()
    for number, agreement in enumerate((AGREEMENT, OTHER)):
        exchange.agree(agreement)
        exchange.accept(exchange.note(f"n{number}", "0.6", usage="[100.0, 0.0]", agreement_id=agreement, payable=True))
    exchange.pay("p", {AGREEMENT: "0.6", OTHER: "0.6"})
    for journal, _ in exchange.both():
        kept = [entry for entry in journal.entries if entry.agreement_id in ("", OTHER)]
        report = Journal(journal.key, kept, OTHER).audit()
        assert report.findings == ()
        (account,) = report.accounts
        assert (account.agreement_id, account.paid) == (OTHER, glm("0.6"))


@pytest.mark.parametrize("line", ["", "{}", '{"format":"golemp2p-audit-1"}', "[1]", "nonsense", '{"format":1.5}'])
def test_a_file_that_is_no_journal_is_refused(line: str) -> None:
    with pytest.raises(RemoteProtocolError):
        audit([line])


def test_entries_of_a_later_version_are_chained_and_left_alone() -> None:
    exchange = full_exchange()
    exchange.payee.append("something_new", {"a": 1}, "")
    assert exchange.payee.audit().ok
