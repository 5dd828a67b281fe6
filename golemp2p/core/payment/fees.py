"""What to bid for a transaction's gas (EIP-1559), and what to bid when it waits too long. All in wei per gas.

Nodes of the chain replace a waiting transaction only by one that bids at least a tenth more in BOTH fields; some test
chains take less, so the rule is kept here and not left to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BUMP_NUMERATOR: Final = 9  # x 1.125, rounded up: above every pool's 10 %
BUMP_DENOMINATOR: Final = 8


@dataclass(frozen=True)
class Fees:
    """EIP-1559, in wei per gas."""

    max_fee: int
    tip: int


@dataclass(frozen=True)
class Market:
    """What the chain asks now, in wei per gas, without our caps: the next block's base fee, and a usual tip."""

    base_fee: int
    tip: int


def first_bid(market: Market, *, min_tip: int, cap: int) -> Fees | None:
    """Room for the base fee to double. None: even without any room the chain asks more than ``cap``."""
    tip = min(max(market.tip, min_tip), cap)
    if market.base_fee + min(tip, min_tip) > cap:
        return None
    max_fee = min(cap, 2 * market.base_fee + tip)
    return Fees(max_fee, min(tip, max_fee))


def next_bid(old: Fees, market: Market, *, min_tip: int, cap: int) -> Fees | None:
    """A bid that replaces ``old``; None when ``cap`` does not allow one."""
    wanted = first_bid(market, min_tip=min_tip, cap=cap) or old
    new = Fees(max(wanted.max_fee, raised(old.max_fee)), max(wanted.tip, raised(old.tip)))
    return new if new.max_fee <= cap and new.tip <= new.max_fee else None


def raised(fee: int) -> int:
    """The least that replaces ``fee``."""
    return -(-fee * BUMP_NUMERATOR // BUMP_DENOMINATOR) if fee else 1
