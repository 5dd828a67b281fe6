"""What a payer locks and vouches for at most: caps, budgets, deposits, the number of channels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from golemp2p import limits
from golemp2p.core.payment import DocumentState, Side
from golemp2p.errors import PolicyError, UsageError
from golemp2p.payment.channels.payer import ChannelNotFundedError
from golemp2p.payment.purse import Caps
from golemp2p.storage import channels as repo
from golemp2p.storage import orders as order_repo
from golemp2p.storage.channels import Channel, ChannelStatus
from tests.unit.payment.channels.world import GRACE_S, NOTE, SETTINGS, World, open_channels, until
from tests.unit.payment.world import PLATFORM, glm

Virtual = trio.testing.MockClock  # time that runs by itself: an hour takes a moment


async def test_too_little_money_for_the_deposit_is_said_in_time(autojump_clock: Virtual) -> None:
    async with open_channels(requestor=replace(SETTINGS, deposit=glm("500"), open_timeout_s=30.0)) as world:
        agreement = world.agreement()
        with pytest.raises(Exception, match=r"has 100 tglm, the deposit of a payment channel to .* is 500"):
            await world.requestor.service.channels.prepare(agreement)
        mine = world.provider.agreements.known[agreement.id]
        assert "no deposit" in await world.provider.service.channels.refusal(mine, timeout_s=1)


@pytest.mark.parametrize("deposit", ["10", None], ids=["set", "of-the-budget"])
async def test_a_provider_cannot_make_us_lock_more_than_we_mean_to(
    autojump_clock: Virtual, deposit: str | None
) -> None:
    settings = replace(SETTINGS, deposit=None if deposit is None else glm(deposit))
    async with open_channels(requestor=settings) as world:
        greedy = world.agreement("greedy", exposure=51.0)
        with pytest.raises(PolicyError, match="wants 51 locked for it at least"):
            await world.requestor.service.channels.prepare(greedy)
        assert world.tokens(world.requestor) == glm("100")
        await world.requestor.service.channels.prepare(world.agreement("modest", exposure=2.0))
        assert world.tokens(world.requestor) == glm("90" if deposit else "80")


async def test_a_grace_below_the_providers_minimum_is_refused_before_anything_is_locked(
    autojump_clock: Virtual,
) -> None:
    async with open_channels(provider=replace(SETTINGS, min_grace_s=GRACE_S + 1)) as world:
        with pytest.raises(Exception, match="time of grace is 3600 s"):
            await world.requestor.service.channels.prepare(world.agreement())
        assert world.tokens(world.requestor) == glm("100")


async def test_a_payer_that_closes_channel_after_channel_may_open_the_next(autojump_clock: Virtual) -> None:
    """A payee without vouchers to claim has no reason to look: what was closed meanwhile it learns when it counts."""
    async with open_channels() as world:
        for number in range(limits.MAX_CHANNELS_PER_PEER + 1):
            await world.approved(f"ag{number}")  # the payee sees the one before it closing
            world.chain.evm.warp(GRACE_S)
            await trio.sleep(GRACE_S)
            await until(lambda: _payers(world, ChannelStatus.RETIRED, 0))
            (live,) = await _of_payer(world, ChannelStatus.LIVE)
            await world.requestor.service.channels.close(live.id)
            await until(lambda: _payers(world, ChannelStatus.LIVE, 0))


async def _of_payer(world: World, state: ChannelStatus) -> list[Channel]:
    return await world.requestor.storage.run(lambda c: repo.find_channels(c, side=Side.PAYER, states=(state,)))


async def _payers(world: World, state: ChannelStatus, number: int) -> bool:
    return len(await _of_payer(world, state)) == number


async def test_a_cap_that_a_voucher_would_exceed_leaves_the_bill_unanswered(autojump_clock: Virtual) -> None:
    async with open_channels(caps=Caps(per_agreement=glm("1.5"))) as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "1")
        with pytest.raises(Exception, match="exceeds what may be spent under agreement"):
            await world.bill(agreement.id, "2")
        await world.vouched("1")
        assert (await world.requestor.channel(Side.PAYER)).cumulative == glm("1")
        notes = await world.requestor.service.list_documents(NOTE)
        assert [n.state for n in notes] == [DocumentState.ACCEPTED, DocumentState.RECEIVED]


async def test_a_deposit_above_the_days_cap_is_said_at_once_and_not_locked_tomorrow(autojump_clock: Virtual) -> None:
    async with open_channels(caps=Caps(per_day=glm("5"))) as world:
        with pytest.raises(ChannelNotFundedError, match=r"10 exceeds what may be spent .* today") as caught:
            await world.approved()
        assert "payment.caps.per_day" in caught.value.hint
        assert await world.requestor.storage.run(order_repo.find_orders) == []


async def test_what_a_channel_holds_is_not_promised_twice(autojump_clock: Virtual) -> None:
    """100 in all: 10 in the channel, of which 5 are vouched for, 45 in budgets: 45 may be allocated yet."""
    async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1000"))) as world:
        agreement = await world.approved()
        await world.bill(agreement.id, "5")
        allocations = world.requestor.service.allocations
        await allocations.create(platform=PLATFORM, total=glm("45"))
        with pytest.raises(UsageError, match="cannot be allocated"):
            await allocations.create(platform=PLATFORM, total=glm("0.1"))
