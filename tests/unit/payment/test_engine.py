"""The settlement engine on a chain in memory, in virtual time: batches, bids, lost nonces, orders, caps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
import trio

from golemp2p import limits
from golemp2p.core.ids import Address, AllocationId, DocumentId
from golemp2p.core.money import Amount
from golemp2p.core.payment import Cycle, DocumentKind, DocumentState, Fees, SlotState
from golemp2p.errors import ConflictError, NotFoundError
from golemp2p.identity.keys import NodeKey
from golemp2p.payment import PaymentNetwork, PaymentSettings
from golemp2p.payment.drivers import transactions as calls
from golemp2p.payment.drivers.base import Call
from golemp2p.payment.drivers.fake import FakeChain
from golemp2p.payment.networks import GWEI
from golemp2p.payment.purse import Caps, SpendingCapError
from golemp2p.payment.settlement import PlatformStatus
from golemp2p.storage import orders as order_repo
from golemp2p.storage import payment_settlement as repo
from golemp2p.storage.engine import StorageError
from golemp2p.storage.orders import Order, OrderState
from golemp2p.storage.payment_settlement import Mode, Slot
from tests.unit.payment.test_parking import billed_by
from tests.unit.payment.test_service import accept, allocate, arrived, bill, reaches
from tests.unit.payment.world import NETWORK, PLATFORM, TOKEN, World, clock, glm, open_world

INVOICE = DocumentKind.INVOICE
BATCH, MULTI = Address("0x" + "ba" * 20), Address("0x" + "3d" * 20)
SLOW = replace(NETWORK, poll_s=5.0)  # fewer looks in hours of virtual time
BATCHED = replace(SLOW, batch=BATCH, bump_after_s=30.0, rebroadcast_s=30.0)


@asynccontextmanager
async def batch_world(
    *, network: PaymentNetwork = BATCHED, automine: bool = True, settings: PaymentSettings | None = None
) -> AsyncIterator[World]:
    chain = FakeChain(automine=automine, batch=network.batch, multi=network.multi, token=TOKEN)
    async with open_world(chain=chain, network=network, balance="1000", settings=settings) as world:
        yield world


async def slots(world: World) -> list[Slot]:
    return await world.requestor.storage.run(repo.find_slots)


async def status(world: World) -> PlatformStatus:
    (only,) = await world.requestor.service.status()
    return only


async def owe(
    world: World, *amounts: str, allocation: AllocationId, due_in_s: float = 86_400
) -> list[tuple[NodeKey, DocumentId]]:
    """Invoices of as many providers, accepted at the same time."""
    owed = []
    for amount in amounts:
        key = NodeKey.generate()
        owed.append((key, await billed_by(world, key, amount, due_at_ms=round((clock() + 86_400) * 1000))))
    async with trio.open_nursery() as nursery:
        for (_, invoice), amount in zip(owed, amounts, strict=True):
            nursery.start_soon(accept, world, INVOICE, invoice, amount, allocation)
    return owed


async def all_settled(world: World, owed: list[tuple[NodeKey, DocumentId]]) -> None:
    for _, invoice in owed:
        await reaches(world.requestor, INVOICE, invoice, DocumentState.SETTLED)


async def test_many_payees_are_paid_by_one_transaction_after_one_approval(autojump_clock: object) -> None:
    async with batch_world() as world:
        allocation = await allocate(world, "100")
        owed = await owe(world, "1", "2", "3", "4", allocation=allocation)
        await all_settled(world, owed)
        assert [world.chain.tokens(TOKEN, key.address) for key, _ in owed] == [glm(a) for a in ("1", "2", "3", "4")]
        more = await owe(world, "5", "6", allocation=allocation)
        await all_settled(world, more)
        found = await slots(world)
        assert [s.mode for s in found].count(Mode.ORDER) == 1, "one approval"
        assert sum(s.mode is Mode.BATCH for s in found) >= 1
        assert len(found) < 6
        assert sum(s.amount for s in found) == glm("21")
        assert world.chain.tokens(TOKEN, BATCH) == 0, "the contract keeps nothing"


@pytest.mark.parametrize("mode", [Mode.BATCH, Mode.MULTI])
async def test_a_payee_that_the_token_refuses_does_not_hold_up_the_others_of_its_batch(
    mode: Mode, autojump_clock: object
) -> None:
    network = BATCHED if mode is Mode.BATCH else replace(NETWORK, multi=MULTI)
    network = replace(network, cycle=Cycle(interval_s=100))
    for simulates in (True, False):
        async with batch_world(network=network) as world:
            world.chain.simulates = simulates
            allocation = await allocate(world, "100")
            owed = await owe(world, "1", "2", "3", allocation=allocation)
            world.chain.refused.add(owed[1][0].address)
            await all_settled(world, [owed[0], owed[2]])
            await trio.sleep(3_600)
            assert owed[1][0].address in (await status(world)).problem
            world.chain.refused.clear()
            await world.requestor.service.allocations.amend(allocation, total=glm("101"))
            await all_settled(world, owed)
            assert [world.chain.tokens(TOKEN, key.address) for key, _ in owed] == [glm(a) for a in ("1", "2", "3")]
            paid = {s.mode for s in await slots(world) if s.state is SlotState.FINAL}
            assert Mode.TRANSFER in paid


async def test_a_gas_spike_is_answered_with_higher_bids_for_the_same_nonce_and_pays_once(
    autojump_clock: object,
) -> None:
    async with batch_world(automine=False) as world:
        allocation, chain = await allocate(world), world.chain
        invoice = await bill(world, "2")
        await accept(world, INVOICE, invoice, "2", allocation)
        await trio.sleep(1)
        chain.base_fee *= 10
        for _ in range(20):
            chain.mine()
            await trio.sleep(31)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        (slot,) = await slots(world)
        versions = await world.requestor.storage.run(lambda c: repo.get_versions(c, slot.id))
        assert len(versions) > 1
        assert all(new.max_fee * 8 >= old.max_fee * 9 for new, old in pairwise(versions))
        assert world.tokens(world.provider) == glm("2")


async def test_fees_above_the_cap_are_a_state_that_ends_by_itself(autojump_clock: object) -> None:
    network = replace(BATCHED, max_fee_wei=20 * GWEI)
    async with batch_world(network=network, automine=False) as world:
        allocation, chain = await allocate(world), world.chain
        first = await bill(world, "2")
        await accept(world, INVOICE, first, "2", allocation)
        await trio.sleep(1)
        chain.base_fee = 100 * GWEI
        second = await billed_by(world, NodeKey.generate(), "1")
        await accept(world, INVOICE, second, "1", allocation)
        for _ in range(30):
            chain.mine()
            await trio.sleep(31)
        assert "the cap is 20" in (await status(world)).problem
        (waiting,) = await slots(world)
        assert waiting.state is SlotState.SENT, "no second nonce is taken for what cannot be mined"
        chain.base_fee = GWEI
        for _ in range(10):
            chain.mine()
            await trio.sleep(61)
        await reaches(world.provider, INVOICE, first, DocumentState.SETTLED)
        await reaches(world.requestor, INVOICE, second, DocumentState.SETTLED)
        assert (await status(world)).problem == ""
        assert world.tokens(world.provider) == glm("2")


async def test_a_batch_whose_nonce_somebody_else_used_is_sent_with_another_and_paid_once(
    autojump_clock: object,
) -> None:
    network = replace(BATCHED, confirmations=3, cycle=Cycle(interval_s=10))
    async with batch_world(network=network, automine=False) as world:
        allocation, chain = await allocate(world, "100"), world.chain
        driver, key = world.requestor.driver, world.requestor.key
        owed = await owe(world, "1", "2", allocation=allocation)
        await trio.sleep(25)
        chain.mine(5)  # the approval
        await trio.sleep(15)
        (batch,) = [s for s in await slots(world) if s.mode is Mode.BATCH]
        call = Call(TOKEN, calls.transfer_call(key.address, 1), calls.TRANSFER_GAS)
        await driver.broadcast(driver.sign(key, batch.nonce, call, Fees(50 * GWEI, 9 * GWEI)).raw)
        chain.mine(1)
        await trio.sleep(100)
        assert "a transaction that is not ours" in (await status(world)).problem
        chain.mine(3)
        await trio.sleep(100)
        chain.mine(3)
        await all_settled(world, owed)
        states = [(s.state, s.batch_id) for s in await slots(world) if s.mode is Mode.BATCH]
        assert states == [(SlotState.FOREIGN, batch.batch_id), (SlotState.FINAL, batch.batch_id)]
        assert [chain.tokens(TOKEN, k.address) for k, _ in owed] == [glm("1"), glm("2")]


async def test_a_batch_that_the_chain_has_done_is_settled_by_the_transaction_that_did_it(
    autojump_clock: object,
) -> None:
    """As after a reorganisation that mined what we had given up: the id on the chain admits it once."""
    network = replace(BATCHED, cycle=Cycle(interval_s=10))
    async with batch_world(network=network, automine=False) as world:
        allocation, chain = await allocate(world, "100"), world.chain
        driver, key = world.requestor.driver, world.requestor.key
        owed = await owe(world, "1", "2", allocation=allocation)
        await trio.sleep(25)
        chain.mine(1)
        await trio.sleep(15)
        (batch,) = [s for s in await slots(world) if s.mode is Mode.BATCH]
        assert batch.data is not None
        twin = driver.sign(key, batch.nonce, Call(BATCH, batch.data, 10**6), Fees(50 * GWEI, 9 * GWEI))
        await driver.broadcast(twin.raw)
        chain.mine(1)
        await trio.sleep(100)
        await all_settled(world, owed)
        (payment, *_) = await world.requestor.service.payments()
        assert payment.notice.transaction == twin.hash
        assert [chain.tokens(TOKEN, k.address) for k, _ in owed] == [glm("1"), glm("2")]


async def test_debts_wait_for_company_without_a_question_to_the_chain_and_go_out_in_time(
    autojump_clock: object,
) -> None:
    network = replace(BATCHED, cycle=Cycle(interval_s=3_600, min_payout=glm("0.5")))
    async with batch_world(network=network) as world:
        allocation = await allocate(world, "100")
        owed = await owe(world, "1", "2", "0.1", allocation=allocation)
        await trio.sleep(10)
        world.chain.calls.clear()
        await trio.sleep(3_000)
        assert world.chain.calls == [], "nothing is due, so nothing is asked"
        seen = await status(world)
        assert (seen.waiting, seen.rolled_over) == (glm("3.1"), glm("0.1"))
        assert seen.next_at is not None
        assert 0 < seen.next_at - clock() < 3_600
        await trio.sleep(700)
        await all_settled(world, owed[:2])
        await trio.sleep(7_200)
        assert (await status(world)).owed == glm("0.1"), "dust stays owed"
        world.requestor.service.settlement.settle_now(PLATFORM)
        await all_settled(world, owed)
        assert (await status(world)).owed == 0


async def test_a_due_date_does_not_wait_for_company(autojump_clock: object) -> None:
    network = replace(BATCHED, cycle=Cycle(interval_s=86_400, due_margin_s=60))
    async with batch_world(network=network) as world:
        allocation = await allocate(world, "100")
        due_at = clock() + 600
        invoice = (
            await world.provider.service.documents.issue_invoice(
                next(iter(world.provider.agreements.known)), glm("2"), activity_ids=[], due_at=due_at
            )
        ).document.id
        await world.provider.service.documents.send(INVOICE, invoice)
        await arrived(world.requestor, INVOICE, invoice)
        await accept(world, INVOICE, invoice, "2", allocation)
        await trio.sleep(500)
        assert await slots(world) == []
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert due_at - 61 < clock() < due_at


async def test_what_a_preview_shows_is_what_is_sent(autojump_clock: object) -> None:
    network = replace(BATCHED, cycle=Cycle(interval_s=3_600))
    async with batch_world(network=network) as world:
        allocation = await allocate(world, "100")
        await owe(world, "1", allocation=allocation)
        await trio.sleep(5)
        (planned,) = await world.requestor.service.settlement.preview(PLATFORM)
        assert await slots(world) == [], "nothing was sent or stored"
        world.requestor.service.settlement.settle_now(PLATFORM)
        await trio.sleep(15)
        (slot,) = await slots(world)
        assert (slot.nonce, slot.target, slot.data, slot.gas) == (
            planned.nonce,
            planned.call.to,
            planned.call.data,
            planned.call.gas,
        )


def an_order(world: World, key: str = "k1", amount: str = "3", to: Address | None = None) -> Order:
    data = calls.transfer_call(to or world.provider.key.address, glm(amount))
    return Order(key, PLATFORM, TOKEN, data, glm(amount), "send tokens")


async def place(world: World, order: Order) -> None:
    await world.requestor.storage.run(lambda c: order_repo.place_order(c, order, now=clock()))
    world.requestor.service.settlement._context.debts.tell()


async def test_an_order_is_sent_once_however_often_it_is_placed(autojump_clock: object) -> None:
    async with batch_world() as world:
        engine = world.requestor.service.settlement
        with pytest.raises(NotFoundError):
            await engine.wait_order("k1")
        for _ in range(3):
            await place(world, an_order(world))
        done = await engine.wait_order("k1")
        assert done.state is OrderState.FINAL
        assert done.transaction
        await place(world, an_order(world))
        await trio.sleep(100)
        assert world.tokens(world.provider) == glm("3")


async def test_an_order_that_its_contract_refuses_is_tried_for_a_while_and_then_failed(autojump_clock: object) -> None:
    async with batch_world() as world:
        world.chain.refused.add(world.provider.key.address)
        began = clock()
        await place(world, an_order(world))
        done = await world.requestor.service.settlement.wait_order("k1")
        assert (done.state, await slots(world)) == (OrderState.FAILED, [])
        assert "refused recipient" in done.problem
        assert clock() - began >= limits.ORDER_PATIENCE_S
        world.chain.simulates = False
        await place(world, an_order(world, "k2"))
        done = await world.requestor.service.settlement.wait_order("k2")
        assert done.state is OrderState.FAILED
        assert "reverted" in done.problem


async def test_an_order_that_waits_can_be_withdrawn_and_one_that_was_sent_cannot(autojump_clock: object) -> None:
    async with batch_world() as world:
        wallet = world.requestor.service.wallet
        await place(world, an_order(world, "big", amount="2000"))
        await trio.sleep(100)
        assert "lacks" in (await status(world)).problem
        assert (await wallet.cancel("big")).problem == "withdrawn by the owner"
        world.chain.fund(world.requestor.key.address, TOKEN, glm("5000"))
        await place(world, an_order(world))
        await world.requestor.service.settlement.wait_order("k1")
        with pytest.raises(ConflictError, match="cannot be withdrawn"):
            await wallet.cancel("k1")
        await trio.sleep(200)
        assert world.tokens(world.provider) == glm("3")
        assert (await status(world)).problem == ""


async def test_all_that_is_in_the_way_is_shown(autojump_clock: object) -> None:
    async with batch_world() as world:
        allocation = await allocate(world, "100")
        owed = await owe(world, "1", allocation=allocation)
        world.chain.refused.add(owed[0][0].address)
        await place(world, an_order(world, "big", amount="2000"))
        await trio.sleep(100)
        problem = (await status(world)).problem
        assert "refused recipient" in problem
        assert "lacks tglm to send tokens" in problem


async def test_caps_hold_where_money_is_signed_and_open_again_by_themselves(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    monkeypatch.setattr(limits, "SETTLEMENT_RETRY_MAX_S", 3_600.0)  # fewer looks in a day of virtual time
    settings = PaymentSettings(caps=Caps(per_day=glm("10"), per_agreement=glm("4")))
    async with batch_world(network=SLOW, settings=settings) as world:
        allocation = await allocate(world, "100")
        (dear,) = await owe(world, "5", allocation=allocation)
        await trio.sleep(100)
        assert "spent under one agreement" in (await status(world)).problem
        owed = await owe(world, "4", "4", "4", allocation=allocation)
        await trio.sleep(3_600)
        assert sum(world.chain.tokens(TOKEN, key.address) for key, _ in owed) == glm("8")
        seen = await status(world)
        assert (seen.spent_today, seen.cap_per_day) == (glm("8"), glm("10"))
        await place(world, an_order(world, amount="3"))
        await trio.sleep(100)
        assert world.tokens(world.provider) == 0, "an order is money too"
        for _ in range(2):
            await trio.sleep(45_000)  # a day passes, and the pause after the last look
        await all_settled(world, owed)
        assert world.tokens(world.provider) == glm("3")
        assert world.chain.tokens(TOKEN, dear[0].address) == 0
        assert Amount(sum(s.amount for s in await slots(world))) == glm("15")


async def test_what_a_cap_would_hold_back_is_refused_when_the_owner_asks_for_it(autojump_clock: object) -> None:
    async with batch_world(settings=PaymentSettings(caps=Caps(per_day=glm("10")))) as world:
        wallet = world.requestor.service.wallet
        to = str(world.provider.key.address)
        first = wallet.send_order(PLATFORM, to, glm("6"), "key-number-1")
        assert (await wallet.preview(first)).amount == glm("6")
        await wallet.place(first)
        await wallet.order(first.key, timeout_s=60)
        for amount, hint in (("5", "there is more room at "), ("11", "raise payment.caps.per_day")):
            order = wallet.send_order(PLATFORM, to, glm(amount), f"key-number-{amount}")
            for ask in (wallet.preview, wallet.place):
                with pytest.raises(SpendingCapError, match=r"\(4 of 10 is left\)") as caught:
                    await ask(order)
                assert caught.value.hint.startswith(hint)
        assert len(await world.requestor.storage.run(order_repo.find_orders)) == 1, "nothing waits for a better day"


async def test_no_more_nonces_are_open_than_pools_take(autojump_clock: object) -> None:
    async with batch_world(network=NETWORK, automine=False) as world:
        allocation = await allocate(world, "100")
        owed = await owe(world, *["1"] * 9, allocation=allocation)
        await trio.sleep(5)
        assert len(await slots(world)) == limits.MAX_SLOTS_IN_FLIGHT
        for _ in range(4):
            world.chain.mine()
            await trio.sleep(15)
        await all_settled(world, owed)
        assert [s.nonce for s in await slots(world)] == list(range(9))


async def test_a_disk_that_fails_for_a_while_ends_no_node(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async with batch_world() as world:
        allocation = await allocate(world)
        invoice = await bill(world, "2")
        storage, full = world.requestor.storage, True
        really = storage.run

        async def run(job: Callable[[sa.Connection], Any]) -> Any:
            if full:
                raise StorageError("the disk is full (ordered by the test)")
            return await really(job)

        await accept(world, INVOICE, invoice, "2", allocation)
        monkeypatch.setattr(storage, "run", run)
        for news in (world.requestor.service._context.debts, world.requestor.service._context.outbox):
            news.tell()
        await trio.sleep(60)
        full = False
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert world.tokens(world.provider) == glm("2")
