"""Spending caps, where money is signed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from golemp2p.core.ids import AgreementId
from golemp2p.core.money import Amount
from golemp2p.core.payment import Fees
from golemp2p.core.peer import recover_address
from golemp2p.identity.keys import NodeKey
from golemp2p.payment.drivers.base import Call
from golemp2p.payment.drivers.fake import FakeChain, FakeDriver
from golemp2p.payment.purse import DAY_S, Caps, Purse, SpendingCapError
from golemp2p.storage import Storage, open_storage, spending
from golemp2p.storage.spending import Spend
from tests.unit.payment.world import NETWORK

P = "erc20-local-tglm"
DIGEST = b"\1" * 32
NOW = 1_000_000.0


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    async with open_storage(None) as opened:
        yield opened


async def transfer(storage: Storage, purse: Purse, amount: int, *, platform: str = P, now: float = NOW) -> None:
    """A transaction under agreement "a" is signed."""
    driver = FakeDriver(FakeChain(), NETWORK)
    call = Call(NETWORK.token, b"", 1)
    spends = [Spend(platform, "a", Amount(amount), "batch")]
    await storage.run(lambda c: purse.transaction(c, driver, 0, call, Fees(1, 1), spends=spends, now=now))


async def voucher(
    storage: Storage, purse: Purse, amount: int, *, agreement: str = "a", platform: str = P, now: float = NOW
) -> bytes:
    return await storage.run(
        lambda c: purse.voucher(
            c, DIGEST, platform=platform, agreement_id=AgreementId(agreement), amount=Amount(amount), now=now
        )
    )


async def test_a_day_is_the_last_24_hours_and_each_platform_has_its_own(storage: Storage) -> None:
    purse = Purse(NodeKey.generate(), Caps(per_day=Amount(10)))
    await transfer(storage, purse, 6)
    await transfer(storage, purse, 4, now=NOW + 100)
    with pytest.raises(SpendingCapError, match="may be spent on erc20-local-tglm today"):
        await transfer(storage, purse, 1, now=NOW + 200)
    await transfer(storage, purse, 10, platform="erc20-amoy-tglm")
    await transfer(storage, purse, 6, now=NOW + DAY_S)
    with pytest.raises(SpendingCapError):
        await transfer(storage, purse, 5, now=NOW + DAY_S + 50)


async def test_the_day_of_a_voucher_is_that_of_its_channels_funding(storage: Storage) -> None:
    purse = Purse(NodeKey.generate(), Caps(per_day=Amount(10)))
    await transfer(storage, purse, 10)
    await voucher(storage, purse, 10)


async def test_an_agreements_cap_counts_all_that_was_ever_signed_under_it(storage: Storage) -> None:
    purse = Purse(NodeKey.generate(), Caps(per_agreement=Amount(10)))
    await voucher(storage, purse, 6)
    with pytest.raises(SpendingCapError, match="under agreement a"):
        await voucher(storage, purse, 5, now=NOW + 10 * DAY_S)
    await voucher(storage, purse, 10, agreement="b")
    await voucher(storage, purse, 4)


async def test_what_was_refused_is_neither_signed_nor_remembered(storage: Storage) -> None:
    purse = Purse(NodeKey.generate(), Caps(per_day=Amount(10)))
    for _ in range(3):
        with pytest.raises(SpendingCapError):
            await transfer(storage, purse, 11)
    await transfer(storage, purse, 10)


async def test_what_can_never_move_money_any_more_gives_its_room_back(storage: Storage) -> None:
    purse = Purse(NodeKey.generate(), Caps(per_day=Amount(10)))
    await storage.run(lambda c: spending.add(c, [Spend(P, "a", Amount(10), "batch")], now=NOW))
    with pytest.raises(SpendingCapError):
        await transfer(storage, purse, 1)
    await storage.run(lambda c: spending.forget(c, "batch"))
    await transfer(storage, purse, 1)


async def test_a_hot_key_signs_vouchers_and_the_accounts_key_does_not(storage: Storage) -> None:
    account, hot = NodeKey.generate(), NodeKey.generate()
    purse = Purse(account, voucher_signer=hot)
    assert recover_address(DIGEST, await voucher(storage, purse, 1)) == hot.address == purse.voucher_address
    assert purse.address == account.address


@settings(max_examples=30)  # each opens a database
@given(st.lists(st.tuples(st.integers(1, 8), st.sampled_from("abc"), st.integers(0, 3 * 86_400)), max_size=20))
def test_no_window_of_a_day_and_no_agreement_ever_exceeds_its_cap(wanted: list[tuple[int, str, int]]) -> None:
    async def go() -> None:
        async with open_storage(None) as opened:
            purse = Purse(NodeKey.generate(), Caps(per_day=Amount(20), per_agreement=Amount(15)))
            signed: list[tuple[int, int, str]] = []
            for amount, agreement, at in sorted(wanted, key=lambda w: w[2]):
                spends = [Spend(P, agreement, Amount(amount), "b")]
                call = Call(NETWORK.token, b"", 1)
                try:
                    await opened.run(
                        partial(
                            purse.transaction,
                            driver=FakeDriver(FakeChain(), NETWORK),
                            nonce=0,
                            call=call,
                            fees=Fees(1, 1),
                            spends=spends,
                            now=NOW + at,
                        )
                    )
                except SpendingCapError:
                    continue
                signed.append((at, amount, agreement))
            for at, _, agreement in signed:
                assert sum(a for t, a, _ in signed if at - DAY_S < t <= at) <= 20
                assert sum(a for _, a, g in signed if g == agreement) <= 15

    trio.run(go)
