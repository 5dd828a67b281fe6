"""market-api bodies (yagna-rest §1.2)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from golemp2p.core.properties import Properties
from golemp2p.wire.rest.base import RestModel, Timestamp


class Terms(RestModel):
    """POST /demands, /offers and counter-proposals. Properties may be nested; the node flattens them."""

    properties: dict[str, Any]
    constraints: str


class Demand(RestModel):
    properties: Properties
    constraints: str
    demand_id: str
    requestor_id: str
    timestamp: Timestamp


class Offer(RestModel):
    properties: Properties
    constraints: str
    offer_id: str
    provider_id: str
    timestamp: Timestamp


class KnownOffer(Offer):
    """``heard``: when this node first heard of it."""

    heard: Timestamp


class Proposal(RestModel):
    properties: Properties
    constraints: str
    proposal_id: str
    issuer_id: str
    state: str
    timestamp: Timestamp
    prev_proposal_id: str | None = None


class AgreementRequest(RestModel):
    proposal_id: str
    valid_to: Timestamp


class Agreement(RestModel):
    agreement_id: str
    demand: Demand
    offer: Offer
    valid_to: Timestamp
    state: str
    timestamp: Timestamp
    approved_date: Timestamp | None = None
    app_session_id: str | None = None
    proposed_signature: str | None = None
    approved_signature: str | None = None
    committed_signature: str | None = None


class AgreementEntry(RestModel):
    """One line of GET /agreements; ``state`` is golemp2p's."""

    id: str
    timestamp: Timestamp
    approved_date: Timestamp | None = None
    role: str
    state: str


class Reason(BaseModel):
    """Why something ended: ``message``, and whatever else the sender put in."""

    model_config = ConfigDict(extra="allow")

    message: str


class NewScan(RestModel):
    """``timeout``: seconds without a reader after which the scan ends."""

    type: Literal["offer", "demand"]
    constraints: str | None = None
    timeout: Annotated[float, Field(allow_inf_nan=False)] | None = None


class MarketEvent(RestModel):
    """ProposalEvent, ProposalRejectedEvent or AgreementEvent (provider side)."""

    event_type: str
    event_date: Timestamp
    proposal: Proposal | None = None
    proposal_id: str | None = None
    reason: dict[str, Any] | None = None
    agreement: Agreement | None = None


class AgreementOperationEvent(RestModel):
    event_type: str
    event_date: Timestamp
    agreement_id: str
    terminator: str | None = None
    signature: str | None = None
    reason: dict[str, Any] | None = None
