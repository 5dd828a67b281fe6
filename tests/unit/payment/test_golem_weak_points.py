"""Each way in which Golem's payments were seen to fail, by name: here it cannot happen.

The reports are of golemfactory's trackers, as settlement.md (section 3, "weak points") lists them. The services are the
real ones, the chain is in memory, the time virtual; what needs a real chain is in tests/integration/payment.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import trio
from pydantic import ValidationError

from golemp2p.config import Settings
from golemp2p.core.ids import Address, AgreementId, DocumentId
from golemp2p.core.payment import Cycle, DocumentState, Fees, PaymentNotice, SlotState
from golemp2p.errors import ConflictError
from golemp2p.identity.keys import NodeKey
from golemp2p.payment import PaymentSettings
from golemp2p.payment.drivers.base import Call
from golemp2p.payment.drivers.fake import FakeChain, FakeDriver
from golemp2p.payment.drivers.transactions import TRANSFER_GAS, transfer_call
from golemp2p.payment.messages import notice_message
from golemp2p.payment.networks import GWEI
from golemp2p.payment.service import PaymentService
from golemp2p.storage import open_storage
from golemp2p.storage import payment_settlement as repo
from golemp2p.storage.payment import outbox
from golemp2p.storage.payment_settlement import obligations
from golemp2p.wire.p2p import payment as wire
from tests.unit.payment.test_service import (
    AG1,
    INVOICE,
    NOTE,
    accept,
    allocate,
    bill,
    note,
    reaches,
)
from tests.unit.payment.world import (
    ACTIVITY,
    DOMAIN,
    NETWORK,
    PLATFORM,
    TOKEN,
    FakeAgreements,
    FakeRpc,
    World,
    clock,
    glm,
    make_service,
    open_world,
    table_count,
)

SLOW = replace(NETWORK, poll_s=5.0, bump_after_s=30.0, rebroadcast_s=30.0)


async def problem(world: World) -> str:
    return (await world.requestor.service.status())[0].problem


# --- the ledger -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["invoice first", "note first", "at once"])
async def test_the_last_debit_note_and_the_invoice_never_pay_one_slice_twice(
    order: str, autojump_clock: object
) -> None:
    """yagna #2940, #2970; golem-js #735: the invoice was accepted before the last note, and the slice paid twice."""
    async with open_world() as world:
        allocation = await allocate(world)
        await accept(world, NOTE, await note(world, "1", payable=True), "1", allocation)
        last, invoice = await note(world, "1.5", payable=True), await bill(world, "1.5")
        pairs = [(INVOICE, invoice), (NOTE, last)]
        if order == "at once":
            async with trio.open_nursery() as nursery:
                for kind, document in pairs:
                    nursery.start_soon(accept, world, kind, document, "1.5", allocation)
        else:
            for kind, document in pairs if order == "invoice first" else reversed(pairs):
                await accept(world, kind, document, "1.5", allocation)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        await trio.sleep(3_600)
        assert world.tokens(world.provider) == glm("1.5")


async def test_a_debit_note_accepted_again_and_again_is_scheduled_once(autojump_clock: object) -> None:
    """yagna #3347: a duplicate acceptance scheduled a second payment."""
    async with open_world() as world:
        allocation, first = await allocate(world), await note(world, "1", payable=True)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(accept, world, NOTE, first, "1", allocation)
        await reaches(world.provider, NOTE, first, DocumentState.SETTLED)
        await accept(world, NOTE, first, "1", allocation)
        await trio.sleep(3_600)
        assert await table_count(world.requestor.storage, obligations) == 1
        assert world.tokens(world.provider) == glm("1")


async def test_a_total_that_went_down_is_refused_before_it_is_sent_and_blocks_nothing(autojump_clock: object) -> None:
    """yagna #3111: "requested amount cannot be lowered" went round and round between the nodes."""
    async with open_world() as world:
        documents = world.provider.service.documents
        await note(world, "2")
        with pytest.raises(ConflictError, match="cumulative"):
            await documents.issue_debit_note(AG1, ACTIVITY, glm("1"), usage=(0.0, 0.0))
        await trio.sleep(600)
        assert await table_count(world.provider.storage, outbox) == 0
        await note(world, "2.5")


async def test_a_provider_whose_requestor_never_answers_is_paid_what_was_plainly_agreed(autojump_clock: object) -> None:
    """yagna #3126, yapapi #937: unpaid because nobody ever accepted. (In mode channel it stops working: channels/.)"""
    async with open_world() as world:
        await allocate(world)
        documents = world.provider.service.documents
        last = await documents.issue_debit_note(AG1, ACTIVITY, glm("0.51"), usage=(10.0, 0.0))
        await documents.send(NOTE, last.document.id)
        invoice = await bill(world, "0.51")
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert world.tokens(world.provider) == glm("0.51")


