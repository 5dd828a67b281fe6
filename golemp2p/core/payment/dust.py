"""Which channels are worth the gas of a claim, where the price of the chain's coin is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from golemp2p.core.money import Amount
from golemp2p.core.payment.batching import Cycle

CLAIM_GAS: Final = 53_000  # of one channel alone (protocols/contracts/README.md)
MORE_GAS: Final = 18_000  # of each one more in the same transaction


def worth_claiming(sums: Sequence[tuple[Amount, bool]], gas_price_wei: int, cycle: Cycle) -> list[bool]:
    """For each channel whether it is claimed, all of them in one transaction. ``sums``: what it would pay, and whether
    it is wanted now: before a close, or by the owner's settings. Then whatever exceeds its gas is taken; else it waits
    until the fee is one part in ``cycle.fee_parts`` at most, as any payout. Token and coin both have 18 decimals."""
    if not cycle.coin_price:
        return [True] * len(sums)
    usual = max(1, cycle.fee_parts)

    def pays(amount: int, gas: int, parts: int) -> bool:
        return gas * gas_price_wei * cycle.coin_price * parts <= amount

    taken = [pays(amount, MORE_GAS, 1 if now else usual) for amount, now in sums]
    total = sum(amount for (amount, _), good in zip(sums, taken, strict=True) if good)
    urgent = any(now for (_, now), good in zip(sums, taken, strict=True) if good)
    gas = CLAIM_GAS + MORE_GAS * (sum(taken) - 1)
    if not pays(total, gas, 1 if urgent else usual):
        return [False] * len(sums)
    return taken
