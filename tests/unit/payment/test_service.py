"""Two payment services end to end, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from golemp2p.core.agreement import AgreementState
from golemp2p.core.ids import ActivityId, AgreementId, AllocationId, DocumentId
from golemp2p.core.payment import DocumentKind, DocumentState, Fees, Side
from golemp2p.errors import ConflictError, GoneError, NotFoundError, UsageError
from golemp2p.payment import PaymentSettings
from golemp2p.payment.drivers.base import Call
from golemp2p.payment.drivers.fake import FakeChain
from golemp2p.payment.drivers.transactions import TRANSFER_GAS, transfer_call
from golemp2p.payment.networks import GWEI
from golemp2p.payment.service import EVENT_TYPES
from golemp2p.storage import payment_settlement as settlement_repo
from golemp2p.storage.payment import outbox
from golemp2p.storage.payment_settlement import obligations
from tests.unit.payment.world import ACTIVITY, NETWORK, PLATFORM, Node, World, glm, open_world, table_count

AG1 = AgreementId("ag1")
NOTE, INVOICE = DocumentKind.DEBIT_NOTE, DocumentKind.INVOICE
ALL = {Side.PAYER: EVENT_TYPES, Side.PAYEE: EVENT_TYPES}


async def allocate(world: World, total: str = "10") -> AllocationId:
    return (await world.requestor.service.allocations.create(platform=PLATFORM, total=glm(total))).id


async def bill(
    world: World, amount: str, *, agreement: AgreementId = AG1, document_id: str | None = None
) -> DocumentId:
    """An invoice that has reached the requestor."""
    documents = world.provider.service.documents
    wanted = DocumentId(document_id) if document_id else None
    stored = await documents.issue_invoice(agreement, glm(amount), activity_ids=[ACTIVITY], document_id=wanted)
    await documents.send(INVOICE, stored.document.id)
    await arrived(world.requestor, INVOICE, stored.document.id)
    return stored.document.id


async def note(world: World, total: str, *, payable: bool = False, usage: tuple[float, ...] = (0.0, 0.0)) -> DocumentId:
    """A debit note that has reached the requestor."""
    documents = world.provider.service.documents
    due_at = 2_000_000_000.0 if payable else None
    stored = await documents.issue_debit_note(AG1, ACTIVITY, glm(total), usage=usage, due_at=due_at)
    await documents.send(NOTE, stored.document.id)
    await arrived(world.requestor, NOTE, stored.document.id)
    return stored.document.id


async def arrived(node: Node, kind: DocumentKind, document_id: DocumentId) -> None:
    after_us = 0
    while True:
        events = await node.service.events(kind, after_us=after_us, timeout_s=300.0, types=ALL)
        assert events, f"{kind} {document_id} never arrived"
        if any(e.document_id == document_id and e.type == "Received" for e in events):
            return
        after_us = events[-1].date_us


async def reaches(node: Node, kind: DocumentKind, document_id: DocumentId, state: DocumentState) -> None:
    with trio.fail_after(400):
        while (await node.service.document(kind, document_id)).state is not state:  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.1)


async def accept(world: World, kind: DocumentKind, document_id: DocumentId, amount: str, allocation: str) -> None:
    await world.requestor.service.documents.accept(
        kind, document_id, amount=glm(amount), allocation_id=AllocationId(allocation)
    )


async def test_an_accepted_invoice_is_paid_verified_and_settled_on_both_sides(autojump_clock: object) -> None:
    async with open_world() as world:
        allocation = await allocate(world)
        invoice = await bill(world, "2.5")
        await accept(world, INVOICE, invoice, "2.5", allocation)
        await reaches(world.requestor, INVOICE, invoice, DocumentState.SETTLED)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert world.tokens(world.provider) == glm("2.5")
        assert world.tokens(world.requestor) == glm("97.5")
        (paid,) = await world.requestor.service.payments()
        (got,) = await world.provider.service.payments()
        assert paid.notice == got.notice
        assert got.state == "confirmed"
        assert got.notice.document_ids == (invoice,)


async def test_each_side_sees_its_events_in_order_with_unique_dates(autojump_clock: object) -> None:
    async with open_world() as world:
        allocation = await allocate(world)
        invoice = await bill(world, "1")
        await accept(world, INVOICE, invoice, "1", allocation)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        mine = await world.requestor.service.events(INVOICE, types=ALL)
        theirs = await world.provider.service.events(INVOICE)
        assert [e.type for e in mine] == ["Received", "Accepted", "Settled"]
        assert [e.type for e in theirs] == ["Accepted", "Settled"]
        dates = [e.date_us for e in mine]
        assert dates == sorted(set(dates))
        assert await world.requestor.service.events(INVOICE, after_us=dates[-1], types=ALL) == []
        assert [e.type for e in await world.requestor.service.events(INVOICE)] == ["Received"], "a requestor's default"


async def test_a_long_poll_ends_at_once_on_news_and_filters_by_session(autojump_clock: object) -> None:
    async with open_world() as world:
        took: list[float] = []

        async def wait() -> None:
            start = trio.current_time()
            assert await world.requestor.service.events(INVOICE, timeout_s=60.0, session_id="session-1")
            took.append(trio.current_time() - start)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(5)
            await bill(world, "1")
        assert 5.0 <= took[0] < 5.5
        start = trio.current_time()
        assert await world.requestor.service.events(INVOICE, timeout_s=7.0, session_id="another") == []
        assert trio.current_time() - start == pytest.approx(7.0, abs=0.01)


async def test_payable_notes_and_the_invoice_pay_the_difference_once(autojump_clock: object) -> None:
    """Golem's yagna #2940, #2970: the last slice paid by a debit note and again by the invoice."""
    async with open_world() as world:
        allocation = await allocate(world)
        for amount in ("1", "1.75"):
            await accept(world, NOTE, await note(world, amount, payable=True), amount, allocation)
        invoice = await bill(world, "2")
        await accept(world, INVOICE, invoice, "2", allocation)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert world.tokens(world.provider) == glm("2")
        budget = await world.requestor.service.allocations.get(allocation)
        assert (budget.spent, budget.reserved, budget.remaining) == (glm("2"), 0, glm("8"))


