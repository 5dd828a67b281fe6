"""Which offers match a demand, out of very many: the same answer as core.constraints.match, without asking each one.

Offers stand in slots, in the order that they came. For each property that a demand has asked about there is a column:
a number for each slot that says which of the property's different values stands there. A clause is compared with each
different value once; the clauses' answers for all slots are one large integer with a byte per slot, and AND, OR and
NOT work on those. What offers ask of the demand is nearly always ``(&(name OP value)…)`` with the same names and other
values: offers of one such shape are looked at together. The rest is evaluated one by one.

Columns are made when they are first asked for, so offers cost little until somebody looks for them.
"""

from __future__ import annotations

import operator
import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import compress, islice, repeat
from typing import Final

from golemp2p import limits
from golemp2p.core.constraints import (
    Always,
    And,
    Compare,
    Expression,
    Not,
    Or,
    Present,
    Terms,
    Ternary,
    evaluate,
    parse,
)
from golemp2p.core.ids import SubscriptionId
from golemp2p.core.properties import Properties, PropertyValue
from golemp2p.core.records import MarketRecord
from golemp2p.core.values import compare

_SPACE: Final = r"[ \t\r\n]*"
# One clause without aspect, hint and presence test, as the parser reads it.
_ATOM: Final = re.compile(
    rf"\({_SPACE}([^()=<>~$\[\]&|!\s](?:[^()=<>~$\[\]]*[^()=<>~$\[\]\s])?){_SPACE}(<=|>=|=|<|>)((?!\*)[^)]*)\)",
    re.ASCII,
)
_NO_SPACE: Final = str.maketrans("", "", " \t\r\n")
_NUMBER: Final = re.compile(
    r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?)", re.ASCII | re.IGNORECASE
)  # without nan, of which nothing is true either
_USUAL: Final[dict[str, Callable[[float, float], bool]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NUMBERS: Final = (int, float)
_Shape = tuple[tuple[str, ...], tuple[str, ...]]  # names and operators


@dataclass
class _Answers:
    """Of one clause: a verdict for each different value (0 undefined, 1 true, 2 false), and masks over the slots."""

    verdicts: bytearray
    masks: dict[bool, tuple[int, int]] = field(default_factory=dict)  # true, false -> (slots, mask)


class Column:
    """One property of all slots. Code 0: it is not there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._codes = array("I")
        self._code_of: dict[object, int] = {}
        self._values: list[PropertyValue] = []  # of code 1 and up
        self._answers: OrderedDict[tuple[str, str, str], _Answers] = OrderedDict()

    def extend(self, offers: list[Properties]) -> None:
        """Look at those that came since."""
        if len(offers) == len(self._codes):
            return
        name, code_of, values = self.name, self._code_of, self._values
        add = self._codes.append
        for value in [properties.get(name) for properties in islice(offers, len(self._codes), None)]:
            if value is None:
                add(0)
                continue
            # 1, 1.0 and True are equal and not the same; a list cannot be a key.
            key = (list, repr(value)) if isinstance(value, list) else (value.__class__, value)
            code = code_of.get(key)
            if code is None:
                values.append(value)
                code = code_of[key] = len(values)
            add(code)

    def present(self) -> int:
        """A byte per slot: 1 where it is there."""
        answers = self._known(("", "", ""))
        answers.verdicts.extend(b"\1" * (len(self._values) + 1 - len(answers.verdicts)))
        return self._mask(answers, verdict=True)

    def compared(self, op: str, text: str, hint: str, *, verdict: bool) -> int:
        """A byte per slot: 1 where ``value OP text`` is ``verdict``."""
        answers = self._known((op, text, hint))
        known = answers.verdicts
        number, usual = number_of(text), _USUAL[op]
        for value in islice(self._values, len(known) - 1, None):
            if not hint and value.__class__ in _NUMBERS:
                known.append(1 if usual(as_float(value), number) else 2)
            else:
                found = compare(value, op, text, hint)
                known.append(0 if found is None else 1 if found else 2)
        return self._mask(answers, verdict=verdict)

    def _known(self, key: tuple[str, str, str]) -> _Answers:
        answers = self._answers.get(key)
        if answers is None:
            answers = self._answers[key] = _Answers(bytearray(b"\0"))
        self._answers.move_to_end(key)
        while len(self._answers) > limits.MATCH_CLAUSES:
            self._answers.popitem(last=False)
        return answers

    def _mask(self, answers: _Answers, *, verdict: bool) -> int:
        slots, mask = answers.masks.get(verdict, (0, 0))
        if slots < len(self._codes):
            wanted = answers.verdicts.translate(_IS_TRUE if verdict else _IS_FALSE)
            more = bytes(map(wanted.__getitem__, islice(self._codes, slots, None)))
            mask |= int.from_bytes(more, "little") << (8 * slots)
            answers.masks[verdict] = len(self._codes), mask
        return mask


_IS_TRUE: Final = bytes([0, 1, 0]).ljust(256, b"\0")
_IS_FALSE: Final = bytes([0, 0, 1]).ljust(256, b"\0")


class _Texts:
    """The values of one clause of a shape, row by row, as text and as numbers."""

    def __init__(self) -> None:
        self._codes = array("I")
        self._code_of: dict[str, int] = {}
        self._numbers = array("d")  # nan: not a number, so every comparison is false

    def add(self, text: str) -> None:
        code = self._code_of.get(text)
        if code is None:
            code = self._code_of[text] = len(self._numbers)
            self._numbers.append(number_of(text))
        self._codes.append(code)

    def true_rows(self, value: PropertyValue, op: str) -> bytes:
        """For each row whether ``value OP text``."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            verdicts = bytes(map(_USUAL[op], repeat(as_float(value)), self._numbers))
        else:
            verdicts = bytes(compare(value, op, text) is True for text in self._code_of)
        if len(verdicts) == 1:
            return verdicts * len(self._codes)
        if len(verdicts) == len(self._codes):  # all different, so in their order
            return verdicts
        return bytes(map(verdicts.__getitem__, self._codes))


class _Rows:
    """The offers of one shape."""

    def __init__(self, shape: _Shape) -> None:
        self._slots = array("I")
        self._columns = [(name, op, _Texts()) for name, op in zip(*shape, strict=True)]

    def add(self, slot: int, texts: list[str]) -> None:
        self._slots.append(slot)
        for (_, _, column), text in zip(self._columns, texts, strict=True):
            column.add(text)

    def fitting(self, properties: Properties) -> int:
        """A byte per slot: 1 where the constraints are true of ``properties``."""
        rows = -1
        for name, op, column in self._columns:
            value = properties.get(name)
            if value is None:
                return 0  # undefined
            rows &= int.from_bytes(column.true_rows(value, op), "little")
            if not rows:
                return 0
        count = len(self._slots)
        if self._slots[-1] == count - 1:  # every slot up to here is of this shape
            return rows
        found = bytearray(self._slots[-1] + 1)
        for slot in compress(self._slots, rows.to_bytes(count, "little")):
            found[slot] = 1
        return int.from_bytes(found, "little")


class OfferIndex:
    """The book tells it what comes and goes. An offer that was renewed keeps its place."""

    def __init__(self) -> None:
        self._fresh: dict[SubscriptionId, MarketRecord] = {}  # those that have no slot yet
        self._slots: dict[SubscriptionId, int] = {}
        self._records: list[MarketRecord | None] = []
        self._offers: list[Properties] = []
        self._columns: OrderedDict[str, Column] = OrderedDict()
        self._shapes: dict[_Shape, _Rows] = {}
        self._odd: dict[str, list[int]] = {}  # by the text of their constraints
        self._subnets: dict[str, bytearray] = {}  # a byte per slot; shorter ones end in zeros

    def __len__(self) -> int:
        return len(self._slots) + len(self._fresh)

    def on_added(self, record: MarketRecord) -> None:
        """A new offer, or a newer version of one. Its content is not looked at before somebody asks."""
        slot = self._slots.get(record.id)
        known = None if slot is None else self._records[slot]
        if slot is not None and known is not None:
            if known.content == record.content and known.subnet == record.subnet:
                self._records[slot] = record
                return
            self.on_removed(record)
        self._fresh[record.id] = record

    def on_removed(self, record: MarketRecord) -> None:
        """Idempotent."""
        if self._fresh.pop(record.id, None) is not None:
            return
        slot = self._slots.pop(record.id, None)
        if slot is None:
            return
        known = self._records[slot]
        if known is not None:
            self._subnets[known.subnet][slot] = 0
        self._records[slot] = None
        self._offers[slot] = {}
        if len(self._records) > 2 * len(self._slots) + limits.MATCH_SPARE_SLOTS:
            self._rebuild()

    def _take_in(self) -> None:
        """Slots for those that came since. 5 microseconds each, when their content is decoded."""
        for record in self._fresh.values():
            slot = self._slots[record.id] = len(self._records)
            self._records.append(record)
            self._offers.append(record.properties)
            places = self._subnets.setdefault(record.subnet, bytearray())
            places.extend(bytes(slot - len(places)))
            places.append(1)
            self._place(slot, record.constraints)
        self._fresh.clear()

    def candidates(self, demand: Terms, *, now: float = 0.0, subnet: str | None = None) -> Iterator[MarketRecord]:
        """The offers that match, in the order in which they came; all that are here when the first is asked for.

        Raises ConstraintSyntaxError.
        """
        self._take_in()
        mask = self._true(parse(demand.constraints)) & self._inhabited(subnet)
        if not mask:
            return
        mask &= self._fitting(demand.properties, mask)
        # A list: the book may change while somebody looks at what comes.
        for record in list(compress(self._records, mask.to_bytes(len(self._records), "little"))):
            if record is not None and record.expires_at > now:
                yield record

    def _inhabited(self, subnet: str | None) -> int:
        if subnet is not None:
            return int.from_bytes(self._subnets.get(subnet, b""), "little")
        found = 0
        for places in self._subnets.values():
            found |= int.from_bytes(places, "little")
        return found

    # --- what the demand asks ---------------------------------------------------------------------------------------
    def _true(self, expression: Expression) -> int:
        match expression:
            case Compare(ref, op, value):
                return 0 if ref.aspect else self._column(ref.name).compared(op, value, ref.hint, verdict=True)
            case Present(ref):
                return 0 if ref.aspect else self._column(ref.name).present()
            case And(parts):
                result = self._all()
                for part in parts:
                    result &= self._true(part)
                    if not result:
                        break
                return result
            case Or(parts):
                result = 0
                for part in parts:
                    result |= self._true(part)
                return result
            case Not(part):
                return self._false(part)
            case Always():
                return self._all()

    def _false(self, expression: Expression) -> int:
        match expression:
            case Compare(ref, op, value):
                return 0 if ref.aspect else self._column(ref.name).compared(op, value, ref.hint, verdict=False)
            case Present():
                return self._all() & ~self._true(expression)
            case And(parts):
                result = 0
                for part in parts:
                    result |= self._false(part)
                return result
            case Or(parts):
                result = self._all()
                for part in parts:
                    result &= self._false(part)
                return result
            case Not(part):
                return self._true(part)
            case Always():
                return 0

    def _all(self) -> int:
        return int.from_bytes(b"\1" * len(self._records), "little")

    def _column(self, name: str) -> Column:
        column = self._columns.setdefault(name, Column(name))
        self._columns.move_to_end(name)
        while len(self._columns) > limits.MATCH_COLUMNS:
            self._columns.popitem(last=False)
        column.extend(self._offers)
        return column

    # --- what the offers ask ----------------------------------------------------------------------------------------
    def _fitting(self, properties: Properties, ours: int) -> int:
        """Where the offers' constraints are true of the demand; odd ones are asked only within ``ours``."""
        result = 0
        for rows in self._shapes.values():
            result |= rows.fitting(properties)
        if self._odd:
            wanted, found = ours.to_bytes(len(self._records), "little"), bytearray(len(self._records))
            for text, slots in self._odd.items():
                mine = [slot for slot in slots if wanted[slot]]
                if mine and evaluate(parse(text), properties) is Ternary.TRUE:
                    for slot in mine:
                        found[slot] = 1
            result |= int.from_bytes(found, "little")
        return result

    def _place(self, slot: int, text: str) -> None:
        """With those of its shape."""
        atoms = flat_atoms(text)
        rows = None
        if atoms is not None:
            shape = tuple(atoms[0]), tuple(atoms[1])
            rows = self._shapes.get(shape)
            if rows is None and len(self._shapes) < limits.MATCH_SHAPES:
                rows = self._shapes[shape] = _Rows(shape)
        if rows is None or atoms is None:
            self._odd.setdefault(text, []).append(slot)
        else:
            rows.add(slot, atoms[2])

    def _rebuild(self) -> None:
        """Without the empty slots."""
        records = [record for record in self._records if record is not None]
        self._slots.clear()
        self._records, self._offers = [], []
        self._columns.clear()
        self._shapes.clear()
        self._odd.clear()
        self._subnets.clear()
        self._fresh = {record.id: record for record in records} | self._fresh


def flat_atoms(text: str) -> tuple[list[str], list[str], list[str]] | None:
    """Names, operators and values of ``(&(name OP value)…)``; None for every other form. As the parser reads it."""
    if len(text) > limits.MATCH_FLAT_CHARS:
        return None
    parts = _ATOM.split(text)  # what is between, name, operator, value, what is between, …
    between = [part.translate(_NO_SPACE) for part in parts[::4]]
    if len(parts) == 1 or between[0] != "(&" or between[-1] != ")" or any(between[1:-1]):
        return None
    return parts[1::4], parts[2::4], parts[3::4]


def number_of(text: str) -> float:
    """The number that core.values compares numbers with; nan, of which nothing is true, for what is none."""
    return float(text) if _NUMBER.fullmatch(text) else float("nan")


def as_float(value: int | float) -> float:
    """As core.values: an integer beyond a double is infinite."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
