"""Comparing one property value with the text of a constraint. The property's type decides how.

Strings shaped ``d"…"``, ``v"…"``, ``t"…"`` are decimals, semantic versions and RFC 3339 times; a type hint in the
constraint (``$d``, ``$v``, ``$t``) turns a plain string into one. Text that does not parse as the property's type
compares as false; a hint that does not fit the property makes the comparison undefined (None).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from semver import Version

from golemp2p.core.properties import PropertyValue, Scalar

_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NUMBER: Final = re.compile(
    r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?|nan)", re.ASCII | re.IGNORECASE
)
_DECIMAL: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LITERAL: Final = re.compile(r'([dvt])"([^"]*)"')


def compare(value: PropertyValue, op: str, text: str, hint: str = "") -> bool | None:
    """Whether ``value OP text``; None when ``hint`` cannot be applied to the value."""
    if isinstance(value, list):
        if hint:
            return None
        return _list_equals(value, text) if op == "=" else False
    return _compare_scalar(value, op, text, hint)


def _compare_scalar(value: Scalar, op: str, text: str, hint: str) -> bool | None:
    if isinstance(value, str):
        literal = _LITERAL.fullmatch(value)
        kind = literal[1] if literal else ""
        if hint and kind and hint != kind:
            return None
        if hint or kind:
            typed = _parse(hint or kind, literal[2] if literal else value)
            if typed is None:  # a string that only looks like a literal stays a string
                return None if hint else _compare_text(value, op, text)
            other = _parse(hint or kind, text)
            return other is not None and _OPERATORS[op](typed, other)
        return _compare_text(value, op, text)
    if hint:
        return None
    if isinstance(value, bool):
        return op == "=" and text == ("true" if value else "false")
    return _NUMBER.fullmatch(text) is not None and _OPERATORS[op](_as_float(value), float(text))


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond a double compares as infinite
        return float("inf") if value > 0 else float("-inf")


def _compare_text(value: str, op: str, text: str) -> bool:
    if op == "=" and "*" in text:
        return _wildcard(text, value)
    return _OPERATORS[op](value, text)


def _wildcard(pattern: str, text: str) -> bool:
    """``*`` stands for any text. Linear in both lengths: each piece is found once, leftmost."""
    first, *middle, last = pattern.split("*")
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    position, end = len(first), len(text) - len(last)
    for piece in middle:
        found = text.find(piece, position, end)
        if found < 0:
            return False
        position = found + len(piece)
    return True


@lru_cache(maxsize=4096)  # a list of versions against many clauses would parse each again and again
def _parse(kind: str, text: str) -> Decimal | Version | datetime | None:
    match kind:
        case "d":
            return Decimal(text) if _DECIMAL.fullmatch(text) else None
        case "v":
            return Version.parse(text) if Version.is_valid(text) else None
        case _:
            return _parse_time(text)


def _parse_time(text: str) -> datetime | None:
    parts = _TIME.fullmatch(text)
    if parts is None:
        return None
    day, clock, fraction, zone = parts.groups()
    try:
        return datetime.fromisoformat(f"{day}T{clock}{(fraction or '.0')[:7]}{zone.upper()}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _list_equals(items: list[Scalar], text: str) -> bool:
    """``[a,b]``: same length and every element found; any other text: membership."""
    wanted = _parse_list(text)
    if wanted is None:
        return _contains(items, text)
    return len(wanted) == len(items) and all(_contains(items, element) for element in dict.fromkeys(wanted))


def _contains(items: list[Scalar], text: str) -> bool:
    return any(_compare_scalar(item, "=", text, "") for item in items)


def _parse_list(text: str) -> list[str] | None:
    if not (text.startswith("[") and text.endswith("]")) or "[" in text[1:] or "]" in text[:-1]:
        return None
    inner = text[1:-1]
    return [element.strip(" \t\r\n") for element in inner.split(",")] if inner.strip(" \t\r\n") else []