async def test_an_invoice_accepted_before_the_last_debit_note_pays_no_slice_twice(autojump_clock: object) -> None:
    async with open_world() as world:
        allocation = await allocate(world)
        late = await note(world, "1.5", payable=True)
        invoice = await bill(world, "2")
        await accept(world, INVOICE, invoice, "2", allocation)
        await accept(world, NOTE, late, "1.5", allocation)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        await trio.sleep(100)
        assert world.tokens(world.provider) == glm("2")


async def test_accepting_twice_or_at_the_same_time_schedules_one_payment(autojump_clock: object) -> None:
    """Golem's yagna #3347."""
    async with open_world() as world:
        allocation = await allocate(world)
        invoice = await bill(world, "2")
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(accept, world, INVOICE, invoice, "2", allocation)
        await accept(world, INVOICE, invoice, "2.00", allocation)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert await table_count(world.requestor.storage, obligations) == 1
        assert world.tokens(world.provider) == glm("2")


async def test_notes_that_are_not_payable_reserve_budget_but_move_no_money(autojump_clock: object) -> None:
    async with open_world() as world:
        allocation = await allocate(world)
        await accept(world, NOTE, await note(world, "3"), "3", allocation)
        await trio.sleep(60)
        budget = await world.requestor.service.allocations.get(allocation)
        assert (budget.spent, budget.reserved, budget.remaining) == (0, glm("3"), glm("7"))
        assert world.tokens(world.provider) == 0


