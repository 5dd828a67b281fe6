"""Mode channel from the first agreement to the last token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from golemp2p.core.ids import AgreementId
from golemp2p.core.money import Amount
from golemp2p.core.payment import DocumentState, Side
from golemp2p.core.payment.vouchers import CLOSED, Voucher, VoucherDomain
from golemp2p.errors import PolicyError, RemoteProtocolError, UsageError
from golemp2p.identity.keys import NodeKey
from golemp2p.payment.channels import abi
from golemp2p.storage import payment_settlement as settlement_repo
from golemp2p.storage.channels import ChannelStatus
from tests.evm import account
from tests.unit.payment.channels.world import GRACE_S, INVOICE, NOTE, SETTINGS, World, open_channels, until
from tests.unit.payment.world import PLATFORM, glm

Virtual = trio.testing.MockClock  # time that runs by itself: an hour takes a moment


async def test_an_agreement_is_confirmed_over_a_funded_channel_only(autojump_clock: Virtual) -> None:
    async with open_channels() as world:
        await world.approved()
        channel = await world.requestor.channel(Side.PAYER)
        assert (channel.deposit, channel.state) == (glm("10"), ChannelStatus.LIVE)
        assert world.tokens(world.requestor) == glm("90")
        again = await world.approved("ag2")  # one channel serves all agreements of the pair
        assert again.id == "ag2"
        found = await world.requestor.channel(Side.PAYER)
        assert found == replace(channel, seen_block=found.seen_block, used_at=found.used_at)


async def test_vouchers_take_the_place_of_debts_and_one_claim_settles_both_books(autojump_clock: Virtual) -> None:
    async with open_channels() as world:
        agreement = await world.approved()
        note = await world.bill(agreement.id, "1")
        await world.vouched("1")
        assert (await world.provider.service.channels.cover(agreement.id)).secured == glm("1")
        assert await world.state(world.requestor, NOTE, note) is DocumentState.ACCEPTED
        invoice = await world.bill(agreement.id, "6", kind=INVOICE)  # above the threshold: claimed
        await world.settled(INVOICE, invoice)
        await world.settled(NOTE, note)
        assert world.tokens(world.provider) == glm("6")
        debts = await world.requestor.storage.run(lambda c: settlement_repo.unplanned_obligations(c, PLATFORM))
        assert debts == []
        paid = [p for node in (world.requestor, world.provider) for p in await node.service.payments()]
        assert [p.notice.amount for p in paid] == [glm("6"), glm("6")]
        assert paid[0].notice.id == paid[1].notice.id
        assert paid[0].notice.transaction in world.chain.receipts
        moved = {m.what.split()[0]: m for m in await world.provider.service.wallet.history()}
        assert moved["claim"].fee_wei
        assert moved["payment"].fee_wei is None, "the fee is told once"


async def test_one_channel_serves_two_agreements_and_claims_pay_the_older_first(autojump_clock: Virtual) -> None:
    async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1000"))) as world:
        first, second = await world.approved("one"), await world.approved("two")
        bills = [await world.bill(first.id, "1", kind=INVOICE), await world.bill(second.id, "2", kind=INVOICE)]
        await world.vouched("3")
        covers = [await world.provider.service.channels.cover(a.id) for a in (first, second)]
        assert [c.vouched for c in covers] == [glm("1"), glm("2")]
        channel = await world.provider.channel(Side.PAYEE)
        await world.provider.service.channels.claim(channel.id)
        for bill in bills:
            await world.settled(INVOICE, bill)
        assert world.tokens(world.provider) == glm("3")
        shares = (await world.provider.service.payments())[0].notice.shares
        assert shares == (("one", glm("1")), ("two", glm("2")))


async def test_a_nearly_used_channel_is_topped_up(autojump_clock: Virtual) -> None:
    async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1000"))) as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "8.5")

        async def topped_up() -> bool:
            return (await world.requestor.channel(Side.PAYER)).deposit == glm("20")

        await until(topped_up)
        assert world.tokens(world.requestor) == glm("80")


async def test_what_exceeds_the_deposit_is_not_secured(autojump_clock: Virtual) -> None:
    async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1000"))) as world:
        agreement = await world.approved()
        world.requestor.service.channels.look_soon("nothing")
        world.chain.down = True  # no top-up
        await world.bill(agreement.id, "12")
        await world.vouched("12")
        cover = await world.provider.service.channels.cover(agreement.id)
        assert (cover.vouched, cover.secured) == (glm("12"), glm("10"))


async def test_a_provider_that_never_returns_costs_the_payer_nothing_but_time(autojump_clock: Virtual) -> None:
    async with open_channels() as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "1")
        await world.vouched("1")
        world.provider.stop()
        channel = await world.requestor.channel(Side.PAYER)
        await world.requestor.service.channels.close(channel.id)
        await until(lambda: _closing(world))
        assert world.tokens(world.requestor) == glm("90")
        world.chain.evm.warp(GRACE_S)

        async def closed() -> bool:
            return (await world.requestor.channel(Side.PAYER)).state is ChannelStatus.DONE

        await until(closed)
        assert world.tokens(world.requestor) == glm("100")


async def _closing(world: World) -> bool:
    return (await world.requestor.channel(Side.PAYER)).close_at not in (0, CLOSED)


async def test_an_attempt_to_close_is_answered_by_a_claim(autojump_clock: Virtual) -> None:
    async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1000"))) as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "2")
        await world.vouched("2")
        channel = await world.requestor.channel(Side.PAYER)
        await world.requestor.service.channels.close(channel.id)

        async def claimed() -> bool:
            return world.tokens(world.provider) == glm("2")

        await until(claimed, timeout_s=GRACE_S / 2)
        mine = world.provider.agreements.known[agreement.id]
        reason = await world.provider.service.channels.refusal(mine, timeout_s=1)
        assert "no channel that is open" in reason


async def test_a_provider_that_was_away_claims_before_the_grace_is_over(autojump_clock: Virtual) -> None:
    async with open_channels() as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "2")
        await world.vouched("2")
        world.provider.stop()
        channel = await world.requestor.channel(Side.PAYER)
        await world.requestor.service.channels.close(channel.id)
        await until(lambda: _closing(world))
        await world.provider.start(world.nursery)

        async def claimed() -> bool:
            return world.tokens(world.provider) == glm("2")

        await until(claimed, timeout_s=60)


async def test_a_requestor_that_never_returns_loses_the_provider_nothing_that_was_vouched(
    autojump_clock: Virtual,
) -> None:
    async with open_channels(provider=replace(SETTINGS, claim_after_s=600.0)) as world:
        agreement = await world.approved()
        note = await world.bill(agreement.id, "2")
        await world.vouched("2")
        world.requestor.stop()

        async def settled() -> bool:
            return await world.state(world.provider, NOTE, note) is DocumentState.SETTLED

        await until(settled, timeout_s=2 * 600.0)
        assert world.tokens(world.provider) == glm("2")


async def test_an_idle_channel_is_closed_by_itself(autojump_clock: Virtual) -> None:
    async with open_channels(requestor=replace(SETTINGS, idle_close_s=100.0)) as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "6", kind=INVOICE)
        await until(lambda: _is(world.tokens(world.provider) == glm("6")))
        await until(lambda: _closing(world))


async def _is(value: bool) -> bool:
    return value


async def test_a_killed_provider_has_every_voucher_that_it_acknowledged(autojump_clock: Virtual) -> None:
    async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1000"))) as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "1")
        await world.vouched("1")
        world.provider.stop()
        await world.provider.start(world.nursery)
        await world.bill(agreement.id, "2")
        await world.vouched("2")
        cover = await world.provider.service.channels.cover(agreement.id)
        assert cover.vouched == glm("2")


async def test_a_killed_payer_goes_on_with_the_same_total(autojump_clock: Virtual) -> None:
    """One writer: what was signed before the crash is what the next voucher adds to."""
    async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1000"))) as world:
        agreement = await world.approved()
        world.provider.rpc.cut = True  # signed and stored, not delivered
        documents = world.provider.service.documents
        world.provider.rpc.cut = False
        await world.bill(agreement.id, "1")
        world.requestor.stop()
        await world.requestor.start(world.nursery)
        await world.bill(agreement.id, "3")
        await world.vouched("3")
        assert (await world.requestor.channel(Side.PAYER)).cumulative == glm("3")
        assert documents is not None


async def test_a_provider_without_channels_is_named_before_anything_is_locked(autojump_clock: Virtual) -> None:
    async with open_channels() as world:
        agreement = world.agreement()
        old = replace(agreement, offer={k: v for k, v in agreement.offer.items() if "modes" not in k})
        with pytest.raises(UsageError, match="does not take payment channels"):
            await world.requestor.service.channels.prepare(old)
        assert world.tokens(world.requestor) == glm("100")


async def test_an_agreement_of_mode_batch_needs_no_channel(autojump_clock: Virtual) -> None:
    async with open_channels() as world:
        agreement = world.agreement()
        batch = replace(agreement, demand={k: v for k, v in agreement.demand.items() if "mode" not in k})
        await world.requestor.service.channels.prepare(batch)
        assert world.chain.asked.count("broadcast") == 0


async def test_a_stranger_cannot_close_or_claim_by_id(autojump_clock: Virtual) -> None:
    async with open_channels() as world:
        await world.approved()
        with pytest.raises(UsageError, match="no channel"):
            await world.provider.service.channels.close("0x" + "11" * 32)
        with pytest.raises(UsageError, match="nothing is to be claimed"):
            channel = await world.provider.channel(Side.PAYEE)
            await world.provider.service.channels.claim(channel.id)


async def test_a_foreign_claim_is_booked_like_ours(autojump_clock: Virtual) -> None:
    """Anybody may send the voucher to the chain, and the money goes to the payee all the same."""
    async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1000"))) as world:
        agreement = await world.approved()
        invoice = await world.bill(agreement.id, "2", kind=INVOICE)
        await world.vouched("2")
        channel = await world.provider.channel(Side.PAYEE)
        assert channel.signature is not None
        item = abi.ClaimItem(channel.config, channel.cumulative, channel.signature)
        world.chain.mine(account(77), 0, world.chain.channels, abi.claim_call(item), "0x" + "77" * 32)
        await world.settled(INVOICE, invoice)


async def test_idle_channels_cost_no_call(autojump_clock: Virtual) -> None:
    async with open_channels() as world:
        agreement = await world.approved()
        await world.settled(INVOICE, await world.bill(agreement.id, "6", kind=INVOICE))
        await trio.sleep(60)
        world.chain.asked.clear()
        await trio.sleep(6 * 3600)
        assert world.chain.asked == []


async def test_vouchers_of_a_hot_key_are_claimed_like_others(autojump_clock: Virtual) -> None:
    hot = NodeKey.generate()
    async with open_channels(voucher_key=hot) as world:
        agreement = await world.approved()
        assert (await world.requestor.channel(Side.PAYER)).signer == hot.address != world.requestor.key.address
        await world.settled(INVOICE, await world.bill(agreement.id, "6", kind=INVOICE))
        assert world.tokens(world.provider) == glm("6")


async def test_a_voucher_that_no_contract_would_take_is_refused(autojump_clock: Virtual) -> None:
    async with open_channels() as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "1")
        await world.vouched("1")
        channel = await world.provider.channel(Side.PAYEE)
        domain = VoucherDomain(channel.chain_id, channel.contract)
        payee, peer = world.provider.service.channels.payee, world.requestor.key.peer_id

        def voucher(cumulative: str, key: NodeKey = world.requestor.key) -> Voucher:
            total = glm(cumulative)
            return Voucher(channel.config.id, total, key.sign(domain.digest(channel.config.id, total)))

        with pytest.raises(RemoteProtocolError, match="signature"):
            await payee.receive(peer, voucher("2", NodeKey.generate()), agreement.id, glm("2"))
        with pytest.raises(RemoteProtocolError, match="cannot be split"):
            await payee.receive(peer, voucher("2"), agreement.id, glm("2.5"))
        with pytest.raises(UsageError, match="not announced"):
            await payee.receive(peer, replace(voucher("2"), channel_id=bytes(32)), agreement.id, glm("2"))
        with pytest.raises(PolicyError, match="not between us"):
            await payee.receive(NodeKey.generate().peer_id, voucher("2"), agreement.id, glm("2"))
        with pytest.raises(PolicyError, match="nothing was billed"):
            await payee.receive(peer, voucher("2"), AgreementId("another"), glm("1"))
        assert (await world.provider.channel(Side.PAYEE)).cumulative == glm("1")
        await payee.receive(peer, voucher("0.5"), agreement.id, glm("0.5"))  # old: no error, and nothing changes
        assert (await world.provider.channel(Side.PAYEE)).cumulative == glm("1")


async def test_many_vouchers_at_once_leave_the_newest_of_each_channel(autojump_clock: Virtual) -> None:
    """In whatever order they come; a bad one among them is refused alone."""
    async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1000"))) as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "0.001")
        await world.vouched("0.001")
        channel = await world.provider.channel(Side.PAYEE)
        domain = VoucherDomain(channel.chain_id, channel.contract)
        payee, key = world.provider.service.channels.payee, world.requestor.key
        refused = []

        async def give(total: int, agreement_total: int) -> None:
            signature = key.sign(domain.digest(channel.config.id, total))
            try:
                voucher = Voucher(channel.config.id, Amount(total), signature)
                await payee.receive(key.peer_id, voucher, agreement.id, Amount(agreement_total))
            except RemoteProtocolError:
                refused.append(total)

        base = glm("0.001")
        async with trio.open_nursery() as nursery:
            for n in (7, 3, 50, 1, 49, 2):
                nursery.start_soon(give, base + n, base + n)
            nursery.start_soon(give, base + 20, glm("9"))
        assert (await world.provider.channel(Side.PAYEE)).cumulative == base + 50
        assert refused == [base + 20]
        assert (await world.provider.service.channels.cover(agreement.id)).vouched == base + 50
