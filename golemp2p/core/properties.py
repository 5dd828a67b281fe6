"""Flat properties of offers and demands: dotted name -> string, number, bool or list.

Agents may send nested JSON; it is flattened by dots. Numbers keep their JSON type: 0.0 stays a float on every hop,
because yapapi drops offers whose price coefficients decayed to integers.
Source: protocols/market.md; yagna's market-api.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from golemp2p import limits
from golemp2p.errors import UsageError

Scalar = str | int | float | bool
PropertyValue = Scalar | list[Scalar]
Properties = dict[str, PropertyValue]

MAX_WHOLE = 2**63  # as many readers hold no more, and a float of it is still finite
_FORBIDDEN = frozenset("=<>~\t\r\n\0")


def flatten(raw: Mapping[str, object]) -> Properties:
    """Nested JSON to flat properties. Raises UsageError naming the property that is wrong."""
    flat: Properties = {}

    def walk(prefix: str, value: object, depth: int) -> None:
        if depth > limits.MAX_CONSTRAINT_DEPTH:
            raise UsageError(
                f"property {prefix[:80]!r}… is nested too deep", hint=f"limit {limits.MAX_CONSTRAINT_DEPTH}"
            )
        if len(prefix) > limits.MAX_PROPERTY_NAME_CHARS:
            raise UsageError(
                f"property name {prefix[:80]!r}… is too long",
                hint=f"at most {limits.MAX_PROPERTY_NAME_CHARS} characters",
            )
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise UsageError(f"property name {key!r} is not a string")
                walk(f"{prefix}.{key}" if prefix else key, inner, depth + 1)
        else:
            _add(flat, prefix, value)

    walk("", raw, 0)
    return flat


def _add(flat: Properties, name: str, value: object) -> None:
    if not name or _FORBIDDEN & set(name) or not is_text(name):
        raise UsageError(
            f"property name {name[:80]!r} is not allowed", hint="text without line breaks and none of = < > ~ in names"
        )
    if name in flat:
        raise UsageError(f"property {name!r} is given twice")
    if len(flat) >= limits.MAX_PROPERTIES:
        raise UsageError(f"more than {limits.MAX_PROPERTIES} properties")
    if isinstance(value, list):
        if len(value) > limits.MAX_LIST_ITEMS:
            raise UsageError(f"property {name!r} lists {len(value)} items", hint=f"at most {limits.MAX_LIST_ITEMS}")
        flat[name] = [_scalar(name, item) for item in value]
    elif value is not None:  # null means absent, as in yagna
        flat[name] = _scalar(name, value)


def _scalar(name: str, value: object) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"property {name!r} is {value}, not a finite number")
    if isinstance(value, int) and not -MAX_WHOLE <= value < MAX_WHOLE:
        raise UsageError(f"property {name!r} is a whole number beyond 64 bits", hint="write it as text")
    if isinstance(value, str) and not is_text(value):
        raise UsageError(f"property {name!r} holds half of a surrogate pair, which is no text")
    if isinstance(value, str | int | float | bool):
        return value
    raise UsageError(
        f"property {name!r} has a value of type {type(value).__name__}", hint="string, number, bool or list"
    )


def number(value: object) -> float | None:
    """``value`` as a finite float; None for everything else, booleans and numbers beyond a double among it."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def is_text(value: str) -> bool:
    """Whether ``value`` can be written as UTF-8: JSON may spell lone surrogates, which nothing can pass on."""
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def encode(document: Mapping[str, object]) -> bytes:
    """Compact JSON bytes with sorted keys: what is signed and sent, byte for byte. Raises UsageError when too large."""
    data = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    if len(data) > limits.MAX_PROPERTIES_BYTES + limits.MAX_CONSTRAINTS_BYTES:
        raise UsageError(f"the document has {len(data)} bytes", hint=f"at most {limits.MAX_PROPERTIES_BYTES}")
    return data