async def test_too_small_a_budget_is_refused_with_the_numbers_and_can_be_raised(autojump_clock: object) -> None:
    async with open_world() as world:
        allocation = await allocate(world, "1")
        invoice = await bill(world, "2.5")
        with pytest.raises(UsageError, match=r"has 1 of 1 left, 2\.5 is needed.*raise it by 1\.5"):
            await accept(world, INVOICE, invoice, "2.5", allocation)
        assert (await world.requestor.service.document(INVOICE, invoice)).state is DocumentState.RECEIVED
        await world.requestor.service.allocations.amend(allocation, total=glm("3"))
        await accept(world, INVOICE, invoice, "2.5", allocation)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)


async def test_an_allocation_beyond_the_free_balance_is_refused_with_the_missing_amount(autojump_clock: object) -> None:
    """Golem's yagna #1961: over-allocation."""
    async with open_world(balance="5") as world:
        await allocate(world, "4")
        with pytest.raises(UsageError, match=r"has 5 .* 4 of it promised .* 2 cannot be allocated.*1 more is needed"):
            await allocate(world, "2")
        world.chain.down = True  # a dead chain does not stop anybody from making a budget
        await allocate(world, "2")


async def test_a_released_or_expired_allocation_pays_nothing_more(autojump_clock: object) -> None:
    async with open_world() as world:
        service = world.requestor.service
        allocation, invoice = await allocate(world), await bill(world, "1")
        await service.allocations.release(allocation)
        with pytest.raises(GoneError, match="is released"):
            await accept(world, INVOICE, invoice, "1", allocation)
        with pytest.raises(GoneError):
            await service.allocations.release(allocation)
        short = await service.allocations.create(
            platform=PLATFORM, total=glm("1"), timeout_at=1_800_000_000.0 + trio.current_time() + 10
        )
        await trio.sleep(11)
        with pytest.raises(GoneError, match="is expired"):
            await accept(world, INVOICE, invoice, "1", short.id)
        with pytest.raises(NotFoundError):
            await service.allocations.get("no-such-id")


async def test_the_wrong_amount_is_refused(autojump_clock: object) -> None:
    async with open_world() as world:
        allocation, invoice = await allocate(world), await bill(world, "1")
        with pytest.raises(UsageError, match=r"is for 1, not 0\.9"):
            await accept(world, INVOICE, invoice, "0.9", allocation)


async def test_a_rejection_reaches_the_provider_with_its_reason(autojump_clock: object) -> None:
    async with open_world() as world:
        invoice = await bill(world, "1")
        await world.requestor.service.documents.reject(INVOICE, invoice, code="BAD_SERVICE", message="empty results")
        await reaches(world.provider, INVOICE, invoice, DocumentState.REJECTED)
        (event,) = await world.provider.service.events(INVOICE)
        assert event.type == "Rejected"
        assert event.detail["rejection"] == {
            "rejectionReason": "BAD_SERVICE",
            "totalAmountAccepted": "0",
            "message": "empty results",
        }
        second = await bill(world, "0.8")  # after a rejection another invoice may be sent
        assert second != invoice


async def test_an_invoice_of_zero_is_settled_by_its_acceptance(autojump_clock: object) -> None:
    async with open_world() as world:
        allocation, invoice = await allocate(world), await bill(world, "0")
        await accept(world, INVOICE, invoice, "0", allocation)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert await world.requestor.service.payments() == []


async def test_messages_wait_for_a_peer_that_is_away_and_repeat_without_harm(autojump_clock: object) -> None:
    async with open_world() as world:
        allocation = await allocate(world)
        world.requestor.rpc.cut = True
        stored = await world.provider.service.documents.issue_invoice(AG1, glm("1"))
        await world.provider.service.documents.send(INVOICE, stored.document.id)
        await trio.sleep(120)
        world.requestor.rpc.cut = False
        world.provider.rpc.lose_answers = 3
        await arrived(world.requestor, INVOICE, stored.document.id)
        world.requestor.rpc.lose_answers = 4
        await accept(world, INVOICE, stored.document.id, "1", allocation)
        await reaches(world.provider, INVOICE, stored.document.id, DocumentState.SETTLED)
        await trio.sleep(1_000)
        assert await table_count(world.provider.storage, outbox) == 0
        assert await table_count(world.requestor.storage, outbox) == 0
        assert world.tokens(world.provider) == glm("1")


