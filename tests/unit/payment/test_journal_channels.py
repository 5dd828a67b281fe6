"""What two nodes write down that settle through a channel holds before the auditor."""

from __future__ import annotations

import io
from dataclasses import replace

import trio.testing

from golemp2p.core.agreement import Role
from golemp2p.core.ids import AgreementId
from golemp2p.core.payment import Side
from golemp2p.core.payment.audit import Report, audit
from golemp2p.core.payment.journal import EntryKind
from golemp2p.storage import journal
from golemp2p.storage.export import write_export
from tests.unit.audit.exchange import make_signed_agreement
from tests.unit.payment.channels.world import GRACE_S, INVOICE, NOTE, SETTINGS, Node, World, open_channels, until
from tests.unit.payment.world import ACTIVITY, DOMAIN, PLATFORM, clock, glm


async def signed(world: World, agreement_id: str) -> AgreementId:
    """An agreement that both have really signed, over a funded channel."""
    made = make_signed_agreement(
        world.requestor.key,
        world.provider.key,
        agreement_id,
        domain=DOMAIN,
        platform=PLATFORM,
        began_ms=round(clock() * 1000),
        mode="channel",
    )
    world.requestor.agreements.known[made.id] = made
    world.provider.agreements.known[made.id] = replace(made, role=Role.PROVIDER)
    await world.requestor.service.channels.prepare(made)
    assert await world.provider.service.channels.refusal(world.provider.agreements.known[made.id], timeout_s=5) == ""
    return made.id


async def note(world: World, agreement: AgreementId, total: str, seconds: float) -> None:
    """Billed and accepted."""
    documents = world.provider.service.documents
    stored = await documents.issue_debit_note(agreement, ACTIVITY, glm(total), usage=[seconds, 0.0])
    await documents.send(NOTE, stored.document.id)
    await until(lambda: world._received(NOTE, stored.document.id))
    (allocation, *_) = await world.requestor.service.allocations.list_live()
    await world.requestor.service.documents.accept(
        NOTE, stored.document.id, amount=stored.document.amount, allocation_id=allocation.id
    )


async def audited(node: Node, agreement_id: str = "") -> Report:
    file = io.StringIO()
    await node.storage.run(lambda c: write_export(c, file, signer=node.key, now=clock(), agreement_id=agreement_id))
    return audit(file.getvalue().split("\n")[:-1])


async def test_notes_vouchers_and_a_claim_of_two_agreements_hold(autojump_clock: trio.testing.MockClock) -> None:
    async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1.15"))) as world:
        first, second = await signed(world, "one"), await signed(world, "two")
        await note(world, first, "0.6", 100.0)
        await note(world, second, "0.5", 0.0)
        await world.vouched("1.1")
        await note(world, first, "0.7", 200.0)
        invoice = await world.bill(first, "0.7", kind=INVOICE)
        await world.settled(INVOICE, invoice)  # 1.2 in all: claimed
        for node in (world.requestor, world.provider):
            report = await audited(node)
            assert report.findings == ()
            sums = {a.agreement_id: (a.accepted, a.vouched, a.paid) for a in report.accounts}
            assert sums == {first: (glm("0.7"),) * 3, second: (glm("0.5"),) * 3}
            kinds = await node.storage.run(lambda c: [entry.kind for entry, _ in journal.read(c)])
            assert kinds.count(EntryKind.VOUCHER) == 3
            assert kinds.count(EntryKind.CLAIM) == 1
            for agreement in (first, second):
                assert (await audited(node, agreement)).findings == ()


async def test_vouchers_beyond_a_closed_deposit_hold_when_they_are_paid_in_another_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    settings = replace(SETTINGS, deposit=glm("1"))
    async with open_channels(requestor=settings, provider=replace(settings, claim_threshold=glm("9"))) as world:
        first, second = await signed(world, "one"), await signed(world, "two")
        world.chain.down = True
        await note(world, first, "0.6", 100.0)
        await note(world, second, "0.6", 100.0)
        await world.vouched("1.2")
        await world.requestor.service.channels.close((await world.requestor.channel(Side.PAYER)).id)
        world.chain.down = False
        await until(lambda: _has(world, "1"))
        world.chain.evm.warp(GRACE_S)
        await until(lambda: _has(world, "1.2"))
        await until(lambda: _paid(world, "1.2"))
        for node in (world.requestor, world.provider):
            for agreement in ("", first, second):
                report = await audited(node, agreement)
                assert report.findings == ()
                assert all((a.accepted, a.vouched, a.paid) == (glm("0.6"),) * 3 for a in report.accounts)
            kinds = await node.storage.run(lambda c: [entry.kind for entry, _ in journal.read(c)])
            assert kinds.count(EntryKind.CHANNEL_CLOSED) == (1 if node is world.requestor else 0)


async def _has(world: World, total: str) -> bool:
    return world.tokens(world.provider) == glm(total)


async def _paid(world: World, total: str) -> bool:
    """In the books of both."""
    found = [await node.service.payments() for node in (world.requestor, world.provider)]
    return all(sum(p.notice.amount for p in some if p.state == "confirmed") == glm(total) for some in found)
