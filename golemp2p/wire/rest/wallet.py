"""Bodies of /golemp2p/v1/payment: what the owner of a node does with its account. Amounts are decimal strings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from golemp2p.wire.rest.base import RestModel, Timestamp

Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{8,100}$")]
NetworkName = Annotated[str, Field(max_length=80)]


class NewTransaction(RestModel):
    """``key`` is the caller's: asked for twice, it is sent once. ``network``: a network's or a platform's name."""

    key: Key
    network: NetworkName | None = None
    to: Annotated[str, Field(max_length=80)]
    amount: Annotated[str, Field(max_length=100)]


class NewMint(RestModel):
    key: Key
    network: NetworkName | None = None
    amount: Annotated[str, Field(max_length=100)] | None = None


class NewDeployment(RestModel):
    key: Key
    network: NetworkName | None = None
    contract: Literal["batch", "channels"]


class Deployment(RestModel):
    """``configured``: the settings name it; else the address is where it is, or would be, deployed."""

    contract: Literal["batch", "channels"]
    address: str
    deployed: bool
    configured: bool


class Settle(RestModel):
    network: NetworkName | None = None


class Leg(RestModel):
    payee: str
    amount: str
    agreements: list[str]


class PlannedTransaction(RestModel):
    """What would be sent. ``fees`` are gwei per gas; ``maxCost`` is in the chain's own coin, at most."""

    platform: str
    mode: str
    nonce: int
    sender: str
    to: str
    call: str
    data: str
    value: str
    legs: list[Leg]
    amount: str
    symbol: str
    gas: int
    max_fee_gwei: float
    tip_gwei: float
    max_cost: str
    coin: str


class OwnTransaction(RestModel):
    """``state``: waiting, sent, final, failed."""

    id: str
    platform: str
    what: str
    to: str
    amount: str
    state: str
    transaction: str | None = None
    explorer: str | None = None
    problem: str | None = None
    timestamp: Timestamp


class Movement(RestModel):
    """``fee`` is of the whole transaction, which may have paid others too; absent when it is not ours."""

    id: str
    timestamp: Timestamp
    what: str
    direction: str
    platform: str
    amount: str
    other: str | None = None
    transaction: str | None = None
    explorer: str | None = None
    state: str
    problem: str | None = None
    fee: str | None = None
    agreements: list[str]


class Endpoint(RestModel):
    """``host`` without the rest of its URL, which may hold a key."""

    host: str
    healthy: bool
    problem: str | None = None
    latency_ms: float
    head: int


class PaymentNetwork(RestModel):
    platform: str
    network: str
    chain_id: int
    address: str
    token: str
    symbol: str
    coin: str
    endpoints: list[Endpoint]
    quorum: int
    confirmations: int
    finality: str
    contracts: dict[str, str]
    cycle: dict[str, Any]
    max_fee_gwei: float
    faucet_hint: str | None = None
    explorer: str | None = None


class OverdueBill(RestModel):
    kind: str
    document_id: str
    agreement_id: str
    platform: str
    payer: str
    amount: str
    due: Timestamp


class SlotStatus(RestModel):
    """A transaction under way; ``versions``: how many bids were made for its nonce."""

    nonce: int
    mode: str
    state: str
    amount: str
    payee: str | None = None
    transaction: str
    versions: int
    max_fee_gwei: float
    since: Timestamp


class SettlementStatus(RestModel):
    """``owed``: accepted and not finally paid; of that ``waiting`` is in no transaction yet, and ``rolledOver`` is too
    little to be paid by itself. ``nextAt``: when what waits goes out at the latest."""

    platform: str
    owed: str
    waiting: str
    rolled_over: str
    next_at: Timestamp | None = None
    orders: int
    in_flight: int
    transactions: list[SlotStatus]
    spent_today: str
    cap_per_day: str | None = None
    cap_per_agreement: str | None = None
    problem: str | None = None
    endpoints: list[Endpoint]
    overdue: list[OverdueBill]
