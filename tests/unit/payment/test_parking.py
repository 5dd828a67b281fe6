"""A payee whose transfers revert costs no endless fees and holds up nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from golemp2p import limits
from golemp2p.core.agreement import Agreement
from golemp2p.core.ids import DocumentId
from golemp2p.core.payment import DocumentState, SlotState
from golemp2p.identity.keys import NodeKey
from golemp2p.payment.messages import document_message
from golemp2p.storage import payment_settlement as settlement_repo
from golemp2p.wire.p2p import payment as wire
from tests.unit.payment.test_peers import invoice_of
from tests.unit.payment.test_service import INVOICE, accept, allocate, bill, reaches
from tests.unit.payment.world import DOMAIN, World, glm, make_agreement, open_world


async def billed_by(world: World, provider: NodeKey, amount: str, *, due_at_ms: int = 2) -> DocumentId:
    """An invoice of another provider, at the requestor; it is long due unless a date is given."""
    agreement: Agreement = make_agreement(world.requestor.key, provider, f"of-{provider.address}")
    world.requestor.agreements.known[agreement.id] = agreement
    invoice = invoice_of(world, agreement_id=agreement.id, payee=provider.address, amount=glm(amount))
    invoice = replace(invoice, due_at_ms=due_at_ms)
    message = document_message(invoice, provider.sign(invoice.digest(DOMAIN)))
    handler = world.requestor.rpc.handlers[f"{wire.PROTOCOL} {wire.SEND_INVOICE}"]
    await handler(provider.peer_id, message.model_dump())
    return invoice.id


async def slot_states(world: World) -> list[SlotState]:
    return [s.state for s in await world.requestor.storage.run(settlement_repo.find_slots)]


async def problem(world: World) -> str:
    (status,) = await world.requestor.service.status()
    return status.problem


async def test_a_transfer_that_would_revert_is_not_sent_and_others_are_paid(autojump_clock: object) -> None:
    async with open_world() as world:
        allocation, bad = await allocate(world), NodeKey.generate()
        world.chain.refused.add(bad.address)
        refused = await billed_by(world, bad, "1")
        await accept(world, INVOICE, refused, "1", allocation)
        honest = await bill(world, "2")
        await accept(world, INVOICE, honest, "2", allocation)
        await reaches(world.provider, INVOICE, honest, DocumentState.SETTLED)
        await trio.sleep(3_600)
        assert await slot_states(world) == [SlotState.FINAL], "no nonce and no gas for the refused one"
        assert f"payments to {bad.address} wait: execution reverted: refused recipient" in await problem(world)
        world.chain.refused.clear()
        await reaches(world.requestor, INVOICE, refused, DocumentState.SETTLED)
        assert await problem(world) == ""


async def test_reverts_that_no_simulation_foresees_end_after_three_and_an_amendment_tries_again(
    autojump_clock: object,
) -> None:
    async with open_world() as world:
        allocation, bad = await allocate(world), NodeKey.generate()
        world.chain.refused.add(bad.address)
        world.chain.simulates = False
        refused = await billed_by(world, bad, "1")
        await accept(world, INVOICE, refused, "1", allocation)
        await trio.sleep(3_600)
        assert await slot_states(world) == [SlotState.FAILED] * limits.MAX_TRANSFER_REVERTS
        assert "3 transfers were reverted" in await problem(world)
        honest = await bill(world, "2")
        await accept(world, INVOICE, honest, "2", allocation)
        await reaches(world.provider, INVOICE, honest, DocumentState.SETTLED)
        assert "3 transfers were reverted" in await problem(world)
        world.chain.refused.clear()
        await trio.sleep(3_600)
        assert (await world.requestor.service.document(INVOICE, refused)).state is DocumentState.ACCEPTED
        await world.requestor.service.allocations.amend(allocation, total=glm("11"))
        await reaches(world.requestor, INVOICE, refused, DocumentState.SETTLED)


@pytest.mark.parametrize("foreign", [False, True])
async def test_a_debt_that_cannot_be_paid_is_reported_and_the_next_is_paid(
    foreign: bool, autojump_clock: object
) -> None:
    """Too dear for the account, or owed by an account whose key is not here."""
    async with open_world(balance="100") as world:
        allocation, other = await allocate(world, "50"), NodeKey.generate()
        dear = await billed_by(world, other, "40")
        world.chain.fund(world.requestor.key.address, world.requestor.driver.network.token, -glm("90"))
        await accept(world, INVOICE, dear, "40", allocation)
        if foreign:
            table = settlement_repo.obligations
            await world.requestor.storage.run(lambda c: c.execute(table.update().values(payer=other.address)))
        small = await bill(world, "3")
        await accept(world, INVOICE, small, "3", allocation)
        await reaches(world.provider, INVOICE, small, DocumentState.SETTLED)
        assert ("whose key is not here" if foreign else "lacks") in await problem(world)
