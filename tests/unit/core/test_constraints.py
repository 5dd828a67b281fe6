from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.core.constraints import (
    And,
    ConstraintSyntaxError,
    Expression,
    Not,
    Or,
    Terms,
    Ternary,
    evaluate,
    explain,
    match,
    parse,
    property_names,
)
from golemp2p.core.properties import Properties, flatten

ODD_TEXT = st.text(alphabet=st.sampled_from(list('()&|!=<>~*$[]dvt \t\n,ab1."\\é\ud800')), max_size=60)
NAMES = st.sampled_from(["a", "b", "golem.inf.mem.gib", "x y", "list", "n?", "é"])
VALUES = st.text(alphabet=st.characters(exclude_characters=")", exclude_categories=["Cs"]), max_size=8)


def clauses() -> st.SearchStrategy[str]:
    hint = st.sampled_from(["", "", "", "$d", "$v", "$t", "[asp]", "[asp]$d"])
    # A value that starts with "*" is the presence test or an error; "<" followed by "=" is another operator.
    compare = st.builds(
        lambda n, h, o, v: f"({n}{h}{o}{v})", NAMES, hint, st.sampled_from(["=", "<", ">", "<=", ">="]), VALUES
    ).filter(lambda text: "=*" not in text)
    return st.one_of(st.just("()"), st.builds(lambda n, h: f"({n}{h}=*)", NAMES, hint), compare)


EXPRESSIONS = st.recursive(
    clauses(),
    lambda inner: st.one_of(
        st.builds(
            lambda parts, s: f"(&{s}{s.join(parts)})", st.lists(inner, max_size=4), st.sampled_from(["", "\n\t"])
        ),
        st.builds(lambda parts: f"(|{''.join(parts)})", st.lists(inner, max_size=4)),
        st.builds(lambda part: f"( ! {part} )", inner),
    ),
    max_leaves=12,
)
PROPERTIES: st.SearchStrategy[Properties] = st.dictionaries(
    NAMES,
    st.one_of(
        st.text(max_size=5),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        st.lists(st.one_of(st.text(max_size=3), st.integers(), st.booleans()), max_size=3),
        st.sampled_from(['v"1.2.3"', 'd"1.5"', 't"2026-01-01T00:00:00Z"', 'v"no"', "1.2.3"]),
    ),
    max_size=5,
)


@given(st.one_of(st.text(max_size=80), ODD_TEXT, EXPRESSIONS))
def test_any_text_parses_or_is_a_syntax_error_with_its_place(text: str) -> None:
    try:
        parse(text)
    except ConstraintSyntaxError as exc:
        assert 0 <= exc.position <= len(text)
        lines = text.split("\n")
        assert exc.column - 1 <= len(lines[exc.line - 1])
        str(exc).encode()


@given(EXPRESSIONS)
def test_what_was_parsed_prints_and_parses_to_the_same(text: str) -> None:
    expression = parse(text)
    assert parse(str(expression)) == expression


@given(EXPRESSIONS, PROPERTIES)
def test_every_expression_has_a_value_for_all_properties_and_an_explanation(text: str, properties: Properties) -> None:
    expression = parse(text)
    result = evaluate(expression, properties)
    why = explain(expression, properties)
    assert why.result is result
    assert (why.clauses == ()) == (result is Ternary.TRUE) or not why.clauses
    if result is not Ternary.TRUE:
        assert why.clauses
    assert set(why.unresolved).isdisjoint(properties)


_RANK = {Ternary.FALSE: 0, Ternary.UNDEFINED: 1, Ternary.TRUE: 2}


@given(EXPRESSIONS, EXPRESSIONS, PROPERTIES)
def test_the_laws_of_three_valued_logic(one: str, other: str, properties: Properties) -> None:
    def value(expression: Expression) -> int:
        return _RANK[evaluate(expression, properties)]

    a, b = parse(one), parse(other)
    assert value(And((a, b))) == value(And((b, a))) == min(value(a), value(b))
    assert value(Or((a, b))) == value(Or((b, a))) == max(value(a), value(b))
    assert value(Not(a)) == 2 - value(a)
    assert value(Not(And((a, b)))) == value(Or((Not(a), Not(b))))
    assert value(Not(Not(a))) == value(a)
    assert value(And(())) == 2
    assert value(Or(())) == 0


@given(EXPRESSIONS, EXPRESSIONS, PROPERTIES, PROPERTIES)
def test_a_match_is_true_only_when_both_sides_are(one: str, other: str, mine: Properties, theirs: Properties) -> None:
    first, second = evaluate(parse(one), theirs), evaluate(parse(other), mine)
    result = match(Terms(mine, one), Terms(theirs, other))
    assert _RANK[result] == min(_RANK[first], _RANK[second])