# --- the engine -----------------------------------------------------------------------------------------------------


async def test_one_invoice_is_one_transfer_however_often_it_is_broadcast(autojump_clock: object) -> None:
    """yapapi #659: one invoice, two transfers on the chain."""
    async with open_world(chain=FakeChain(automine=False), network=SLOW) as world:
        allocation, invoice = await allocate(world), await bill(world, "2")
        world.chain.lose_answers = True  # each broadcast arrives, each seems to fail
        await accept(world, INVOICE, invoice, "2", allocation)
        await trio.sleep(600)
        world.chain.lose_answers = False
        await trio.sleep(100)
        world.chain.mine()
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        for _ in range(5):
            world.chain.mine()
            await trio.sleep(600)
        assert sum(len(block.mined) for block in world.chain.blocks) == 1
        assert world.tokens(world.provider) == glm("2")


@pytest.mark.parametrize("step", ["planned", "signed", "broadcast", "sent", "mined", "final"])
async def test_a_crash_between_any_two_steps_neither_forgets_nor_repeats_a_payment(
    step: str, autojump_clock: object
) -> None:
    """yagna's batch and driver keep two databases and make a new id at each try: a crash between them pays twice."""
    chain, agreements = FakeChain(), FakeAgreements({})
    async with open_world(chain=chain) as world, open_storage(None) as storage:
        key = NodeKey.generate()
        rpc = FakeRpc(key.peer_id, world.provider.rpc.wires)
        world.provider.rpc.wires[key.peer_id] = rpc
        chain.fund(key.address, TOKEN, glm("10"))
        payer = replace(world.requestor, key=key, rpc=rpc, agreements=agreements, storage=storage)
        other = World(chain, payer, world.provider)
        other.add_agreement("ag1")
        killed = trio.Event()

        async def die(reached: str) -> None:
            if reached == step and not killed.is_set():
                killed.set()
                await trio.sleep_forever()  # as a process that is gone: nothing after this is done

        def service(checkpoint: object = None) -> PaymentService:
            return make_service(key, rpc, agreements, storage, FakeDriver(chain, NETWORK), checkpoint=checkpoint)  # type: ignore[arg-type]

        payer.service = service(die)
        async with trio.open_nursery() as life:
            await life.start(payer.service.run)
            allocation, invoice = await allocate(other), await bill(other, "2")
            await accept(other, INVOICE, invoice, "2", allocation)
            await killed.wait()
            life.cancel_scope.cancel()
        async with trio.open_nursery() as life:
            payer.service = service()
            await life.start(payer.service.run)
            await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
            await trio.sleep(3_600)
            assert chain.tokens(TOKEN, world.provider.key.address) == glm("2")
            assert chain.tokens(TOKEN, key.address) == glm("8")
            life.cancel_scope.cancel()


@pytest.mark.parametrize("what", ["tokens", "gas"])
async def test_what_is_missing_is_said_and_a_top_up_is_enough(what: str, autojump_clock: object) -> None:
    """yagna #2658, #3236: stuck after the funds ran out, and not resumed when there were some again."""
    async with open_world() as world:
        allocation, me = await allocate(world), world.requestor.key.address
        if what == "tokens":
            world.chain.fund(me, TOKEN, -glm("99"))
        else:
            world.chain.gas[me] = 0
        invoice = await bill(world, "2")
        await accept(world, INVOICE, invoice, "2", allocation)
        await trio.sleep(7_200)
        assert "lacks" in await problem(world)
        world.chain.fund(me, TOKEN, glm("99"))
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert await problem(world) == ""


async def test_a_gas_spike_stalls_nothing_and_the_next_payment_has_the_next_nonce(autojump_clock: object) -> None:
    """yagna #2270, #1886, #3062, #3028: stalled when gas became dear, and the nonce was wrong afterwards."""
    async with open_world(chain=FakeChain(automine=False), network=SLOW) as world:
        allocation, chain = await allocate(world), world.chain
        first = await bill(world, "2")
        await accept(world, INVOICE, first, "2", allocation)
        await trio.sleep(1)
        chain.base_fee *= 10
        for _ in range(20):
            chain.mine()
            await trio.sleep(31)
        await reaches(world.provider, INVOICE, first, DocumentState.SETTLED)
        second = await bill(world, "1", agreement=world.add_agreement("ag2"))
        await accept(world, INVOICE, second, "1", allocation)
        for _ in range(5):
            await trio.sleep(31)
            chain.mine()
        await reaches(world.provider, INVOICE, second, DocumentState.SETTLED)
        slots = await world.requestor.storage.run(repo.find_slots)
        assert [(slot.nonce, slot.state) for slot in slots] == [(0, SlotState.FINAL), (1, SlotState.FINAL)]
        assert world.tokens(world.provider) == glm("3")


