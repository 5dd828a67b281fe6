"""The payee's alarm: accepted, due, and not paid on the chain."""

from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs

from golemp2p import limits
from golemp2p.core.payment import DocumentState
from tests.unit.payment.test_service import INVOICE, reaches
from tests.unit.payment.world import ACTIVITY, PLATFORM, clock, glm, open_world


async def test_an_accepted_bill_that_is_not_paid_in_time_is_shown_and_told_once_until_it_is(
    autojump_clock: object,
) -> None:
    """yagna #3126, yapapi #937: a provider was never told that nobody pays."""
    with capture_logs() as logs:
        async with open_world() as world:
            requestor, provider = world.requestor, world.provider
            allocation = await requestor.service.allocations.create(platform=PLATFORM, total=glm("10"))
            stored = await provider.service.documents.issue_invoice(
                world.add_agreement("ag2"), glm("2"), activity_ids=[ACTIVITY], due_at=clock() + 60
            )
            invoice = stored.document.id
            await provider.service.documents.send(INVOICE, invoice)
            await trio.sleep(1)  # virtual: it is on its way
            await reaches(requestor, INVOICE, invoice, DocumentState.RECEIVED)
            world.chain.down = True  # the payer promises, and cannot pay
            await requestor.service.documents.accept(INVOICE, invoice, amount=glm("2"), allocation_id=allocation.id)
            await reaches(provider, INVOICE, invoice, DocumentState.ACCEPTED)

            await trio.sleep(60 + limits.OVERDUE_GRACE_S - 5)
            assert await provider.service.overdue.bills() == []
            assert (await provider.service.status())[0].problem == ""
            await trio.sleep(limits.OVERDUE_CHECK_S + 10)
            [bill] = await provider.service.overdue.bills()
            assert (bill.id, bill.amount, bill.payer) == (invoice, glm("2"), requestor.key.address)
            [status] = await provider.service.status()
            assert (
                f"one accepted bill is overdue: invoice {invoice} of 2 from {requestor.key.address}" in status.problem
            )
            await trio.sleep(10 * limits.OVERDUE_CHECK_S)
            assert await requestor.service.overdue.bills() == [], "it is the payee's"

            world.chain.down = False
            await reaches(provider, INVOICE, invoice, DocumentState.SETTLED)
            assert await provider.service.overdue.bills() == []
            assert (await provider.service.status())[0].problem == ""
    assert len([entry for entry in logs if entry["event"] == "bill_overdue"]) == 1


@pytest.mark.parametrize("payable", [True, False], ids=["with a due date", "without one"])
async def test_only_bills_with_a_due_date_can_be_overdue(autojump_clock: object, payable: bool) -> None:
    async with open_world() as world:
        requestor, provider = world.requestor, world.provider
        allocation = await requestor.service.allocations.create(platform=PLATFORM, total=glm("10"))
        world.chain.down = True
        stored = await provider.service.documents.issue_debit_note(
            next(iter(provider.agreements.known)),
            ACTIVITY,
            glm("1"),
            usage=[1.0, 1.0],
            due_at=clock() + 60 if payable else None,
        )
        note = stored.document
        await provider.service.documents.send(note.kind, note.id)
        await trio.sleep(1)  # virtual: it is on its way
        await reaches(requestor, note.kind, note.id, DocumentState.RECEIVED)
        await requestor.service.documents.accept(note.kind, note.id, amount=glm("1"), allocation_id=allocation.id)
        await reaches(provider, note.kind, note.id, DocumentState.ACCEPTED)
        await trio.sleep(60 + limits.OVERDUE_GRACE_S + 1)
        assert [bill.id for bill in await provider.service.overdue.bills()] == ([note.id] if payable else [])