@pytest.mark.parametrize(
    ("text", "column", "complaint"),
    [
        ("", 1, "the end"),
        ("   ", 4, "the end"),
        ("a=1", 1, "expected '('"),
        ("(a=1", 4, "not closed"),
        ("(&(a=1)", 8, "the end"),
        ("(a=1))", 6, "after the end"),
        ("(a)", 3, "expected one of"),
        ("(=1)", 2, "name is missing"),
        ("(a~1)", 3, "expected one of"),
        ("(a=*x)", 4, "cannot start with '*'"),
        ("(a=**)", 4, "cannot start with '*'"),
        ("(a$x=1)", 2, "unknown type hint $x"),
        ("(a[=1)", 2, "name[aspect]"),
        ("(a[b]c=1)", 2, "name[aspect]"),
        ("(a[]=1)", 2, "name[aspect]"),
        ("(&\n  (a=1)\n  (b))", 5, "expected one of"),
        ("(!(a=1)(b=1))", 8, "expected ')'"),
        ("(a=1)\ud800", 6, "surrogate"),
    ],
)
def test_syntax_errors_show_the_place(text: str, column: int, complaint: str) -> None:
    with pytest.raises(ConstraintSyntaxError) as caught:
        parse(text)
    assert complaint in str(caught.value)
    assert caught.value.column == column


def test_depth_size_and_number_are_limited() -> None:
    deep = limits.MAX_CONSTRAINT_DEPTH
    parse("(!" * deep + "()" + ")" * deep)
    for text in ("(!" * (deep + 1) + "()" + ")" * (deep + 1), "(" * 30_000, "(!" * 15_000, "(&" + "()" * 10_000 + ")"):
        started = time.process_time()
        with pytest.raises(ConstraintSyntaxError):
            parse(text)
        assert time.process_time() - started < 0.5
    with pytest.raises(ConstraintSyntaxError, match="longer than"):
        parse("(a=" + "é" * limits.MAX_CONSTRAINTS_BYTES + ")")


@pytest.mark.parametrize(
    ("constraint", "properties"),
    [
        ("(|" + "(a=b*)" * 510 + ")", {"a": ["x" * 200] * 256}),
        ("(|" + "(a=1.1.1)" * 510 + ")", {"a": [f'v"1.0.{n}"' for n in range(256)]}),
        ("(|" + f"(a=[x*,{','.join(f'{n}b*' for n in range(255))}])" * 20 + ")", {"a": [str(n) for n in range(256)]}),
        ("(a=" + "a*" * 8_000 + "b)", {"a": "a" * 60_000}),
        ("(a=" + "*".join(["aab"] * 8_000) + ")", {"a": "a" * 60_000}),
        ("(a$d=" + "9" * 30_000 + ")", {"a": "9" * 60_000}),
        ("(a$v=" + "1." * 10_000 + ")", {"a": "1." * 20_000}),
        ("(a=" + "9" * 30_000 + ")", {"a": 1.0}),
    ],
)  # fmt: skip
def test_the_worst_terms_that_fit_the_limits_are_judged_quickly(constraint: str, properties: dict[str, Any]) -> None:
    """A hostile offer must not stop a node: matching runs before gossip is passed on."""
    flat = flatten(properties)
    started = time.process_time()
    explain(parse(constraint), flat)
    assert time.process_time() - started < 2


def test_explanations_name_the_clauses_that_decide() -> None:
    properties = flatten({"golem.runtime.name": "vm", "golem.inf.mem.gib": 1.0})

    def why(text: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        found = explain(parse(text), properties)
        return found.result.value, found.clauses, found.unresolved

    assert why("(golem.runtime.name=vm)") == ("true", (), ())
    assert why("(&(golem.runtime.name=vm)(golem.inf.mem.gib>=2)(missing=1))") == (
        "false",
        ("(golem.inf.mem.gib>=2)",),
        (),
    )
    assert why("(&(golem.runtime.name=vm)(missing=1))") == ("undefined", ("(missing=1)",), ("missing",))
    assert why("(|(golem.runtime.name=x)(golem.inf.mem.gib>8))") == (
        "false",
        ("(golem.runtime.name=x)", "(golem.inf.mem.gib>8)"),
        (),
    )
    assert why("(!(golem.runtime.name=vm))") == ("false", ("(!(golem.runtime.name=vm))",), ())
    assert why("(!(&(golem.runtime.name=vm)(missing=1)))") == (
        "undefined",
        ("(golem.runtime.name=vm)", "(missing=1)"),  # either, being false, would do
        ("missing",),
    )
    assert why("(golem.runtime.name[kind]=vm)")[2] == ("golem.runtime.name[kind]",)


def test_property_names_are_all_found() -> None:
    assert list(property_names(parse("(&(a=1)(|(b=*)(!(c$v>1)))())"))) == ["a", "b", "c"]
