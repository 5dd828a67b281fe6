"""A claim that costs more gas than it brings is not sent, where the price of the chain's coin is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.core.money import Amount
from golemp2p.core.payment import Market, Side
from golemp2p.core.payment.batching import Cycle
from golemp2p.core.payment.dust import CLAIM_GAS, MORE_GAS, worth_claiming
from golemp2p.payment.networks import GWEI, PaymentNetwork
from tests.evmdriver import EvmDriver
from tests.unit.payment.channels.world import GRACE_S, SETTINGS, World, open_channels, until
from tests.unit.payment.world import glm

Virtual = trio.testing.MockClock  # time that runs by itself: an hour takes a moment
# At 2 gwei a claim alone costs 1.06 tokens; one part in ten is asked for, but for the last chance.
CYCLE = Cycle(coin_price=10_000.0, fee_parts=10)
PATIENT = replace(SETTINGS, claim_threshold=glm("1000"), claim_after_s=600.0)


def dear(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    network = world.chain.network(cycle=CYCLE)

    def dear_network(_: EvmDriver) -> PaymentNetwork:
        return network

    monkeypatch.setattr(EvmDriver, "network", property(dear_network))


async def has(world: World, total: str) -> bool:
    return world.tokens(world.provider) == glm(total)


async def vouch(world: World, total: str) -> None:
    agreement = await world.approved()
    await world.bill(agreement.id, total)
    await world.vouched(total)


async def test_dust_is_not_claimed_until_gas_is_cheap(monkeypatch: pytest.MonkeyPatch, autojump_clock: Virtual) -> None:
    async with open_channels(provider=PATIENT) as world:
        dear(world, monkeypatch)
        await vouch(world, "2")
        await trio.sleep(3600)
        world.chain.asked.clear()
        await trio.sleep(3600)
        assert world.tokens(world.provider) == 0
        assert world.chain.asked.count("market") <= 3600 / 300 + 1

        async def cheap(_: EvmDriver) -> Market:
            return Market(GWEI // 10, GWEI // 100)

        monkeypatch.setattr(EvmDriver, "market", cheap)
        await until(lambda: has(world, "2"), timeout_s=600)


async def test_when_a_channel_is_closed_whatever_exceeds_its_gas_is_claimed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Virtual
) -> None:
    for total, claimed in (("1.05", "0"), ("1.2", "1.2")):
        async with open_channels(provider=PATIENT) as world:
            dear(world, monkeypatch)
            await vouch(world, total)
            await trio.sleep(1200)
            assert world.tokens(world.provider) == 0
            await world.requestor.service.channels.close((await world.requestor.channel(Side.PAYER)).id)
            await trio.sleep(GRACE_S / 2)
            assert world.tokens(world.provider) == glm(claimed)


async def test_a_threshold_that_the_owner_set_is_only_to_be_above_the_gas(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: Virtual
) -> None:
    for total, claimed in (("1.05", "0"), ("1.2", "1.2")):
        async with open_channels(provider=replace(SETTINGS, claim_threshold=glm("1"))) as world:
            dear(world, monkeypatch)
            await vouch(world, total)
            await trio.sleep(60)
            assert world.tokens(world.provider) == glm(claimed)


async def test_the_owner_may_claim_dust_by_hand(monkeypatch: pytest.MonkeyPatch, autojump_clock: Virtual) -> None:
    async with open_channels(provider=PATIENT) as world:
        dear(world, monkeypatch)
        await vouch(world, "1")
        await world.provider.service.channels.claim((await world.provider.channel(Side.PAYEE)).id)
        await until(lambda: has(world, "1"))


amounts = st.tuples(st.integers(0, 10**19).map(Amount), st.booleans())


@given(st.lists(amounts, max_size=8), st.integers(0, 10**12))
def test_no_claim_brings_less_than_it_costs(sums: list[tuple[Amount, bool]], price: int) -> None:
    taken = worth_claiming(sums, price, CYCLE)
    assert len(taken) == len(sums)
    if any(taken):
        total = sum(amount for (amount, _), good in zip(sums, taken, strict=True) if good)
        assert (CLAIM_GAS + MORE_GAS * (sum(taken) - 1)) * price * CYCLE.coin_price <= total
    assert all(worth_claiming(sums, price, Cycle())), "without a price of the coin all is claimed"
