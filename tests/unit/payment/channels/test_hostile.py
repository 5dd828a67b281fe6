"""Channels against lagging endpoints, changed keys, providers that vanish and peers that announce without end."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
import trio.testing

from golemp2p import limits
from golemp2p.core.ids import Address
from golemp2p.core.payment import PaymentNotice, Side
from golemp2p.core.payment.vouchers import CLOSED
from golemp2p.errors import PolicyError
from golemp2p.identity.keys import NodeKey
from golemp2p.payment.channels import abi
from golemp2p.payment.channels.booking import payment_id
from golemp2p.payment.drivers import deposits
from golemp2p.payment.drivers.base import Call, CallRevertedError, Log
from golemp2p.payment.drivers.deposits import Deposit
from golemp2p.payment.messages import notice_message
from golemp2p.storage import channels as repo
from golemp2p.storage.channels import channels as channel_table
from golemp2p.wire.p2p import channels as wire
from golemp2p.wire.p2p.payment import PAYMENT_NOTICE, PROTOCOL
from tests.unit.payment.channels.world import GRACE_S, INVOICE, SETTINGS, World, open_channels, until
from tests.unit.payment.world import DOMAIN, PLATFORM, clock, glm, table_count

Virtual = trio.testing.MockClock  # time that runs by itself: an hour takes a moment


async def test_a_claim_that_an_endpoint_does_not_know_yet_is_booked_later_and_not_claimed_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Virtual
) -> None:
    """With a quorum of one, an endpoint that lags answers "no such events" for blocks that it does not have."""
    async with open_channels() as world:
        agreement = await world.approved()
        for node in (world.requestor, world.provider):
            honest, asked = node.driver.logs, iter(range(3))

            async def lagging(
                address: str,
                topics: Sequence[str | None],
                *,
                first: int,
                last: int,
                honest: object = honest,
                asked: object = asked,
            ) -> list[Log]:
                found: list[Log] = await honest(address, topics, first=first, last=last)  # type: ignore[operator]
                return found if next(asked, None) is None else []  # type: ignore[call-overload]

            monkeypatch.setattr(node.driver, "logs", lagging)
        invoice = await world.bill(agreement.id, "6", kind=INVOICE)
        await world.settled(INVOICE, invoice)
        assert world.tokens(world.provider) == glm("6")
        assert len(world.chain.receipts) == 3, "approve, fund and claim: none for nothing"


async def test_a_new_voucher_key_does_not_sign_for_the_channel_of_the_old_one(autojump_clock: Virtual) -> None:
    """What it signed would be worth nothing, and the books would call it paid."""
    async with open_channels(voucher_key=NodeKey.generate()) as world:
        old = await world.approved("old")
        await world.bill(old.id, "1")
        await world.vouched("1")
        world.requestor.stop()
        world.requestor.voucher_key = NodeKey.generate()
        await world.requestor.start(world.nursery)
        rest = await world.bill(old.id, "2", kind=INVOICE)  # no channel for this key yet: a debt like others
        new = await world.approved("new")
        invoice = await world.bill(new.id, "6", kind=INVOICE)
        await world.settled(INVOICE, invoice)
        assert world.tokens(world.provider) >= glm("7")
        found = await world.provider.storage.run(lambda c: repo.find_channels(c, side=Side.PAYEE))
        await world.provider.service.channels.claim(found[0].id)
        await world.settled(INVOICE, rest)
        assert world.tokens(world.provider) == glm("8")


async def test_the_deposit_comes_back_from_a_provider_that_never_sent_its_invoice(autojump_clock: Virtual) -> None:
    async with open_channels(requestor=replace(SETTINGS, idle_close_s=600.0)) as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "1")
        await world.vouched("1")
        world.provider.stop()

        async def closing() -> bool:
            return (await world.requestor.channel(Side.PAYER)).close_at not in (0, CLOSED)

        await until(closing)
        world.chain.evm.warp(GRACE_S)

        async def back() -> bool:
            return world.tokens(world.requestor) == glm("100")

        await until(back)


async def test_a_payers_notice_cannot_take_the_place_of_the_claim_that_it_foresees(autojump_clock: Virtual) -> None:
    """The id of a claim's payment follows from the channel and the sum: a payer can send a notice with it first."""
    async with open_channels() as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "1")
        await world.vouched("1")
        channel, key = await world.provider.channel(Side.PAYEE), world.requestor.key
        notice = PaymentNotice(
            id=payment_id(channel.id, glm("6")),
            payer=channel.payer,
            payee=channel.payee,
            platform=PLATFORM,
            transaction="0x" + "13" * 32,
            shares=((agreement.id, glm("0.5")),),
            document_ids=(),
            paid_at_ms=1,
        )
        body = notice_message(notice, key.sign(notice.digest(DOMAIN))).model_dump()
        handlers = world.provider.rpc.handlers
        await handlers[f"{PROTOCOL} {PAYMENT_NOTICE}"](key.peer_id, body)
        invoice = await world.bill(agreement.id, "6", kind=INVOICE)
        await world.settled(INVOICE, invoice)
        (payment,) = await world.provider.service.payments()
        assert (payment.notice.amount, payment.state) == (glm("6"), "confirmed")


