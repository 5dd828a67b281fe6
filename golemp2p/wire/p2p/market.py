"""Bodies of `/golemp2p/market/1` and of the market gossip topic (protocols/market.md)."""

from __future__ import annotations

import json
from dataclasses import replace
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


class RenewalBody(Body):
    """A later life of a record that the reader has: what changed of it. The signature is that of the whole record."""

    id: Id
    sequence: Annotated[int, Field(ge=0, lt=2**64)]
    issued_at: Annotated[int, Field(ge=0, lt=2**53)]
    expires_at: Annotated[int, Field(ge=0, lt=2**53)]
    signature: Annotated[bytes, Field(min_length=65, max_length=65)]

    @classmethod
    def of(cls, record: MarketRecord) -> RenewalBody:
        return cls(
            id=record.id,
            sequence=record.sequence,
            issued_at=round(record.issued_at * 1000),
            expires_at=round(record.expires_at * 1000),
            signature=record.signature,
        )

    def record(self, known: MarketRecord) -> MarketRecord:
        return replace(
            known,
            sequence=self.sequence,
            issued_at=self.issued_at / 1000,
            expires_at=self.expires_at / 1000,
            signature=self.signature,
        )


class RecordsBody(Body):
    """A push, or an answer to a pull or fetch. ``more`` says that another page follows."""

    records: Annotated[list[RecordBody], Field(max_length=limits.PULL_PAGE_RECORDS)]
    more: bool = False

    def to_wire(self) -> dict[str, Any]:
        return {"records": [r.to_wire() for r in self.records], "more": self.more}


class GossipBody(Body):
    """A gossip message."""

    records: Annotated[list[RecordBody], Field(max_length=limits.GOSSIP_RECORDS)]
    renewals: Annotated[list[RenewalBody], Field(max_length=limits.GOSSIP_RECORDS)] = []

    def to_wire(self) -> dict[str, Any]:
        renewals = {"renewals": [r.to_wire() for r in self.renewals]} if self.renewals else {}
        return {"records": [r.to_wire() for r in self.records], **renewals}


class PullBody(Body):
    """Everything that you know after id ``after``: for who knows nothing yet."""

    after: Annotated[str, Field(max_length=160)] = ""


class CompareBody(Body):
    """The caller's buckets (market.md); the answer are the entries of those that differ."""

    buckets: Annotated[bytes, Field(min_length=2048, max_length=2048)]


class EntriesBody(Body):
    """24 bytes each: a record's key and its sequence, big-endian."""

    entries: Annotated[bytes, Field(max_length=24 * limits.COMPARE_ENTRIES)]


class FetchBody(Body):
    """Records by key, 16 bytes each; the answer is a RecordsBody with those that are there."""

    keys: Annotated[bytes, Field(min_length=16, max_length=16 * limits.PULL_PAGE_RECORDS)]


class OffersBody(Body):
    """Your own live offers in ``subnet`` of this runtime (rendezvous)."""

    subnet: Annotated[str, Field(min_length=1, max_length=limits.MAX_SUBNET_CHARS)]
    runtime: Annotated[str, Field(min_length=1, max_length=limits.MAX_SUBNET_CHARS)]


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