async def test_totals_that_go_down_and_second_invoices_are_refused_before_they_are_sent(autojump_clock: object) -> None:
    async with open_world() as world:
        documents = world.provider.service.documents
        await note(world, "2")
        with pytest.raises(ConflictError, match=r"cumulative: 1 is below the previous 2"):
            await documents.issue_debit_note(AG1, ACTIVITY, glm("1"))
        invoice = await bill(world, "2", document_id="inv-1")
        again = await documents.issue_invoice(AG1, glm("2"), activity_ids=[ACTIVITY], document_id=invoice, due_at=None)
        assert again.document.id == invoice
        with pytest.raises(ConflictError, match="has invoice inv-1 already"):
            await documents.issue_invoice(AG1, glm("3"))


async def test_an_agreement_that_is_not_approved_cannot_be_billed(autojump_clock: object) -> None:
    async with open_world() as world:
        known = world.provider.agreements.known
        known[AG1] = replace(known[AG1], state=AgreementState.PENDING)
        with pytest.raises(UsageError, match="not approved"):
            await world.provider.service.documents.issue_invoice(AG1, glm("1"))


async def test_the_node_accepts_for_a_silent_agent_what_the_agreement_owes(autojump_clock: object) -> None:
    """Golem's yagna #3126, yapapi #189: the requestor's program is gone before the last invoice."""
    async with open_world() as world:
        await allocate(world)
        await trio.sleep(100)
        await note(world, "0.61", usage=(100.0, 5.0))
        invoice = await bill(world, "0.61")
        start = trio.current_time()
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert 25 < trio.current_time() - start < 40
        assert world.tokens(world.provider) == glm("0.61")


async def test_the_node_leaves_an_overpriced_or_uncovered_invoice_to_the_agent_with_a_reason(
    autojump_clock: object,
) -> None:
    async with open_world() as world:
        await trio.sleep(100)
        await note(world, "0.61", usage=(100.0, 5.0))
        invoice = await bill(world, "0.62")
        await trio.sleep(60)
        waiting = await world.requestor.service.document(INVOICE, invoice)
        assert waiting.state is DocumentState.RECEIVED
        assert "0.62 is more than the agreed price" in waiting.reason
        other = world.add_agreement("ag2")
        free = await bill(world, "0", agreement=other)
        await trio.sleep(60)
        waiting = await world.requestor.service.document(INVOICE, free)
        assert "no live allocation of this session has 0 left" in waiting.reason
        await allocate(world)  # now something covers it
        await reaches(world.provider, INVOICE, free, DocumentState.SETTLED)


async def test_the_node_never_answers_with_the_budget_of_another_session(autojump_clock: object) -> None:
    async with open_world() as world:
        service = world.requestor.service
        mine, other = await allocate(world), await allocate(world)
        first = await bill(world, "0")
        await trio.sleep(100)
        waiting = await service.document(INVOICE, first)
        assert "no live allocation of this session" in waiting.reason, "which of the two it was is not known"
        ag2 = world.add_agreement("ag2")
        world.requestor.agreements.known[ag2] = replace(world.requestor.agreements.known[ag2], session_id="session-2")
        await accept(world, INVOICE, await bill(world, "1", agreement=ag2), "1", other)
        await accept(world, INVOICE, await bill(world, "2", agreement=world.add_agreement("ag3")), "2", mine)
        await reaches(world.provider, INVOICE, first, DocumentState.SETTLED)
        assert (await service.document(INVOICE, first)).allocation_id == mine
        await service.allocations.release(mine)
        late = await bill(world, "0", agreement=world.add_agreement("ag4"))
        await trio.sleep(100)
        assert (await service.document(INVOICE, late)).state is DocumentState.RECEIVED
        ag5 = world.add_agreement("ag5")
        world.requestor.agreements.known[ag5] = replace(world.requestor.agreements.known[ag5], session_id="session-3")
        foreign = await bill(world, "0", agreement=ag5)
        await trio.sleep(100)
        assert (await service.document(INVOICE, foreign)).state is DocumentState.RECEIVED
        assert (await service.allocations.get(other)).spent == glm("1")


