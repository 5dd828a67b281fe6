"""Common ground of the REST models."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer
from pydantic.alias_generators import to_camel


class RestModel(BaseModel):
    """camelCase in JSON, snake_case here. Unknown keys are ignored: golem-js sends some that yagna never reads."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    def to_json(self) -> dict[str, Any]:
        """As it goes over the wire; optional fields that are None are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ErrorBody(BaseModel):
    """Of every error. ``code`` is stable, for programs (golemp2p.errors)."""

    message: str
    code: str


def iso_time(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 UTC with microseconds and Z."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_iso_time(text: str) -> float:
    """The inverse; also takes offsets. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def _utc(moment: datetime) -> str:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Timestamp = Annotated[datetime, PlainSerializer(_utc, return_type=str, when_used="json")]
"""Any ISO 8601 time in, ``2026-11-22T01:02:03.456789Z`` out."""
