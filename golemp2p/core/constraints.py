"""The constraint language of offers and demands: parse, evaluate with three-valued logic, explain.

The language is yagna's (protocols/market.md has the grammar and the vectors):

    ()                         true
    (&e1 e2 …) (|e1 …) (!e)    and, or, not; white space between the parts is free
    (name=*)                   the property is there
    (name OP value)            OP is = < <= > >=; the value runs to the first ")", without escapes

A name may carry an aspect and a type hint: ``name[aspect]$v``. The comparison follows the type of the *property*; a
missing property makes a comparison UNDEFINED and a presence test FALSE. ``*`` inside an ``=`` value matches any text;
all other characters stand for themselves (in yagna they reach a regular expression engine, which we do not copy).

Parsing is one pass without backtracking; size, depth and number of clauses are limited, so any text either parses or
is a ConstraintSyntaxError with the position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from golemp2p import limits
from golemp2p.core.properties import Properties, is_text
from golemp2p.core.values import compare
from golemp2p.errors import UsageError


class ConstraintSyntaxError(UsageError):
    """``position`` counts characters from 0; ``line`` and ``column`` from 1."""

    code = "constraint_syntax"

    def __init__(self, text: str, position: int, problem: str) -> None:
        self.position = min(position, len(text))
        before = text[: self.position]
        self.line = before.count("\n") + 1
        self.column = self.position - (before.rfind("\n") + 1) + 1
        shown = text[max(0, self.position - 20) : self.position] + "⟨here⟩" + text[self.position : self.position + 20]
        super().__init__(f"constraint syntax error at line {self.line}, column {self.column}: {problem}: {shown!r}")


class Ternary(Enum):
    TRUE = "true"
    FALSE = "false"
    UNDEFINED = "undefined"


@dataclass(frozen=True)
class Name:
    """A reference to a property: name, aspect ("" for none), type hint ("" or one of d, v, t)."""

    name: str
    aspect: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return self.name + (f"[{self.aspect}]" if self.aspect else "") + (f"${self.hint}" if self.hint else "")


@dataclass(frozen=True)
class Present:
    ref: Name

    def __str__(self) -> str:
        return f"({self.ref}=*)"


@dataclass(frozen=True)
class Compare:
    ref: Name
    op: str
    value: str

    def __str__(self) -> str:
        return f"({self.ref}{self.op}{self.value})"


@dataclass(frozen=True)
class And:
    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return f"(&{''.join(map(str, self.parts))})"


@dataclass(frozen=True)
class Or:
    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        return f"(|{''.join(map(str, self.parts))})"


@dataclass(frozen=True)
class Not:
    part: Expression

    def __str__(self) -> str:
        return f"(!{self.part})"


@dataclass(frozen=True)
class Always:
    def __str__(self) -> str:
        return "()"


Expression = Present | Compare | And | Or | Not | Always

_SPACE: Final = " \t\r\n"
_DELIMITERS: Final = "=<>~"


@lru_cache(maxsize=1024)
def parse(text: str) -> Expression:
    """Raises ConstraintSyntaxError. Cached: the same offer is matched against many demands."""
    if len(text.encode("utf-8", "surrogatepass")) > limits.MAX_CONSTRAINTS_BYTES:
        raise ConstraintSyntaxError(text, 0, f"longer than {limits.MAX_CONSTRAINTS_BYTES} bytes")
    if not is_text(text):
        position = next(i for i, char in enumerate(text) if "\ud800" <= char <= "\udfff")
        raise ConstraintSyntaxError(text, position, "half of a surrogate pair")
    parser = _Parser(text)
    expression = parser.expression(0)
    parser.skip_space()
    if parser.position != len(text):
        raise parser.error("unexpected text after the end")
    return expression


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.nodes = 0

    def error(self, problem: str, position: int | None = None) -> ConstraintSyntaxError:
        return ConstraintSyntaxError(self.text, self.position if position is None else position, problem)

    def skip_space(self) -> None:
        while self.position < len(self.text) and self.text[self.position] in _SPACE:
            self.position += 1

    def peek(self) -> str:
        """The next character that is no space, "" at the end."""
        self.skip_space()
        return self.text[self.position] if self.position < len(self.text) else ""

    def expect(self, char: str) -> None:
        if (found := self.peek()) != char:
            raise self.error(f"expected {char!r}, found {repr(found) if found else 'the end'}")
        self.position += 1

    def expression(self, depth: int) -> Expression:
        self.nodes += 1
        if depth > limits.MAX_CONSTRAINT_DEPTH:
            raise self.error(f"nested deeper than {limits.MAX_CONSTRAINT_DEPTH}")
        if self.nodes > limits.MAX_CONSTRAINT_NODES:
            raise self.error(f"more than {limits.MAX_CONSTRAINT_NODES} clauses")
        self.expect("(")
        result: Expression
        match self.peek():
            case ")":
                result = Always()
            case "&":
                self.position += 1
                result = And(self.sequence(depth))
            case "|":
                self.position += 1
                result = Or(self.sequence(depth))
            case "!":
                self.position += 1
                result = Not(self.expression(depth + 1))
            case _:
                return self.clause()
        self.expect(")")
        return result

    def sequence(self, depth: int) -> tuple[Expression, ...]:
        parts = []
        while self.peek() == "(":
            parts.append(self.expression(depth + 1))
        return tuple(parts)

    def clause(self) -> Expression:
        start = self.position
        while self.position < len(self.text) and self.text[self.position] not in _DELIMITERS:
            if self.text[self.position] in "()":
                raise self.error("expected one of = < <= > >= after the property name")
            self.position += 1
        ref = self.reference(self.text[start : self.position].strip(_SPACE), start)
        op = self.operator()
        value_start = self.position
        end = self.text.find(")", value_start)
        if end < 0:
            raise self.error("the value is not closed by ')'", value_start)
        value = self.text[value_start:end]
        self.position = end + 1
        if op == "=" and value.startswith("*"):
            if value.strip(_SPACE) != "*":
                raise self.error("a value cannot start with '*' and go on", value_start)
            return Present(ref)
        return Compare(ref, op, value)

    def operator(self) -> str:
        for op in ("<=", ">=", "=", "<", ">"):
            if self.text.startswith(op, self.position):
                self.position += len(op)
                return op
        raise self.error("expected one of = < <= > >= after the property name")

    def reference(self, raw: str, start: int) -> Name:
        if not raw:
            raise self.error("a property name is missing", start)
        name, hint = raw, ""
        if "$" in raw:
            name, _, hint = raw.rpartition("$")
            if hint not in ("d", "v", "t"):
                raise self.error(f"unknown type hint ${hint}; there are $d (decimal), $v (version), $t (time)", start)
        aspect = ""
        if "[" in name or "]" in name:
            name, bracket, rest = name.partition("[")
            aspect, close, after = rest.partition("]")
            if not bracket or not close or after or not aspect or "[" in aspect:
                raise self.error("an aspect is written name[aspect]", start)
        if not name or "$" in name:
            raise self.error("a property name is missing or holds '$'", start)
        return Name(name, aspect, hint)


def evaluate(expression: Expression, properties: Properties) -> Ternary:
    """AND: any false wins, then undefined. OR: any true wins, then undefined. NOT keeps undefined."""
    match expression:
        case Compare(ref, op, value):
            found = None if ref.aspect else properties.get(ref.name)
            verdict = None if found is None else compare(found, op, value, ref.hint)
            return Ternary.UNDEFINED if verdict is None else Ternary.TRUE if verdict else Ternary.FALSE
        case Present(ref):
            return Ternary.TRUE if not ref.aspect and ref.name in properties else Ternary.FALSE
        case And(parts):
            result = Ternary.TRUE
            for part in parts:
                match evaluate(part, properties):
                    case Ternary.FALSE:
                        return Ternary.FALSE
                    case Ternary.UNDEFINED:
                        result = Ternary.UNDEFINED
            return result
        case Or(parts):
            result = Ternary.FALSE
            for part in parts:
                match evaluate(part, properties):
                    case Ternary.TRUE:
                        return Ternary.TRUE
                    case Ternary.UNDEFINED:
                        result = Ternary.UNDEFINED
            return result
        case Not(part):
            inner = evaluate(part, properties)
            return {Ternary.TRUE: Ternary.FALSE, Ternary.FALSE: Ternary.TRUE}.get(inner, inner)
        case Always():
            return Ternary.TRUE


@dataclass(frozen=True)
class Explanation:
    """Why a constraint is what it is. ``clauses`` are the innermost ones to blame; ``unresolved`` names are missing."""

    result: Ternary
    clauses: tuple[str, ...]
    unresolved: tuple[str, ...]


def explain(expression: Expression, properties: Properties) -> Explanation:
    """Evaluate and name the clauses that kept the result from being true, in reading order."""
    result = evaluate(expression, properties)
    if result is Ternary.TRUE:
        return Explanation(result, (), ())
    clauses: list[str] = []
    unresolved: list[str] = []
    for clause in _blamed(expression, properties, wanted=True):
        if (text := str(clause)) not in clauses:
            clauses.append(text)
        for name in _unresolved(clause, properties):
            if name not in unresolved:
                unresolved.append(name)
    return Explanation(result, tuple(clauses), tuple(unresolved))


def _blamed(expression: Expression, properties: Properties, *, wanted: bool) -> Iterator[Expression]:
    """The innermost parts whose value differs from ``wanted`` and decides."""
    value = evaluate(expression, properties)
    if value is (Ternary.TRUE if wanted else Ternary.FALSE):
        return
    match expression:
        case And(parts) if parts:
            if wanted and value is Ternary.FALSE:  # the false ones decide; undefined ones beside them do not
                for part in parts:
                    if evaluate(part, properties) is Ternary.FALSE:
                        yield from _blamed(part, properties, wanted=wanted)
            else:
                for part in parts:
                    yield from _blamed(part, properties, wanted=wanted)
        case Or(parts) if parts:
            for part in parts:
                yield from _blamed(part, properties, wanted=wanted)
        case Not(part) if isinstance(part, And | Or | Not):
            yield from _blamed(part, properties, wanted=not wanted)
        case _:
            yield expression


def _unresolved(clause: Expression, properties: Properties) -> Iterator[str]:
    match clause:
        case Compare(ref, _, _) | Present(ref):
            if ref.aspect or ref.name not in properties:
                yield str(ref)
        case Not(part):
            yield from _unresolved(part, properties)
        case And(parts) | Or(parts):
            for part in parts:
                yield from _unresolved(part, properties)
        case _:
            return


def property_names(expression: Expression) -> Iterator[str]:
    """Every property name that ``expression`` refers to."""
    match expression:
        case Compare(ref, _, _) | Present(ref):
            yield ref.name
        case And(parts) | Or(parts):
            for part in parts:
                yield from property_names(part)
        case Not(part):
            yield from property_names(part)
        case _:
            return


@dataclass(frozen=True)
class Terms:
    """One side of a match: its properties and what it demands of the other side."""

    properties: Properties
    constraints: str


def match(demand: Terms, offer: Terms) -> Ternary:
    """Demand constraints on offer properties AND offer constraints on demand properties.

    TRUE needs both true; otherwise FALSE when one side is false, else UNDEFINED. Raises ConstraintSyntaxError.
    """
    first = evaluate(parse(demand.constraints), offer.properties)
    if first is Ternary.FALSE:
        return first
    second = evaluate(parse(offer.constraints), demand.properties)
    if second is Ternary.FALSE:
        return second
    return Ternary.TRUE if first is second is Ternary.TRUE else Ternary.UNDEFINED
