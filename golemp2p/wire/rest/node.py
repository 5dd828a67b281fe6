"""Bodies of golemp2p's own calls, /golemp2p/v1 (protocols/rest/README.md)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from golemp2p.core.properties import Properties
from golemp2p.wire.rest.base import RestModel, Timestamp
from golemp2p.wire.rest.market import Agreement

# golem-js refuses to talk to a yagna older than 0.15.2; this is the version whose API we serve.
YAGNA_VERSION: Final = "0.17.3"


class Identity(RestModel):
    """``name`` is that of the app-key; ``role`` is yagna's word, always "manager"."""

    identity: str
    name: str
    role: str


class Release(RestModel):
    version: str
    name: str
    seen: bool
    release_ts: str
    insertion_ts: str
    update_ts: str


class Version(RestModel):
    """``current.version`` is that of the API we serve; there never is a ``pending`` release."""

    current: Release
    pending: Release | None


class Health(RestModel):
    status: str
    peers: int


class Reachability(RestModel):
    """How others get to this node. ``advice`` is empty when nothing needs to be done."""

    reach: Literal["unknown", "public", "relayed", "unreachable"]
    reason: str
    advice: str
    relays: list[str]


class Status(RestModel):
    version: str
    peer_id: str
    address: str
    addresses: list[str]
    rest_url: str
    network: str
    subnet: str
    uptime_s: float
    peers: int
    reachability: Reachability
    offers: int
    demands: int
    own_offers: int
    own_demands: int
    activities: int
    payment_platforms: list[str]
    journal_problem: str | None = None  # what is wrong with the journal of money; nothing, as a rule


class Asked(RestModel):
    """``held``: how many of our offers that peer holds; ``problem``: why it could not say."""

    peer_id: str
    held: int
    problem: str


class SelfTest(RestModel):
    """``seen``: everybody who could say holds all of our offers."""

    reachability: Reachability
    own_offers: int
    asked: list[Asked]
    seen: bool


class Peer(RestModel):
    peer_id: str
    addresses: list[str]
    connected: bool
    direction: str
    relayed: bool = False
    round_trip_ms: float | None = None


class RuntimeInfo(RestModel):
    """``properties``: those of the offer that describe the runtime. ``works`` is null until it was tried."""

    id: str
    name: str
    version: str
    properties: Properties
    works: bool | None = None
    reason: str = ""
    hint: str = ""
    measured: dict[str, float] = Field(default_factory=dict)


class DemandTerms(RestModel):
    """A demand that is not published, or (``demand_id``) one of this node's own."""

    properties: dict[str, Any] = Field(default_factory=dict)
    constraints: str = "()"
    demand_id: str | None = None


class LastAttempt(RestModel):
    """What became of the last attempt at an offer; ``code`` is the provider's own, or of our error."""

    at: Timestamp
    cause: str
    code: str
    message: str


class OfferVerdict(RestModel):
    """Why an offer matches a demand or not; clauses are of the side that has them.

    ``cause``: runtime, subnet, isolation, capacity, price, payment, clause, provider-rule, unreachable, refused,
    withdrawn or none; ``has``: what the other side says where a clause fails; ``price_per_hour``: GLM, of one busy
    thread.
    """

    offer_id: str
    provider_id: str
    provider_name: str
    result: str
    demand_clauses: list[str]
    offer_clauses: list[str]
    unresolved: list[str]
    cause: str = "none"
    has: list[str] = Field(default_factory=list)
    last_attempt: LastAttempt | None = None
    price_per_hour: float | None = None


class NewAppKey(RestModel):
    name: Annotated[str, Field(min_length=1, max_length=80)]
    origins: list[str] = Field(default_factory=list)


class CreatedAppKey(RestModel):
    name: str
    key: str


class AppKey(RestModel):
    """``key`` is shown to the node's own commands only."""

    name: str
    key: str | None = None
    id: str
    role: str
    origins: list[str]


class AgreementProof(RestModel):
    """An agreement with the exact signed ``content`` and both signatures, to check offline (protocols/signing.md)."""

    agreement: Agreement
    role: str
    requestor: str
    provider: str
    content: str
    created_at_ms: int
    valid_to_ms: int
    network: str
    chain_id: int
    requestor_signature: str
    provider_signature: str
    verified: dict[str, bool]
    end_reason: dict[str, Any] | None