async def announce(world: World, salt: bytes) -> None:
    channel = await world.requestor.channel(Side.PAYER)
    message = wire.AnnounceMessage(
        platform=PLATFORM,
        contract=channel.contract,
        payer=channel.payer,
        payee=channel.payee,
        signer=channel.signer,
        grace_s=channel.grace_s,
        salt=salt,
    )
    rpc = world.requestor.rpc
    await rpc.call(world.provider.key.peer_id, PROTOCOL, wire.ANNOUNCE, message.model_dump(), timeout_s=5.0)


async def test_a_peer_that_announces_channels_without_end_does_not_fill_the_disk(autojump_clock: Virtual) -> None:
    async with open_channels() as world:
        await world.approved()
        for _ in range(40):
            await announce(world, secrets.token_bytes(32))
        assert await table_count(world.provider.storage, channel_table) <= 8
        assert (await world.approved("again")).id == "again"


async def test_a_peer_that_tells_of_claims_without_end_does_not_make_us_ask_the_chain_each_time(
    autojump_clock: Virtual,
) -> None:
    async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1000"))) as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "1")
        await world.vouched("1")
        await trio.sleep(30)
        channel, rpc = await world.requestor.channel(Side.PAYER), world.provider.rpc
        body = wire.ClaimedMessage(channel_id=channel.id, transaction="0x" + "13" * 32).model_dump()
        world.chain.asked.clear()
        for _ in range(100):  # in a second
            await rpc.call(world.requestor.key.peer_id, PROTOCOL, wire.CLAIMED, body, timeout_s=5.0)
        assert world.chain.asked.count("call") <= 1.1 / world.requestor.driver.network.poll_s + 2


async def test_a_close_that_failed_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, autojump_clock: Virtual) -> None:
    """Else the deposit would stay in the contract for ever, and the owner's word would change nothing."""
    async with open_channels() as world:
        await world.approved()
        honest, until_s = world.requestor.driver.estimate, trio.current_time() + 2 * limits.ORDER_PATIENCE_S

        async def estimate(sender: Address, call: Call) -> int:
            if call.data[:4] == abi.REQUEST_CLOSE and trio.current_time() < until_s:
                raise CallRevertedError("the contract refuses (ordered by the test)")
            return await honest(sender, call)

        monkeypatch.setattr(world.requestor.driver, "estimate", estimate)
        channel = await world.requestor.channel(Side.PAYER)
        await world.requestor.service.channels.close(channel.id)

        async def closing() -> bool:
            return (await world.requestor.channel(Side.PAYER)).close_at not in (0, CLOSED)

        await until(closing)


async def test_a_budget_from_a_deposit_neither_locks_nor_vouches_the_accounts_own_tokens(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Virtual
) -> None:
    async def fine(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(deposits, "check", fine)
    for own in (None, glm("10")):
        async with open_channels(requestor=replace(SETTINGS, deposit=own), budget="0.5") as world:
            allocations, lock = world.requestor.service.allocations, Address("0x" + "10" * 20)
            (small,) = await allocations.list_live()
            await allocations.release(small.id)
            end = clock() + 9_000
            await allocations.create(platform=PLATFORM, total=glm("50"), deposit=Deposit(lock, 7), timeout_at=end)
            if own is None:
                with pytest.raises(PolicyError, match="what is left of the budget is 0"):
                    await world.requestor.service.channels.prepare(world.agreement())
                continue
            agreement = await world.approved()
            await world.bill(agreement.id, "5")
            await trio.sleep(60)
            assert (await world.requestor.channel(Side.PAYER)).cumulative == 0


async def test_claims_of_channels_whose_ids_begin_alike_are_two_orders(autojump_clock: Virtual) -> None:
    """A payer chooses the salt, so it can look for ids that agree in some bits."""
    async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1000"))) as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "1")
        await world.vouched("1")
        channel, storage = await world.provider.channel(Side.PAYEE), world.provider.storage
        alike = replace(channel, id=channel.id[:18] + "00" * 24)
        await storage.run(lambda c: repo.put_channel(c, alike))
        for one in (channel, alike):
            await world.provider.service.channels.payee.claim(PLATFORM, [one], "the test")
        found = await storage.run(lambda c: repo.find_channels(c, side=Side.PAYEE))
        assert len({one.order for one in found}) == 2
