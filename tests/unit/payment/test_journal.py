"""What two payment services write down holds before the auditor, whatever they did."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import sqlalchemy as sa
import trio

from golemp2p.core.agreement import Role
from golemp2p.core.ids import ActivityId, AgreementId
from golemp2p.core.payment import DocumentState
from golemp2p.core.payment.audit import Report, audit
from golemp2p.core.payment.journal import EntryKind
from golemp2p.payment.messages import notice_message
from golemp2p.storage import journal, open_storage
from golemp2p.storage.export import write_export
from golemp2p.wire.p2p import payment as wire
from tests.unit.audit.exchange import make_signed_agreement
from tests.unit.payment.test_service import AG1, INVOICE, NOTE, accept, allocate, bill, note, reaches
from tests.unit.payment.world import DOMAIN, PLATFORM, Node, World, clock, glm, make_service, open_world


def sign_up(world: World, agreement_id: str = AG1) -> AgreementId:
    """Both nodes get an agreement that both have signed."""
    agreement = make_signed_agreement(
        world.requestor.key,
        world.provider.key,
        agreement_id,
        domain=DOMAIN,
        platform=PLATFORM,
        began_ms=round(clock() * 1000),
    )
    world.requestor.agreements.known[agreement.id] = agreement
    world.provider.agreements.known[agreement.id] = replace(agreement, role=Role.PROVIDER)
    return agreement.id


async def export(node: Node, agreement_id: str = "") -> list[str]:
    file = io.StringIO()
    await node.storage.run(lambda c: write_export(c, file, signer=node.key, now=clock(), agreement_id=agreement_id))
    return file.getvalue().split("\n")[:-1]


async def audited(node: Node, agreement_id: str = "") -> Report:
    return audit(await export(node, agreement_id))


async def kinds(node: Node) -> list[str]:
    return await node.storage.run(lambda c: [entry.kind for entry, _ in journal.read(c)])


async def test_a_job_from_agreement_to_payment_holds_on_both_sides(autojump_clock: object) -> None:
    async with open_world() as world:
        sign_up(world)
        allocation = await allocate(world)
        for total, seconds in (("0.6", 100.0), ("0.7", 200.0)):
            await accept(world, NOTE, await note(world, total, usage=(seconds, 0.0), payable=True), total, allocation)
        invoice = await bill(world, "0.7")
        await accept(world, INVOICE, invoice, "0.7", allocation)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        for node in (world.requestor, world.provider):
            report = await audited(node)
            assert report.findings == ()
            (account,) = report.accounts
            assert (account.billed, account.accepted, account.paid) == (glm("0.7"), glm("0.7"), glm("0.7"))
            assert (await kinds(node))[:2] == [EntryKind.AGREEMENT, EntryKind.DEBIT_NOTE]
            assert (await audited(node, AG1)).ok


async def test_rejections_cancellations_and_repetitions_hold_too(autojump_clock: object) -> None:
    async with open_world() as world:
        sign_up(world)
        allocation = await allocate(world)
        documents = world.provider.service.documents
        dear = await note(world, "5", usage=(100.0, 0.0))
        await world.requestor.service.documents.reject(NOTE, dear, code="TOO_MUCH", message="of what?")
        await reaches(world.provider, NOTE, dear, DocumentState.REJECTED)
        unsent = await documents.issue_invoice(AG1, glm("9"))
        await documents.cancel(INVOICE, unsent.document.id)
        world.requestor.rpc.lose_answers = world.provider.rpc.lose_answers = 2
        fair = await note(world, "0.6", usage=(100.0, 0.0))
        await accept(world, NOTE, fair, "0.6", allocation)
        await accept(world, NOTE, fair, "0.6", allocation)
        await reaches(world.provider, NOTE, fair, DocumentState.ACCEPTED)
        assert await kinds(world.provider) == [
            "agreement", "debit_note", "rejection", "invoice", "cancellation", "debit_note", "acceptance",
        ]  # fmt: skip
        assert await kinds(world.requestor) == ["agreement", "debit_note", "rejection", "debit_note", "acceptance"]
        for node in (world.requestor, world.provider):
            assert (await audited(node)).findings == ()


async def test_several_agreements_paid_by_one_transaction_hold_together_and_alone(autojump_clock: object) -> None:
    async with open_world() as world:
        agreements = [sign_up(world, name) for name in ("ag1", "ag2", "ag3")]
        allocation = await allocate(world)
        world.chain.down = True
        for agreement in agreements:
            documents = world.provider.service.documents
            activity = ActivityId(f"of-{agreement}")
            stored = await documents.issue_debit_note(agreement, activity, glm("0.5"), usage=(0.0, 0.0))
            await documents.send(NOTE, stored.document.id)
            invoice = await bill(world, "0.5", agreement=agreement)
            await accept(world, INVOICE, invoice, "0.5", allocation)
        world.chain.down = False
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        for node in (world.requestor, world.provider):
            whole = await audited(node)
            assert whole.findings == ()
            assert len(whole.accounts) == 3
            for agreement in agreements:
                alone = await audited(node, agreement)
                assert alone.findings == ()
                assert [(a.agreement_id, a.paid) for a in alone.accounts] == [(agreement, glm("0.5"))]


async def test_a_forged_notice_is_written_down_as_refused_and_pays_nothing(autojump_clock: object) -> None:
    async with open_world() as world:
        sign_up(world)
        sign_up(world, "ag2")
        allocation = await allocate(world)
        await note(world, "0.5")
        first = await bill(world, "0.5")
        await accept(world, INVOICE, first, "0.5", allocation)
        await reaches(world.provider, INVOICE, first, DocumentState.SETTLED)
        (honest,) = await world.provider.service.payments()
        await bill(world, "0.5", agreement=AgreementId("ag2"))
        again = replace(honest.notice, id="again", shares=((AgreementId("ag2"), glm("0.5")),), document_ids=())
        handler = world.provider.rpc.handlers[f"{wire.PROTOCOL} {wire.PAYMENT_NOTICE}"]
        signature = world.requestor.key.sign(again.digest(DOMAIN))
        await handler(world.requestor.key.peer_id, notice_message(again, signature).model_dump())
        await trio.sleep(10)
        assert (await kinds(world.provider))[-2:] == [EntryKind.PAYMENT_NOTICE, EntryKind.PAYMENT_REFUSED]
        report = await audited(world.provider)
        assert report.findings == ()
        assert [account.paid for account in report.accounts] == [glm("0.5"), 0]


async def test_a_broken_journal_is_shown_and_stops_nothing(autojump_clock: object) -> None:
    async with open_world() as world, open_storage(None) as storage, trio.open_nursery() as nursery:
        node = world.provider
        await storage.run(lambda c: journal.append(c, "x", {}, agreement_id="", now=0.0))
        await storage.run(lambda c: c.execute(sa.text("UPDATE pay_journal SET body = '[]'")))
        service = make_service(node.key, node.rpc, node.agreements, storage, node.driver)
        assert service.journal_problem == ""
        await nursery.start(service.run)
        assert "entry 1 of the journal was changed" in service.journal_problem
        sign_up(world)
        stored = await service.documents.issue_invoice(AG1, glm("0"))
        assert stored.state is DocumentState.ISSUED
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("unsigned", [b"", b"\x01" * 65])
async def test_an_agreement_without_good_signatures_is_a_finding(autojump_clock: object, unsigned: bytes) -> None:
    async with open_world() as world:
        agreement = world.provider.agreements.known[sign_up(world)]
        world.provider.agreements.known[AG1] = replace(agreement, provider_signature=unsigned)
        await world.provider.service.documents.issue_invoice(AG1, glm("0"))
        assert "not signed by its provider" in (await audited(world.provider)).findings[0].reason