async def test_the_oldest_of_many_versions_may_be_the_one_that_is_mined(autojump_clock: object) -> None:
    """erc20_payment_lib: the walk over replacements began anew at the newest, so three of them made a loop."""
    async with open_world(chain=FakeChain(automine=False), network=SLOW) as world:
        allocation, chain = await allocate(world), world.chain
        invoice = await bill(world, "2")
        await accept(world, INVOICE, invoice, "2", allocation)
        await trio.sleep(1)
        (oldest,) = chain.pooled
        while True:
            chain.base_fee = chain.base_fee * 5 // 4 + 1
            chain.base_fee = max(chain.base_fee, chain.pooled[0].max_fee + 1)
            chain.mine()
            await trio.sleep(40)
            (slot,) = await world.requestor.storage.run(repo.find_slots)
            versions = await world.requestor.storage.run(partial(repo.get_versions, slot_id=slot.id))
            if len(versions) >= 4:
                break
        assert all(new.max_fee * 8 >= old.max_fee * 9 for new, old in pairwise(versions))
        chain.base_fee = 1
        chain._pool[oldest.sender, oldest.nonce] = oldest  # a miner that never heard of the others
        chain.mine()
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        (payment,) = await world.provider.service.payments()
        assert payment.notice.transaction == oldest.hash
        assert world.tokens(world.provider) == glm("2")


async def test_a_nonce_that_somebody_else_used_needs_no_operator(autojump_clock: object) -> None:
    """yagna: "receipt not found despite proper nonce", and nothing went on until somebody removed the row."""
    async with open_world(chain=FakeChain(automine=False), network=replace(SLOW, confirmations=3)) as world:
        allocation, chain, key = await allocate(world), world.chain, world.requestor.key
        invoice = await bill(world, "2")
        await accept(world, INVOICE, invoice, "2", allocation)
        await trio.sleep(1)
        (slot,) = await world.requestor.storage.run(repo.find_slots)
        call = Call(TOKEN, transfer_call(key.address, 1), TRANSFER_GAS)
        foreign = world.requestor.driver.sign(key, slot.nonce, call, Fees(50 * GWEI, 9 * GWEI))
        await world.requestor.driver.broadcast(foreign.raw)
        for _ in range(10):
            chain.mine(2)
            await trio.sleep(61)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        states = [s.state for s in await world.requestor.storage.run(repo.find_slots)]
        assert states == [SlotState.FOREIGN, SlotState.FINAL]
        assert world.tokens(world.provider) == glm("2")


async def test_a_dead_testnet_holds_up_neither_the_status_nor_another_network(autojump_clock: object) -> None:
    """yagna #3112, #3263, #3066: the status hung because an unrelated chain did not answer."""
    async with open_world() as world, open_storage(None) as storage, trio.open_nursery() as nursery:
        payer, dead = world.requestor, FakeChain()
        dead.down = True
        testnet = replace(NETWORK, name="testnet", chain_id=5)
        payer.service = PaymentService(
            storage=storage,
            rpc=payer.rpc,
            agreements=payer.agreements,
            signer=payer.key,
            domain=DOMAIN,
            drivers={testnet.platform: FakeDriver(dead, testnet), PLATFORM: payer.driver},
            clock=clock,
            settings=PaymentSettings(auto_accept_after_s=None),
        )
        await nursery.start(payer.service.run)
        allocation, invoice = await allocate(world), await bill(world, "2")
        await accept(world, INVOICE, invoice, "2", allocation)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        before = trio.current_time()
        assert {s.platform for s in await payer.service.status()} == {PLATFORM, testnet.platform}
        assert trio.current_time() - before < 0.1
        told = {b.account.platform: b.problem for b in await payer.service.balances()}
        assert told[PLATFORM] == ""
        assert told[testnet.platform] != ""
        nursery.cancel_scope.cancel()


