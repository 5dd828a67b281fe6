"""Settlement and audit against chains, endpoints and files that would have us pay twice, never again, or crash."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from golemp2p.core.ids import Address
from golemp2p.core.payment import DocumentKind, DocumentState, SlotState
from golemp2p.core.payment.audit import Auditor
from golemp2p.core.payment.auditbooks import Notice
from golemp2p.errors import DeadlineError, RemoteProtocolError
from golemp2p.payment.drivers import deposits
from golemp2p.payment.drivers.base import BroadcastRefusedError
from golemp2p.payment.drivers.deposits import Deposit
from golemp2p.payment.drivers.fakechain import FakeChain, Pooled
from golemp2p.storage import payment_settlement as repo
from tests.unit.payment.test_parking import billed_by
from tests.unit.payment.test_service import accept, allocate, bill, note, reaches
from tests.unit.payment.world import NETWORK, TOKEN, clock, glm, open_world

INVOICE = DocumentKind.INVOICE
SLOW = replace(NETWORK, poll_s=5.0)


class StrictChain(FakeChain):
    """As nodes that take no transaction which cannot be in the next block."""

    def send(self, tx: Pooled) -> None:
        if tx.max_fee < self.base_fee:
            raise BroadcastRefusedError("max fee per gas less than block base fee")
        super().send(tx)


async def test_a_bid_that_the_market_has_left_behind_is_raised_even_when_it_was_never_taken(
    autojump_clock: object,
) -> None:
    """Signed, and not sent before the gas spike: no endpoint takes the stored bytes, the cap allows far more."""
    chain = StrictChain()
    async with open_world(chain=chain, network=SLOW) as world:
        allocation = await allocate(world)
        engine = world.requestor.service.settlement
        base_fee = chain.base_fee

        async def spike(step: str) -> None:
            if step == "signed":
                chain.base_fee = 50 * base_fee

        engine._checkpoint = spike
        invoice = await bill(world, "2")
        await accept(world, INVOICE, invoice, "2", allocation)
        await trio.sleep(5)
        (slot,) = await world.requestor.storage.run(repo.find_slots)
        assert slot.state in (SlotState.SIGNED, SlotState.SENT)
        engine._checkpoint = None
        await trio.sleep(1_000)
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        assert world.tokens(world.provider) == glm("2")


async def test_a_payment_that_a_reorganisation_took_back_after_it_was_final_does_not_end_all_payments(
    autojump_clock: object,
) -> None:
    """Deeper than the network's rule of finality: its nonce is free again, and every later one waits for it."""
    async with open_world(network=SLOW) as world:
        allocation, chain = await allocate(world), world.chain
        first = await bill(world, "2")
        await accept(world, INVOICE, first, "2", allocation)
        await reaches(world.requestor, INVOICE, first, DocumentState.SETTLED)
        chain.mine()
        chain.reorg(2)
        assert world.tokens(world.provider) == 0
        second = await billed_by(world, world.provider.key, "1")
        await accept(world, INVOICE, second, "1", allocation)
        await reaches(world.requestor, INVOICE, second, DocumentState.SETTLED)
        assert chain.tokens(TOKEN, world.provider.key.address) == glm("3")


@pytest.mark.parametrize("field", ["logIndex", "token"])
@pytest.mark.parametrize("value", [[1], {"a": 1}, None, True], ids=str)
def test_an_exported_leg_of_the_wrong_kind_is_a_finding_and_no_crash(field: str, value: object) -> None:
    """As text, the same event could also have been counted twice."""
    auditor = Auditor.__new__(Auditor)
    auditor._events = set()
    leg = {"logIndex": 1, "token": "0x11", "from": "0x22", "to": "0x33", "amount": "5", field: value}
    notice = Notice({"payee": "0x33", "amount": 5}, [])
    with pytest.raises(RemoteProtocolError, match="malformed"):
        auditor._check_legs(notice, {"legs": [leg], "chainId": 1, "transaction": "0x44"})


async def test_a_chain_that_is_silent_about_a_deposit_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    lock = Address("0x" + "10" * 20)
    async with open_world(network=replace(NETWORK, lock=lock)) as world:

        async def silent(*_: object, **__: object) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        monkeypatch.setattr(world.requestor.driver, "call", silent)
        allocations = world.requestor.service.allocations
        with pytest.raises(DeadlineError, match="deposit 0x7"):
            await allocations.create(platform=NETWORK.platform, total=glm("1"), deposit=Deposit(lock, 7))


async def test_a_program_cannot_have_the_account_pay_what_a_deposit_was_to_pay(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """Notes are accepted from a deposit, which is given back; then the invoice is accepted from a budget of nearly
    nothing: nobody has allowed the account to pay that."""

    async def fine(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(deposits, "check", fine)
    lock = Address("0x" + "10" * 20)
    async with open_world(network=replace(SLOW, lock=lock)) as world:
        allocations = world.requestor.service.allocations
        rich = await allocations.create(
            platform=NETWORK.platform, total=glm("50"), deposit=Deposit(lock, 7), timeout_at=clock() + 9_000
        )
        first = await note(world, "50")
        await accept(world, DocumentKind.DEBIT_NOTE, first, "50", rich.id)
        await allocations.release(rich.id)
        poor = await allocations.create(platform=NETWORK.platform, total=glm("0.001"))
        invoice = await bill(world, "50")
        await accept(world, INVOICE, invoice, "50", poor.id)
        await trio.sleep(600)
        assert world.tokens(world.requestor) == glm("100"), "the account's own"
        (debt,) = await world.requestor.storage.run(lambda c: repo.unplanned_obligations(c, NETWORK.platform))
        assert debt.deposit == str(Deposit(lock, 7))
        assert await world.requestor.storage.run(lambda c: repo.deposit_in_use(c, str(Deposit(lock, 7))))
