"""Money: integers of the token's smallest unit inside, decimal strings outside. Never a float.

GLM has 18 decimals. ``Amount`` is a plain ``int`` so that sums are exact and fit SQLite text columns and uint256.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow
from typing import NewType

from golemp2p.errors import UsageError

Amount = NewType("Amount", int)

DECIMALS = 18
_SCALE = Decimal(10) ** DECIMALS
# 78 digits hold any uint256; the default context of 28 would round silently.
_CONTEXT = Context(prec=120)
_UP = Context(prec=120, rounding=ROUND_CEILING)
_EXACT = Context(prec=120, traps=[Inexact, Overflow, InvalidOperation])
MAX_AMOUNT = Amount(2**128 - 1)
_WHOLE_MAX = Decimal(MAX_AMOUNT) / _SCALE + 1
_MAX_BUDGET_TEXT = 1200  # the longest float, 5e-324, has 1076 characters when written out

ZERO = Amount(0)


def parse_amount(text: str | int | float | Decimal, *, what: str = "amount") -> Amount:
    """Decimal text in GLM ("0.0123") to the smallest unit. Raises UsageError on anything else."""
    try:
        value = Decimal(str(text).strip())
    except DecimalException as exc:
        raise UsageError(f"{what} {_shown(text)} is not a decimal number", hint='write it like "0.0123"') from exc
    if not value.is_finite() or value < 0:
        raise UsageError(f"{what} {_shown(text)} is not a number of zero or more")
    if value > _WHOLE_MAX:  # before the arithmetic: 1e999999999 would overflow it
        raise UsageError(f"{what} {_shown(text)} is too large", hint=f"at most {format_amount(MAX_AMOUNT)}")
    try:
        scaled = _EXACT.multiply(value, _SCALE)
    except DecimalException as exc:  # more digits than any amount has
        raise UsageError(f"{what} {_shown(text)} has more than {DECIMALS} decimals") from exc
    if scaled > MAX_AMOUNT:
        raise UsageError(f"{what} {_shown(text)} is too large", hint=f"at most {format_amount(MAX_AMOUNT)}")
    if scaled != scaled.to_integral_value(context=_CONTEXT):
        raise UsageError(f"{what} {_shown(text)} has more than {DECIMALS} decimals")
    return Amount(int(scaled))


def parse_budget(text: str | int | float | Decimal, *, what: str = "amount") -> Amount:
    """As :func:`parse_amount`, but rounded to the token's decimals.

    Python agents write a budget of 0.1 as the binary fraction nearest to it, with all its 55 decimals.
    """
    try:
        value = Decimal(str(text).strip()[:_MAX_BUDGET_TEXT])
    except DecimalException:
        return parse_amount(text, what=what)  # which says why not
    if len(str(text)) > _MAX_BUDGET_TEXT or not value.is_finite() or not 0 <= value <= _WHOLE_MAX:
        return parse_amount(text, what=what)
    return parse_amount(value.quantize(1 / _SCALE, context=_CONTEXT), what=what)


def _shown(text: object) -> str:
    return repr(str(text)[:80])


def format_amount(amount: Amount | int) -> str:
    """The shortest exact decimal string: 1500000000000000000 -> "1.5"."""
    whole, fraction = divmod(int(amount), 10**DECIMALS)
    if not fraction:
        return str(whole)
    return f"{whole}.{fraction:0{DECIMALS}d}".rstrip("0")


def linear_cost(coeffs: list[float], usage: list[float]) -> Amount:
    """Golem's linear price: sum of coeff * usage, plus the start price (the last coefficient), rounded up.

    Raises UsageError when the vectors do not fit (``len(coeffs) == len(usage) + 1``).
    """
    if len(coeffs) != len(usage) + 1:
        raise UsageError(f"{len(coeffs)} price coefficients do not fit {len(usage)} usage counters")
    try:
        total = Decimal(str(coeffs[-1]))
        for coeff, counter in zip(coeffs, usage, strict=False):
            total = _UP.add(total, _UP.multiply(Decimal(str(coeff)), Decimal(str(counter))))
    except DecimalException as exc:  # infinity times nothing
        raise UsageError(f"price {coeffs!r} with usage {usage!r} is not a number") from exc
    if not total.is_finite() or total < 0:
        raise UsageError(f"price {coeffs!r} with usage {usage!r} is not a number of zero or more")
    scaled = _UP.multiply(total, _SCALE).to_integral_value(context=_UP)
    if scaled > MAX_AMOUNT:
        raise UsageError(f"price {coeffs!r} with usage {usage!r} is too large")
    return Amount(int(scaled))
