"""Vouchers and claims before the auditor."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from golemp2p.core.payment import Side
from golemp2p.core.payment.audit import Report
from golemp2p.core.payment.journal import EntryKind
from tests.unit.audit.exchange import AGREEMENT, Exchange, Journal, channel_exchange, glm

OTHER = "0c" * 32


@pytest.mark.parametrize("side", Side)
def test_vouchers_and_claims_that_fit_have_no_finding_and_the_right_sums(side: Side) -> None:
    exchange = channel_exchange()
    report = (exchange.payer if side is Side.PAYER else exchange.payee).audit()
    assert report.findings == ()
    sums = {a.agreement_id: (a.accepted, a.vouched, a.paid, a.open) for a in report.accounts}
    assert sums == {
        AGREEMENT: (glm("0.7"), glm("0.7"), glm("0.7"), 0),
        OTHER: (glm("0.5"), glm("0.5"), glm("0.5"), 0),
    }


def test_a_file_about_one_agreement_of_a_shared_channel_holds_by_itself() -> None:
    for journal, _ in channel_exchange().both():
        kept = [entry for entry in journal.entries if entry.agreement_id in ("", OTHER)]
        report = Journal(journal.key, kept, OTHER).audit()
        assert report.findings == ()
        assert [(a.agreement_id, a.vouched, a.paid) for a in report.accounts] == [(OTHER, glm("0.5"), glm("0.5"))]


def forge(kind: str, change: Callable[[dict[str, Any]], None], number: int = 0) -> Report:
    """The payee's own lie: chained and signed anew."""
    journal = channel_exchange().payee
    place = [n for n, entry in enumerate(journal.entries) if entry.kind == kind][number]
    body = json.loads(journal.entries[place].body)
    change(body)
    return journal.rewritten(place, body).audit()