async def test_an_agreement_whose_session_names_its_allocation_is_paid_from_it(
    autojump_clock: object,
) -> None:
    async with open_world() as world:
        mine, other = await allocate(world), await allocate(world)
        agreement = world.add_agreement("ag2")
        known = world.requestor.agreements.known
        known[agreement] = replace(known[agreement], session_id=mine)
        invoice = await bill(world, "0", agreement=agreement)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert (await world.requestor.service.document(INVOICE, invoice)).allocation_id == mine
        assert (await world.requestor.service.allocations.get(other)).spent == 0


async def test_a_demand_names_the_allocation_that_pays_for_an_agent_that_is_gone(autojump_clock: object) -> None:
    """golem-js that was killed leaves its allocation; the next program's must not pay, nor keep ours from paying."""
    async with open_world() as world:
        left, mine = await allocate(world), await allocate(world)
        decoration = await world.requestor.service.allocations.decorate([mine])
        agreement = world.add_agreement("ag2")
        known = world.requestor.agreements.known
        demand = {**known[agreement].demand, **dict(decoration.properties)}
        known[agreement] = replace(known[agreement], demand=demand, session_id="killed")
        invoice = await bill(world, "0", agreement=agreement)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert (await world.requestor.service.document(INVOICE, invoice)).allocation_id == mine
        assert (await world.requestor.service.allocations.get(left)).spent == 0


async def test_without_the_policy_nothing_is_accepted_by_the_node(autojump_clock: object) -> None:
    async with open_world(settings=PaymentSettings(auto_accept_after_s=None)) as world:
        await allocate(world)
        invoice = await bill(world, "0")
        await trio.sleep(1_000)
        assert (await world.requestor.service.document(INVOICE, invoice)).state is DocumentState.RECEIVED


async def test_debts_to_one_payee_are_netted_into_one_transaction(autojump_clock: object) -> None:
    chain = FakeChain()
    async with open_world(chain=chain) as world:
        allocation = await allocate(world)
        chain.down = True
        invoices = []
        for number in range(6):
            invoices.append(await bill(world, "0.5", agreement=world.add_agreement(f"net-{number}")))
            await accept(world, INVOICE, invoices[-1], "0.5", allocation)
        await trio.sleep(10)
        (status,) = await world.requestor.service.status()
        assert "cannot be reached" in status.problem
        assert status.owed == glm("3")
        chain.down = False
        for invoice in invoices:
            await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert await table_count(world.requestor.storage, settlement_repo.slots) == 1
        assert world.tokens(world.provider) == glm("3")


async def test_an_idle_engine_asks_the_chain_nothing(autojump_clock: object) -> None:
    async with open_world() as world:
        allocation = await allocate(world)
        invoice = await bill(world, "1")
        await accept(world, INVOICE, invoice, "1", allocation)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        await trio.sleep(10)
        world.chain.calls.clear()
        await trio.sleep(80_000)
        assert world.chain.calls == []


