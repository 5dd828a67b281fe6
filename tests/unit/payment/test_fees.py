"""Bids: within the cap, and always enough to replace the one before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from golemp2p.core.payment import Fees, Market, first_bid, next_bid
from golemp2p.core.payment.fees import raised

wei = st.integers(0, 10**13)
markets = st.builds(Market, wei, wei)


@given(markets, st.integers(1, 10**11), st.integers(1, 10**13))
def test_a_bid_is_within_the_cap_and_covers_the_base_fee(market: Market, min_tip: int, cap: int) -> None:
    bid = first_bid(market, min_tip=min_tip, cap=cap)
    if bid is None:
        assert market.base_fee + min(min_tip, cap) > cap
    else:
        assert market.base_fee <= bid.max_fee <= cap
        assert 0 < bid.tip <= bid.max_fee


@given(st.builds(Fees, st.integers(1, 10**13), st.integers(0, 10**12)), markets, st.integers(1, 10**14))
def test_a_second_bid_is_at_least_an_eighth_above_the_first_in_both_fields(old: Fees, market: Market, cap: int) -> None:
    """Pools of geth's family refuse less than a tenth; anvil takes anything."""
    bid = next_bid(old, market, min_tip=1, cap=cap)
    if bid is None:
        assert raised(old.max_fee) > cap or max(raised(old.tip), market.tip) > old.max_fee
    else:
        assert bid.max_fee * 8 >= old.max_fee * 9
        assert bid.tip * 8 >= old.tip * 9
        assert bid.tip <= bid.max_fee <= cap


@given(st.integers(0, 10**15))
def test_a_raised_fee_is_the_least_integer_that_replaces(fee: int) -> None:
    assert raised(fee) * 8 >= fee * 9
    assert fee == 0 or (raised(fee) - 1) * 8 < fee * 9


def test_a_spike_above_the_cap_is_no_bid_and_a_bid_again_when_it_is_over() -> None:
    assert first_bid(Market(base_fee=600, tip=1), min_tip=1, cap=500) is None
    assert first_bid(Market(base_fee=400, tip=1), min_tip=1, cap=500) == Fees(500, 1)
    assert first_bid(Market(base_fee=100, tip=2), min_tip=1, cap=500) == Fees(202, 2)
