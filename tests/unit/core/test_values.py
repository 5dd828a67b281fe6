"""The comparison table of yagna (protocols/market.md), value by value; vectors/constraints.json has it as data."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.core.constraints import ConstraintSyntaxError, Terms, evaluate, explain, match, parse
from golemp2p.core.properties import encode, flatten, number
from golemp2p.core.records import decode_terms
from golemp2p.core.values import compare
from golemp2p.errors import RemoteProtocolError, UsageError

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "protocols" / "vectors" / "constraints.json").read_text()
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
WILD = st.text(alphabet="ab*", max_size=12)
PLAIN = st.text(alphabet="ab", max_size=20)


@pytest.mark.parametrize("vector", VECTORS["evaluate"], ids=lambda v: f"{v['constraint']}-{v['result']}")
def test_a_constraint_has_the_value_of_the_vector(vector: dict[str, Any]) -> None:
    properties = flatten(vector["properties"])
    expression = parse(vector["constraint"])
    assert evaluate(expression, properties).value == vector["result"]
    if "clauses" in vector:
        why = explain(expression, properties)
        assert [list(why.clauses), list(why.unresolved)] == [vector["clauses"], vector["unresolved"]]


@pytest.mark.parametrize("vector", VECTORS["syntax_errors"], ids=lambda v: repr(v["constraint"]))
def test_a_syntax_error_is_where_the_vector_says(vector: dict[str, Any]) -> None:
    with pytest.raises(ConstraintSyntaxError) as caught:
        parse(vector["constraint"])
    assert caught.value.position == vector["position"]


@pytest.mark.parametrize("vector", VECTORS["match"], ids=lambda v: v["why"])
def test_terms_match_as_the_vector_says(vector: dict[str, Any]) -> None:
    demand, offer = (Terms(flatten(v["properties"]), v["constraints"]) for v in (vector["demand"], vector["offer"]))
    assert match(demand, offer).value == vector["result"]


@pytest.mark.parametrize("vector", VECTORS["flatten"], ids=lambda v: v["why"])
def test_nested_json_becomes_the_flat_properties_of_the_vector(vector: dict[str, Any]) -> None:
    raw = json.loads(vector["json"])
    if "error" in vector:
        with pytest.raises(UsageError, match=re.escape(vector["error"])):
            flatten(raw)
    else:
        assert encode(flatten(raw)).decode() == vector["flat"]


@given(FINITE, FINITE)
def test_numbers_compare_as_numbers(one: float, other: float) -> None:
    results = [compare(one, op, repr(other)) for op in ("=", "<", "<=", ">", ">=")]
    assert results == [one == other, one < other, one <= other, one > other, one >= other]


@given(st.integers())
def test_integers_of_any_size_compare(number: int) -> None:
    assert compare(number, "=", str(number)) is True or abs(number) > 2**53
    assert compare(number, ">", "inf") is False


@given(st.text())
def test_a_number_never_equals_what_is_no_number(text: str) -> None:
    result = compare(1.5, "=", text)
    assert result is False or float(text) == 1.5


@given(WILD, PLAIN)
def test_wildcards_mean_any_text(pattern: str, text: str) -> None:
    expected = re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), text, re.DOTALL) is not None
    assert compare(text, "=", pattern) is (expected if "*" in pattern else pattern == text)


@given(st.text(), st.text())
def test_other_characters_stand_for_themselves(one: str, other: str) -> None:
    if "*" not in other:
        assert compare(one, "=", other) is (one == other) or one[:2] in ('d"', 'v"', 't"')


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=30), st.decimals(allow_nan=False, allow_infinity=False)
)
def test_decimals_are_exact(one: Decimal, other: Decimal) -> None:
    assert compare(f'd"{one:f}"', "<", f"{other:f}") is (one < other)
    assert compare(f"{one:f}", "=", f"{one:f}", "d") is True


@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)),
    st.integers(-23 * 60, 23 * 60),
)
def test_times_compare_over_zones(moment: datetime, minutes: int) -> None:
    utc = moment.replace(tzinfo=UTC)
    shifted = (utc + timedelta(minutes=minutes)).replace(tzinfo=None).isoformat()
    sign = "-" if minutes < 0 else "+"
    zone = f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
    text = utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert compare(f't"{text}"', "=", f"{shifted}{zone}") is True
    assert compare(text, "<", (utc + timedelta(seconds=1)).isoformat(), "t") is True


@given(st.text(), st.sampled_from(["=", "<", "<=", ">", ">="]), st.text(), st.sampled_from(["", "d", "v", "t"]))
def test_any_two_texts_compare(value: str, op: str, text: str, hint: str) -> None:
    assert compare(value, op, text, hint) in (True, False, None)


@given(st.lists(st.one_of(st.text(alphabet="ab", max_size=2), st.integers(0, 3), st.booleans()), max_size=4))
def test_a_list_equals_its_own_text(items: list[str | int | bool]) -> None:
    texts = [str(item).lower() if isinstance(item, bool) else str(item) for item in items]
    if items and not (len(items) == 1 and not texts[0]):
        assert compare(list(items), "=", f"[{','.join(texts)}]") is True
    for text in texts:
        assert compare(list(items), "=", text) is True
    assert compare(list(items), "<", "a") is False
    assert compare(list(items), "=", "a", "d") is None


def test_floats_stay_floats_and_integers_integers() -> None:
    flat = flatten(json.loads('{"a": {"b": 0.0, "c": 0, "d": [0.0, 1], "e": 1e300}}'))
    assert encode(flat) == b'{"a.b":0.0,"a.c":0,"a.d":[0.0,1],"a.e":1e+300}'


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400, float("inf"), float("nan")])
def test_numbers_that_not_every_reader_can_hold_are_refused(value: float) -> None:
    for properties in ({"a": value}, {"a": [1, value]}, {"a": {"b": value}}):
        with pytest.raises(UsageError):
            flatten(properties)
    with pytest.raises(RemoteProtocolError):
        decode_terms(json.dumps({"properties": {"a": value}, "constraints": "()"}).encode())


def test_numbers_at_the_bounds_are_taken() -> None:
    assert flatten({"a": 2**63 - 1, "b": -(2**63), "c": 1e308}) == {"a": 2**63 - 1, "b": -(2**63), "c": 1e308}


@pytest.mark.parametrize(
    ("value", "found"),
    [(1, 1.0), (0.5, 0.5), (True, None), ("1", None), (None, None), (10**400, None), (float("nan"), None)],
)
def test_a_number_is_finite_or_none(value: object, found: float | None) -> None:
    assert number(value) == found