@pytest.mark.parametrize("what", ["tokens", "gas"])
async def test_out_of_funds_is_a_visible_state_that_ends_with_a_top_up(what: str, autojump_clock: object) -> None:
    """Golem's yagna #2658, #3236."""
    async with open_world() as world:
        allocation = await allocate(world)
        me = world.requestor.key.address
        if what == "tokens":
            world.chain.fund(me, NETWORK.token, -glm("99"))
        else:
            world.chain.gas[me] = 0
        invoice = await bill(world, "2")
        await accept(world, INVOICE, invoice, "2", allocation)
        await trio.sleep(100)
        (status,) = await world.requestor.service.status()
        assert "lacks 1 tglm" in status.problem if what == "tokens" else "of the chain's own coin" in status.problem
        world.chain.fund(me, NETWORK.token, glm("99"))
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        (status,) = await world.requestor.service.status()
        assert status.problem == ""


async def test_a_reorganisation_and_lost_answers_pay_once(autojump_clock: object) -> None:
    chain = FakeChain(automine=False)
    async with open_world(chain=chain, network=replace(NETWORK, confirmations=3)) as world:
        allocation = await allocate(world)
        invoice = await bill(world, "2")
        chain.lose_answers = True
        await accept(world, INVOICE, invoice, "2", allocation)
        await trio.sleep(10)
        chain.lose_answers = False
        chain.mine(2)
        await trio.sleep(70)
        assert world.tokens(world.provider) == glm("2")
        chain.reorg(2)
        assert world.tokens(world.provider) == 0
        await trio.sleep(5)
        chain.mine(3)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert world.tokens(world.provider) == glm("2")


async def test_a_foreign_transaction_on_our_nonce_is_noticed_and_the_debt_paid_by_the_next(
    autojump_clock: object,
) -> None:
    chain = FakeChain(automine=False)
    async with open_world(chain=chain) as world:
        allocation = await allocate(world)
        invoice = await bill(world, "2")
        driver, key = world.requestor.driver, world.requestor.key
        call = Call(NETWORK.token, transfer_call(key.address, glm("1")), TRANSFER_GAS)
        foreign = driver.sign(key, 0, call, Fees(10 * GWEI, 3 * GWEI))
        await accept(world, INVOICE, invoice, "2", allocation)
        await trio.sleep(5)
        await driver.broadcast(foreign.raw)
        chain.mine(2)
        await trio.sleep(100)
        chain.mine(1)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert world.tokens(world.provider) == glm("2")
        states = [s.state for s in await world.requestor.storage.run(settlement_repo.find_slots)]
        assert states == ["foreign", "final"]


async def test_the_node_does_not_accept_bills_for_activities_that_it_never_created(autojump_clock: object) -> None:
    async def knows(_agreement: AgreementId, activity: ActivityId) -> bool:
        return activity != ACTIVITY

    async with open_world(knows_activity=knows) as world:
        await allocate(world)
        await trio.sleep(100)
        invented = await note(world, "0.5", usage=(0.0, 0.0))
        await trio.sleep(60)
        waiting = await world.requestor.service.document(NOTE, invented)
        assert waiting.state is DocumentState.RECEIVED
        assert waiting.reason == "this node created no activity a1 under the agreement"


async def test_a_peer_that_comes_back_gets_its_messages_at_once(autojump_clock: object) -> None:
    async with open_world() as world:
        world.requestor.rpc.cut = True
        stored = await world.provider.service.documents.issue_invoice(AG1, glm("1"))
        await world.provider.service.documents.send(INVOICE, stored.document.id)
        await trio.sleep(1_000)
        world.requestor.rpc.cut = False
        start = trio.current_time()
        world.provider.service.on_peer(world.requestor.key.peer_id, True)
        await arrived(world.requestor, INVOICE, stored.document.id)
        assert trio.current_time() - start < 1


@pytest.mark.parametrize("usage", [float("nan"), float("inf"), 1e300])
async def test_usage_that_is_no_number_is_refused(usage: float, autojump_clock: object) -> None:
    async with open_world() as world:
        with pytest.raises(UsageError, match="not a JSON array of numbers"):
            await world.provider.service.documents.issue_debit_note(AG1, ACTIVITY, glm("1"), usage=[usage])
