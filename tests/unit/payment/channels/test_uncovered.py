"""What a channel never pays: vouchers beyond its deposit; and a payer's record that is older than the chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
import trio.testing

from golemp2p.core.payment import Side
from golemp2p.core.payment.vouchers import CLOSED
from golemp2p.payment.drivers.base import Log
from golemp2p.storage import channels as repo
from golemp2p.storage import journal, spending
from golemp2p.storage.channels import ChannelStatus
from golemp2p.storage.engine import _driver_connection, open_storage
from tests.unit.payment.channels.world import GRACE_S, INVOICE, SETTINGS, World, open_channels, until
from tests.unit.payment.world import PLATFORM, glm

Virtual = trio.testing.MockClock  # time that runs by itself: an hour takes a moment
PATIENT = replace(SETTINGS, claim_threshold=glm("1000"))


async def vouched_and_closed(world: World, *totals: str, claims: bool = True) -> list[str]:
    """One agreement and its accepted invoice for each of ``totals``; then the payer closes, with no top-up between.
    Returns the invoices. ``claims`` False: the provider is away meanwhile."""
    agreements = [await world.approved(f"ag{number}") for number in range(len(totals))]
    world.chain.down = True
    invoices = [await world.bill(a.id, t, kind=INVOICE) for a, t in zip(agreements, totals, strict=True)]
    await world.vouched(str(sum(float(total) for total in totals)))
    channel = await world.requestor.channel(Side.PAYER)
    await world.requestor.service.channels.close(channel.id)
    if not claims:
        world.provider.stop()
    world.chain.down = False

    async def closing() -> bool:
        return (await world.requestor.channel(Side.PAYER)).close_at != 0

    await until(closing)
    await trio.sleep(600)  # whoever wants to claim has time for it
    world.chain.evm.warp(GRACE_S)
    await until(lambda: is_done(world))
    return invoices


async def is_done(world: World) -> bool:
    return (await world.requestor.channel(Side.PAYER)).state is ChannelStatus.DONE


async def has(world: World, total: str) -> bool:
    return world.tokens(world.provider) == glm(total)


async def closed_entries(world: World) -> list[str]:
    found = await world.requestor.storage.run(lambda c: [entry for entry, _ in journal.read(c)])
    return [entry.body for entry in found if entry.kind == "channel_closed"]


async def test_what_was_vouched_beyond_the_deposit_is_paid_like_another_debt_once_the_channel_is_closed(
    autojump_clock: Virtual,
) -> None:
    async with open_channels(provider=PATIENT) as world:
        (invoice,) = await vouched_and_closed(world, "12")
        await world.settled(INVOICE, invoice)
        assert world.tokens(world.provider) == glm("12")
        (status,) = await world.requestor.service.status()
        assert (status.owed, status.problem) == (0, "")
        # The cap of the agreement counts it once: as a voucher it was worth nothing.
        assert await world.requestor.storage.run(lambda c: spending.under(c, PLATFORM, "ag0")) == glm("12")
        await trio.sleep(3600)
        assert world.tokens(world.provider) == glm("12"), "once"


async def test_the_newest_agreements_are_those_that_a_deposit_did_not_reach(autojump_clock: Virtual) -> None:
    async with open_channels(provider=PATIENT) as world:
        invoices = await vouched_and_closed(world, "6", "3", "2.5")
        for invoice in invoices:
            await world.settled(INVOICE, invoice)
        assert world.tokens(world.provider) == glm("11.5")
        (entry,) = await closed_entries(world)
        assert f'[["ag2","{glm("1.5")}"]]' in entry
        *claims, payment = await world.requestor.service.payments()
        assert sum(claim.notice.amount for claim in claims) == glm("10")
        assert payment.notice.shares == (("ag2", glm("1.5")),)


async def test_what_a_provider_could_have_claimed_and_did_not_stays_its_loss(autojump_clock: Virtual) -> None:
    async with open_channels(provider=PATIENT) as world:
        await vouched_and_closed(world, "12", claims=False)
        await until(lambda: has(world, "2"))
        await trio.sleep(3600)
        assert world.tokens(world.provider) == glm("2")
        assert world.tokens(world.requestor) == glm("98")


async def test_a_channel_whose_deposit_was_enough_leaves_no_debt(autojump_clock: Virtual) -> None:
    async with open_channels(provider=PATIENT) as world:
        (invoice,) = await vouched_and_closed(world, "10")
        await world.settled(INVOICE, invoice)
        await trio.sleep(3600)
        assert world.tokens(world.provider) == glm("10")
        assert await closed_entries(world) == []


async def test_claims_that_an_endpoint_tells_late_are_booked_before_a_closed_channel_is_done(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Virtual
) -> None:
    """Else they would be paid again, or the channel never looked at any more."""
    async with open_channels(provider=PATIENT) as world:
        honest, lagging = world.requestor.driver.logs, True

        async def logs(address: str, topics: Sequence[str | None], *, first: int, last: int) -> list[Log]:
            return [] if lagging else await honest(address, topics, first=first, last=last)  # type: ignore[arg-type]

        monkeypatch.setattr(world.requestor.driver, "logs", logs)

        agreement = await world.approved()
        world.chain.down = True
        invoice = await world.bill(agreement.id, "12", kind=INVOICE)
        await world.vouched("12")
        channel = await world.requestor.channel(Side.PAYER)
        await world.requestor.service.channels.close(channel.id)
        world.chain.down = False
        await until(lambda: has(world, "10"))
        world.chain.evm.warp(GRACE_S)
        await until(lambda: is_closed(world))
        await trio.sleep(30)
        assert not await is_done(world)
        assert world.tokens(world.provider) == glm("10")
        lagging = False
        await world.settled(INVOICE, invoice)
        await trio.sleep(3600)
        assert world.tokens(world.provider) == glm("12")
        assert await is_done(world)


async def is_closed(world: World) -> bool:
    return (await world.requestor.channel(Side.PAYER)).close_at == CLOSED


# --- an older database ----------------------------------------------------------------------------------------------


async def test_a_payer_whose_record_of_a_channel_is_older_than_the_chain_uses_another_one(
    autojump_clock: Virtual,
) -> None:
    """A restored backup: what it would vouch for there was vouched for long ago, and is worth nothing."""
    async with open_channels() as world, open_storage(None) as restored:
        first = await world.approved("one")
        await world.bill(first.id, "1")
        await world.vouched("1")
        backup = await world.requestor.storage.run(lambda c: _driver_connection(c).serialize())
        second = await world.approved("two")
        await world.settled(INVOICE, await world.bill(second.id, "6", kind=INVOICE))
        assert world.tokens(world.provider) == glm("7")
        old = await world.requestor.channel(Side.PAYER)

        world.requestor.stop()
        await trio.sleep(1)
        with restored._engine.connect() as connection:
            _driver_connection(connection).deserialize(backup)
        world.requestor.storage = restored
        await world.requestor.start(world.nursery)
        third = await world.approved("three")
        await world.bill(third.id, "2")
        found = await restored.run(lambda c: repo.find_channels(c, side=Side.PAYER))
        assert [(c.id == old.id, c.state, c.cumulative) for c in found] == [
            (True, ChannelStatus.RETIRED, glm("1")),
            (False, ChannelStatus.LIVE, glm("2")),
        ]
        (status,) = await world.requestor.service.status()
        assert f"older than the chain: of channel {old.id} 7 was claimed, it knows of 1" in status.problem

        async def closing() -> bool:
            return (await restored.run(lambda c: repo.find_channels(c, id=old.id)))[0].close_at != 0

        await until(closing)

        async def covered() -> bool:
            return (await world.provider.service.channels.cover(third.id)).secured == glm("2")

        await until(covered)
