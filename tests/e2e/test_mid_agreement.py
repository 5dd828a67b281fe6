"""Payments while the work goes on: payable debit notes are settled on chain before the agreement ends."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import trio

from golemp2p.core.money import parse_amount
from golemp2p.core.payment import Side
from tests.e2e.agent import deploy_and_run, negotiate
from tests.e2e.net import Net, check_journal, golemp2p
from tests.integration.runtimes.wats import TICK_LOOP

INTERVAL_S, PAYMENT_S = 1, 2
TERMS = {
    "golem.com.scheme.payu.debit-note.interval-sec?": INTERVAL_S,
    "golem.com.scheme.payu.payment-timeout-sec?": PAYMENT_S,
}


async def test_a_payable_debit_note_is_paid_while_the_activity_runs(net: Net, tmp_path: Path) -> None:
    """Its acceptance makes it due, the provider sees it paid on chain; the invoice pays the rest.

    Afterwards both nodes' journals hold before the auditor.
    """
    async with net.requestor.client() as client:
        made = await negotiate(client, TICK_LOOP, demand=TERMS)
        provider = next(p for p in net.providers if p.address == made.provider)
        before = net.balance(made.provider)
        activity = await made.activity()
        await client.activity.execute(activity, deploy_and_run())
        async with provider.client() as theirs:
            after: datetime | None = None
            with trio.fail_after(30):
                while True:
                    for note in await client.payment.debit_notes():
                        if note.agreement_id == made.agreement and note.status == "RECEIVED":
                            await client.payment.accept(
                                "debitNote",
                                note.debit_note_id,
                                amount=note.total_amount_due,
                                allocation=made.allocation,
                            )
                    notes = [n for n in await theirs.payment.debit_notes() if n.agreement_id == made.agreement]
                    paid = [n for n in notes if n.payment_due_date is not None and n.status == "SETTLED"]
                    if paid:
                        break
                    news = await client.payment.events(
                        "debitNote", after=after, timeout_s=1.0, types="Received,Settled"
                    )
                    after = news[-1].event_date if news else after
        assert any(n.payment_due_date is None for n in notes), "only some are payable"
        assert (await client.activity.state(activity))["state"][0] == "Ready", "the work goes on"
        assert net.balance(made.provider) - before >= parse_amount(paid[0].total_amount_due) > 0
        await client.activity.destroy(activity, timeout_s=10.0)
        await made.end()
        invoice = await made.pay()
        assert net.balance(made.provider) - before == parse_amount(invoice.amount), "a payout is always a difference"
        await client.payment.release_allocation(made.allocation)
        for node, side in ((net.requestor, Side.PAYER), (provider, Side.PAYEE)):
            found = check_journal(node, tmp_path)
            (account,) = [a for a in found.accounts if a.agreement_id == made.agreement]
            assert (account.side, account.open, account.paid) == (side, 0, parse_amount(invoice.amount))
    file, copy = tmp_path / "books.jsonl", tmp_path / "copy.jsonl"
    assert net.requestor.command("audit", "export", str(file), "--agreement", made.agreement).returncode == 0
    copy.write_text(file.read_text().replace(invoice.invoice_id, invoice.invoice_id[::-1], 1))
    verified, refused = (golemp2p("audit", "verify", str(path)) for path in (file, copy))
    assert verified.returncode == 0
    assert "verified: every hash, every signature" in verified.stdout
    assert refused.returncode == 1
    assert "the entry was changed" in refused.stdout
