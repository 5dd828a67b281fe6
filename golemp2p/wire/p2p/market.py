"""Bodies of `/golemp2p/market/1` and of the market gossip topic (protocols/market.md)."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from golemp2p import limits
from golemp2p.core.ids import PeerId, SubscriptionId
from golemp2p.core.records import MarketRecord, RecordKind

PROTOCOL = "/golemp2p/market/1"

Id = Annotated[str, Field(min_length=1, max_length=160)]
Key = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # proposals (without R- or P-) and agreements


def checked_reason(value: dict[str, Any]) -> dict[str, Any]:
    """A reason is passed on to agents as JSON, so it must be some, of a bounded size."""
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f"the reason is no JSON: {exc}") from exc
    if size > limits.MAX_REASON_BYTES:
        raise ValueError(f"the reason has {size} bytes; at most {limits.MAX_REASON_BYTES}")
    return value


Reason = Annotated[dict[str, Any], AfterValidator(checked_reason)]


class Body(BaseModel):
    """Strict: unknown keys are refused, so that a change of the protocol is a new version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_wire(self) -> dict[str, Any]:
        return self.model_dump(mode="python", exclude_none=True)


class RecordBody(Body):
    kind: RecordKind
    id: Id
    issuer: Id
    subnet: Annotated[str, Field(min_length=1, max_length=limits.MAX_SUBNET_CHARS)]
    content: Annotated[bytes, Field(max_length=limits.MAX_RECORD_BYTES)]
    sequence: Annotated[int, Field(ge=0, lt=2**64)]
    issued_at: Annotated[int, Field(ge=0, lt=2**53)]  # milliseconds since the epoch
    expires_at: Annotated[int, Field(ge=0, lt=2**53)]
    signature: Annotated[bytes, Field(min_length=65, max_length=65)]

    @classmethod
    def of(cls, record: MarketRecord) -> RecordBody:
        return cls(
            kind=record.kind,
            id=record.id,
            issuer=record.issuer,
            subnet=record.subnet,
            content=record.content,
            sequence=record.sequence,
            issued_at=round(record.issued_at * 1000),
            expires_at=round(record.expires_at * 1000),
            signature=record.signature,
        )

    def record(self) -> MarketRecord:
        return MarketRecord(
            self.kind,
            SubscriptionId(self.id),
            PeerId(self.issuer),
            self.subnet,
            self.content,
            self.sequence,
            self.issued_at / 1000,
            self.expires_at / 1000,
            self.signature,
        )

    def to_wire(self) -> dict[str, Any]:
        return {**super().to_wire(), "kind": self.kind.value}


class RecordsBody(Body):
    """A gossip message, a push, or an answer to a pull. ``more`` says that another page follows ``after``."""

    records: Annotated[list[RecordBody], Field(max_length=limits.PULL_PAGE_RECORDS)]
    more: bool = False

    def to_wire(self) -> dict[str, Any]:
        return {"records": [r.to_wire() for r in self.records], "more": self.more}


class PullBody(Body):
    """Everything that you know after id ``after``; nothing when ``digest`` equals yours."""

    after: Annotated[str, Field(max_length=160)] = ""
    digest: Annotated[bytes, Field(max_length=16)] = b""


class CounterBody(Body):
    """A counter-proposal. ``previous`` is None for the first one, which answers the offer itself."""

    proposal: Key
    previous: Key | None = None
    demand: RecordBody | None = None  # with the first one, so that the provider need not have heard it by gossip
    demand_id: Id
    offer_id: Id
    content: Annotated[bytes, Field(max_length=limits.MAX_RECORD_BYTES)]

    def to_wire(self) -> dict[str, Any]:
        body = super().to_wire()
        if self.demand is not None:
            body["demand"] = self.demand.to_wire()
        return body


class RejectBody(Body):
    proposal: Key
    reason: Reason


class AgreementBody(Body):
    """The requestor's signed agreement. ``proposal`` is the provider's proposal that it was made of."""

    id: Key
    proposal: Key
    content: Annotated[bytes, Field(max_length=2 * limits.MAX_RECORD_BYTES)]
    created_at: Annotated[int, Field(ge=0, lt=2**53)]
    valid_to: Annotated[int, Field(ge=0, lt=2**53)]
    signature: Annotated[bytes, Field(min_length=65, max_length=65)]


class ApproveBody(Body):
    id: Key
    signature: Annotated[bytes, Field(min_length=65, max_length=65)]


class EndBody(Body):
    """Reject, cancel or terminate."""

    id: Key
    reason: Reason