def put(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        body[name] = value

    return change


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        (EntryKind.VOUCHER, put("cumulative", str(glm("0.7"))), "voucher's signature is not that of"),
        (EntryKind.VOUCHER, put("agreementTotal", str(glm("0.7"))), "more than the voucher"),
        (EntryKind.VOUCHER, put("agreementTotal", "-1"), "amount is malformed"),
        (EntryKind.VOUCHER, put("chainId", 1), "voucher's signature is not that of"),
        (EntryKind.VOUCHER, put("contract", "0x" + "c1" * 20), "voucher's signature is not that of"),
        (EntryKind.VOUCHER, put("signer", "0x" + "11" * 20), "of another channel"),
        (EntryKind.VOUCHER, put("payee", "0x" + "11" * 20), "payer or payee is not the agreement's"),
        (EntryKind.VOUCHER, put("salt", "0x" + "00" * 32), "of another channel"),
        (EntryKind.VOUCHER, put("salt", "0x00"), "salt is no hash"),
        (EntryKind.VOUCHER, put("signature", "00" * 65), "not canonical"),
        (EntryKind.VOUCHER, put("extra", 1), "no others"),
        (EntryKind.CLAIM, put("claimed", str(glm("1.3"))), "was vouched for"),
        (EntryKind.CLAIM, put("paid", str(glm("0.7"))), "paid more than was claimed"),
        (EntryKind.CLAIM, put("agreements", [[AGREEMENT, str(glm("0.8"))]]), "more than was vouched for it"),
        (EntryKind.CLAIM, put("agreements", [[AGREEMENT, "1"], [AGREEMENT, "1"]]), "an agreement is named twice"),
        (EntryKind.CLAIM, put("agreements", ["x"]), "no pairs"),
        (EntryKind.CLAIM, put("channelId", "0x" + "00" * 32), "without a voucher before it"),
        (EntryKind.CLAIM, put("transaction", "0x"), "malformed or another"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_was_changed_is_found_with_the_reason(
    kind: str, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    report = forge(kind, change)
    assert any(reason in finding.reason for finding in report.findings), report.findings


def test_a_claim_that_is_counted_twice_is_found() -> None:
    exchange = channel_exchange()
    exchange.claim("0.4", "1.2", {OTHER: "0.3", AGREEMENT: "0.1"})
    for journal, _ in exchange.both():
        assert "the claim was counted before" in {finding.reason for finding in journal.audit().findings}


def billed() -> Exchange:
    """As the channel exchange, and 0.8 billed and vouched for under the other agreement, 0.5 of it claimed."""
    exchange = channel_exchange()
    exchange.vouch("1.5", "0.8", agreement_id=OTHER)
    exchange.accept(exchange.note("n4", "0.8", usage="[300.0, 0.0]", previous="n2", agreement_id=OTHER))
    return exchange


def test_what_a_closed_channel_did_not_cover_may_be_paid_in_another_way_once() -> None:
    exchange = billed()
    exchange.closed({OTHER: "0.2"})
    exchange.pay("p1", {OTHER: "0.2"}, transaction="0x" + "6f" * 32)
    for journal, _ in exchange.both():
        assert journal.audit().findings == ()
    kept = [entry for entry in exchange.payer.entries if entry.agreement_id in ("", OTHER)]
    assert Journal(exchange.payer.key, kept, OTHER).audit().findings == ()


def test_what_a_channel_promises_and_a_payment_pays_again_is_found() -> None:
    for closed in ({}, {OTHER: "0.1"}):
        exchange = billed()
        if closed:
            exchange.closed(closed)
        exchange.pay("p1", {OTHER: "0.2"}, transaction="0x" + "6f" * 32)
        assert "more than was accepted" in exchange.payer.audit().findings[0].reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("agreements", [[OTHER, str(glm("0.301"))]]), "than was vouched for and not claimed"),
        (put("agreements", [[AGREEMENT, "1"]]), f"of agreement {AGREEMENT} unclaimed than"),
        (put("agreements", [[OTHER, "1"], [OTHER, "1"]]), "an agreement is named twice"),
        (put("agreements", [[OTHER, "-1"]]), "amount is malformed"),
        (put("agreements", None), "no pairs"),
        (put("chainId", 1), "chain is another"),
        (put("channelId", "0x" + "00" * 32), "without a voucher before it"),
        (put("side", "payee"), "without a voucher before it"),
        (put("extra", 1), "no others"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_lie_about_a_closed_channel_is_found(change: Callable[[dict[str, Any]], None], reason: str) -> None:
    exchange = billed()
    exchange.closed({OTHER: "0.2"})
    place = len(exchange.payer.entries) - 1
    body = json.loads(exchange.payer.entries[place].body)
    change(body)
    report = exchange.payer.rewritten(place, body).audit()
    assert any(reason in finding.reason for finding in report.findings), report.findings


def test_nothing_happens_in_a_channel_that_was_closed_before() -> None:
    exchange = billed()
    exchange.closed({OTHER: "0.2"})
    exchange.closed({OTHER: "0.1"})
    exchange.claim("0.3", "1.5", {OTHER: "0.3"})
    exchange.vouch("1.6", "0.8")
    reasons = [finding.reason for finding in exchange.payer.audit().findings]
    assert reasons[:3] == [
        "the channel was closed before",
        "the claim is of a channel that was closed before",
        "the voucher is of a channel that was closed before",
    ]


def test_vouchers_that_shrink_are_found() -> None:
    exchange = channel_exchange()
    exchange.vouch("1.0", "0.7")
    exchange.vouch("1.3", "0.6")
    reasons = [finding.reason for finding in exchange.payee.audit().findings]
    assert "less than the one before it" in reasons[0]
    assert "went down" in reasons[1]


def test_a_payer_that_vouches_for_more_than_it_accepted_is_found_in_its_own_books() -> None:
    exchange = channel_exchange()
    exchange.vouch("2.2", "1.7")
    assert "more than was accepted" in exchange.payer.audit().findings[0].reason
    assert exchange.payee.audit().ok


def test_a_voucher_for_an_agreement_that_is_paid_otherwise_is_found() -> None:
    exchange = Exchange()
    exchange.agree()
    exchange.vouch("0.6", "0.6")
    assert "not paid through a channel" in exchange.payee.audit().findings[0].reason