async def test_what_is_too_small_to_be_sent_stays_owed_and_is_shown(autojump_clock: object) -> None:
    """yagna's minimum payout: smaller orders counted as sent; the provider was never paid and never told."""
    cycle = Cycle(interval_s=600, min_payout=glm("0.5"))
    async with open_world(network=replace(NETWORK, cycle=cycle)) as world:
        allocation = await allocate(world)
        first = await bill(world, "0.3")
        await accept(world, INVOICE, first, "0.3", allocation)
        await trio.sleep(7_200)
        (status,) = await world.requestor.service.status()
        assert (status.owed, status.rolled_over) == (glm("0.3"), glm("0.3"))
        assert (await world.provider.service.document(INVOICE, first)).state is DocumentState.ACCEPTED
        second = await bill(world, "0.4", agreement=world.add_agreement("ag2"))
        await accept(world, INVOICE, second, "0.4", allocation)
        await reaches(world.provider, INVOICE, first, DocumentState.SETTLED)
        await reaches(world.provider, INVOICE, second, DocumentState.SETTLED)
        assert world.tokens(world.provider) == glm("0.7")


# --- verification ---------------------------------------------------------------------------------------------------

FORGERIES = ("native coin", "another token", "another recipient", "a transaction that paid before", "not final yet")


@pytest.mark.parametrize("form", FORGERIES)
async def test_a_forged_payment_settles_nothing(form: str, autojump_clock: object) -> None:
    """erc20_payment_lib as read in 2024: native coin counted as a transfer, the token was not compared, one leg was
    enough, and no depth was asked for."""
    chain = FakeChain(automine=form != "not final yet")
    async with open_world(chain=chain, network=replace(NETWORK, confirmations=1 if chain.automine else 3)) as world:
        key, payee = world.requestor.key, world.provider.key.address
        allocation = await allocate(world)
        used = ""
        if form == "a transaction that paid before":
            first = await bill(world, "1", agreement=world.add_agreement("before"))
            await accept(world, INVOICE, first, "1", allocation)
            await reaches(world.provider, INVOICE, first, DocumentState.SETTLED)
            (honest,) = await world.provider.service.payments()
            used = honest.notice.transaction
        invoice = await bill(world, "1")
        other_token, amount = Address("0x" + "99" * 20), glm("1")
        chain.fund(key.address, other_token, amount, gas=2 * amount)
        forged = {
            "native coin": Call(payee, b"", TRANSFER_GAS, amount),
            "another token": Call(other_token, transfer_call(payee, amount), TRANSFER_GAS),
            "another recipient": Call(TOKEN, transfer_call(NodeKey.generate().address, amount), TRANSFER_GAS),
            "not final yet": Call(TOKEN, transfer_call(payee, amount), TRANSFER_GAS),
        }
        transaction = used
        if form in forged:
            nonce = chain.nonce_of(key.address)
            sent = world.requestor.driver.sign(key, nonce, forged[form], Fees(50 * GWEI, 9 * GWEI))
            await world.requestor.driver.broadcast(sent.raw)
            transaction = sent.hash
        if not chain.automine:
            chain.mine()
        await claim(world, transaction, invoice)
        await trio.sleep(600)
        found = {p.notice.id: (p.state, p.reason) for p in await world.provider.service.payments()}["forged"]
        wanted = {
            "a transaction that paid before": ("refused", "has paid for something else already"),
            "not final yet": ("claimed", ""),
        }.get(form, ("refused", "holds no transfer of token"))
        assert found[0] == wanted[0]
        assert wanted[1] in found[1]
        assert (await world.provider.service.document(INVOICE, invoice)).state is DocumentState.RECEIVED


async def claim(world: World, transaction: str, invoice: DocumentId) -> None:
    """The requestor's own signed lie that ``transaction`` pays the invoice."""
    key = world.requestor.key
    notice = PaymentNotice(
        "forged",
        key.address,
        world.provider.key.address,
        PLATFORM,
        transaction,
        ((AgreementId(AG1), glm("1")),),
        (invoice,),
        1,
    )
    handler = world.provider.rpc.handlers[f"{wire.PROTOCOL} {wire.PAYMENT_NOTICE}"]
    await handler(key.peer_id, notice_message(notice, key.sign(notice.digest(DOMAIN))).model_dump())


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "x", "chain_id": 5, "token": "0x" + "11" * 20, "rpc_url": "http://127.0.0.1:1", "-priority": 1},
        {"name": "x", "chain_id": 5, "token": "0x11", "rpc_url": "http://127.0.0.1:1"},
        {"name": "x", "chain_id": "five", "token": "0x" + "11" * 20, "rpc_url": "http://127.0.0.1:1"},
    ],
    ids=["a stray minus before a key", "a token that is no address", "a chain id that is no number"],
)
def test_malformed_settings_of_a_network_are_refused(entry: dict[str, object]) -> None:
    """yagna shipped endpoints whose keys began with a stray minus, and a list without commas; both were taken."""
    with pytest.raises(ValidationError):
        Settings.model_validate({"payment": {"networks": [entry]}})
