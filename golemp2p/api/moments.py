"""Moments between JSON and the services. Never through a float where clients send one back and want nothing twice."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import BeforeValidator

_UNESCAPED_PLUS: Final = re.compile(r" (?=\d\d:?\d\d$)")


def _repair(text: object) -> object:
    """A plus sign that was not escaped in a query arrives as a blank."""
    return _UNESCAPED_PLUS.sub("+", text) if isinstance(text, str) and "T" in text else text


Moment = Annotated[datetime, BeforeValidator(_repair)]
"""A time in a query."""


def moment_of(seconds: float) -> datetime:
    """Seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC)


def moment_of_us(microseconds: int) -> datetime:
    """Exact."""
    seconds, rest = divmod(microseconds, 10**6)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)


def seconds_of(moment: datetime | None) -> float | None:
    return None if moment is None else _in_utc(moment).timestamp()


def microseconds_of(moment: datetime | None) -> int:
    """Exact; 0 for none."""
    if moment is None:
        return 0
    whole = _in_utc(moment).replace(microsecond=0)
    return round(whole.timestamp()) * 10**6 + moment.microsecond


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
