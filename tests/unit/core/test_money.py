from __future__ import annotations

from decimal import Context, Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from golemp2p.core.money import DECIMALS, MAX_AMOUNT, Amount, format_amount, linear_cost, parse_amount, parse_budget
from golemp2p.errors import UsageError

AMOUNTS = st.integers(0, MAX_AMOUNT).map(Amount)


@given(AMOUNTS)
@example(MAX_AMOUNT)
def test_amounts_survive_the_round_trip(amount: Amount) -> None:
    assert parse_amount(format_amount(amount)) == amount


@given(st.text(max_size=30))
@example("1e999999999")
@example("1e-999999999")
@example("-0.0000000000000000001")
@example("0." + "0" * 18 + "1")
@example("1." + "0" * 200 + "1")
@example("sNaN")
@example("1" * 5_000)
def test_any_text_is_an_amount_or_a_usage_error(text: str) -> None:
    try:
        amount = parse_amount(text)
    except UsageError as exc:
        assert len(str(exc)) < 300
    else:
        assert 0 <= amount <= MAX_AMOUNT
        assert Context(prec=10_000).multiply(Decimal(text.strip()), Decimal(10) ** DECIMALS) == amount


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0.0000000000000000001", "more than 18 decimals"),
        ("1." + "0" * 200 + "1", "more than 18 decimals"),
        ("1e-999999999", "more than 18 decimals"),
        ("1e999999999", "too large"),
        ("-1", "zero or more"),
        ("inf", "zero or more"),
        ("nan", "zero or more"),
        ("", "not a decimal number"),
        ("1,5", "not a decimal number"),
    ],
)
def test_what_is_no_amount_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_amount(text)


def test_the_bounds_are_exact() -> None:
    assert parse_amount(format_amount(MAX_AMOUNT)) == MAX_AMOUNT
    with pytest.raises(UsageError, match="too large"):
        parse_amount(format_amount(MAX_AMOUNT + 1))
    assert parse_amount("0.000000000000000001") == 1
    assert parse_amount(0.1) == 10**17
    assert format_amount(0) == "0"


COEFFS = st.floats(0, 1e6, allow_nan=False)


@given(st.lists(st.tuples(COEFFS, COEFFS), max_size=4), COEFFS)
def test_a_price_is_exact_and_rounded_up_by_less_than_one_unit(pairs: list[tuple[float, float]], start: float) -> None:
    context = Context(prec=3_000)
    exact = Decimal(str(start))
    for coeff, counter in pairs:
        exact = context.add(exact, context.multiply(Decimal(str(coeff)), Decimal(str(counter))))
    cost = linear_cost([c for c, _ in pairs] + [start], [u for _, u in pairs])
    rest = context.subtract(Decimal(cost), context.multiply(exact, Decimal(10) ** DECIMALS))
    assert 0 <= rest < 1


@pytest.mark.parametrize(
    ("coeffs", "usage"),
    [
        ([1.0], [1.0]),
        ([], []),
        ([float("inf"), 0.0], [0.0]),
        ([1.0, float("nan")], [1.0]),
        ([-1.0, 0.0], [1.0]),
        ([1e300, 0.0], [1e300]),
    ],
)
def test_a_price_that_is_none_is_refused(coeffs: list[float], usage: list[float]) -> None:
    with pytest.raises(UsageError):
        linear_cost(coeffs, usage)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (str(Decimal.from_float(0.1)), "0.1"),  # what yapapi sends for Golem(budget=0.1)
        (str(Decimal.from_float(0.7)), "0.7"),
        (str(Decimal.from_float(5e-324)), "0"),
        ("1.5", "1.5"),
        (0.3, "0.3"),
    ],
)
def test_a_budget_is_rounded_to_the_tokens_decimals(text: str | float, shown: str) -> None:
    assert float(format_amount(parse_budget(text))) == float(shown)


@pytest.mark.parametrize("text", ["-1", "x", "nan", "1e999999999", "0." + "1" * 5000, "9" * 60])
def test_a_bad_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_budget(text)
