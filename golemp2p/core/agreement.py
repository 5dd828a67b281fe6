"""Agreements: the states, what both sides sign, and what the other parts of the node read off one.

Theory of operation. The requestor makes an agreement of a provider's counter-proposal (PROPOSAL), confirms it (signs,
sends: PENDING); the provider's agent approves (both have signed: APPROVED) or rejects it. Until approval the requestor
may cancel, and the clock may expire it. An approved agreement ends only by termination, from either side.
Termination is a local, final fact that is delivered to the other side until acknowledged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from golemp2p.core.eip712 import Struct, Value, keccak256
from golemp2p.core.ids import Address, AgreementId, PeerId, SubscriptionId
from golemp2p.core.machine import Machine
from golemp2p.core.manifest import read_manifest
from golemp2p.core.peer import address_of
from golemp2p.core.properties import Properties, number
from golemp2p.errors import UsageError


class AgreementState(StrEnum):
    PROPOSAL = "Proposal"
    PENDING = "Pending"
    APPROVED = "Approved"
    REJECTED = "Rejected"
    CANCELLED = "Cancelled"
    EXPIRED = "Expired"
    TERMINATED = "Terminated"


class AgreementEvent(StrEnum):
    CONFIRM = "confirm"
    APPROVE = "approve"
    REJECT = "reject"
    CANCEL = "cancel"
    EXPIRE = "expire"
    TERMINATE = "terminate"


_S, _E = AgreementState, AgreementEvent
AGREEMENT: Final = Machine(
    "agreement",
    _S.PROPOSAL,
    {
        (_S.PROPOSAL, _E.CONFIRM): _S.PENDING,
        (_S.PROPOSAL, _E.CANCEL): _S.CANCELLED,
        (_S.PROPOSAL, _E.EXPIRE): _S.EXPIRED,
        (_S.PENDING, _E.APPROVE): _S.APPROVED,
        (_S.PENDING, _E.REJECT): _S.REJECTED,
        (_S.PENDING, _E.CANCEL): _S.CANCELLED,
        (_S.PENDING, _E.EXPIRE): _S.EXPIRED,
        (_S.APPROVED, _E.TERMINATE): _S.TERMINATED,
    },
)


class Role(StrEnum):
    """Which side of an agreement this node is."""

    REQUESTOR = "requestor"
    PROVIDER = "provider"


# What the demand is to be paid from; our decorations say it, so that the node can answer for an agent that is gone.
ALLOCATIONS: Final = "golem.!exp.golemp2p.allocations"
CHOSEN_PLATFORM: Final = "golem.com.payment.chosen-platform"
_PLATFORM: Final = re.compile(r"golem\.com\.payment\.platform\.([^.]+)\.address")


def platform_of(demand: Properties, offer: Properties) -> str | None:
    """The payment platform that the demand chooses; when it leaves that out, the only one that both sides name."""
    chosen = demand.get(CHOSEN_PLATFORM)
    if chosen is not None:
        return chosen if isinstance(chosen, str) else None
    common = [found[1] for name in demand.keys() & offer.keys() if (found := _PLATFORM.fullmatch(name))]
    return common[0] if len(common) == 1 else None


AGREEMENT_STRUCT: Final = Struct(
    "Agreement",
    (
        ("string", "id"),
        ("address", "requestor"),
        ("address", "provider"),
        ("bytes32", "content"),
        ("uint64", "createdAt"),
        ("uint64", "validTo"),
    ),
)


@dataclass(frozen=True)
class Agreement:
    """One agreement as this node sees it. ``content`` is the exact signed JSON (demand and offer); never re-encoded."""

    id: AgreementId
    role: Role
    requestor: PeerId
    provider: PeerId
    demand_id: SubscriptionId
    offer_id: SubscriptionId
    demand: Properties
    offer: Properties
    demand_constraints: str
    offer_constraints: str
    content: bytes
    created_at: float
    valid_to: float
    state: AgreementState
    requestor_signature: bytes = b""
    provider_signature: bytes = b""
    approved_at: float | None = None
    ended_at: float | None = None
    end_reason: Mapping[str, object] | None = None
    terminator: str | None = None
    session_id: str | None = None

    @property
    def counterpart(self) -> PeerId:
        return self.provider if self.role is Role.REQUESTOR else self.requestor

    @property
    def requestor_address(self) -> Address:
        return address_of(self.requestor)

    @property
    def provider_address(self) -> Address:
        return address_of(self.provider)

    def signed_message(self) -> dict[str, Value]:
        """The AGREEMENT_STRUCT message that both sides sign. Times are whole milliseconds."""
        return {
            "id": self.id,
            "requestor": self.requestor_address,
            "provider": self.provider_address,
            "content": keccak256(self.content),
            "createdAt": round(self.created_at * 1000),
            "validTo": round(self.valid_to * 1000),
        }

    @property
    def usage_vector(self) -> list[str]:
        """Names of the usage counters, in the order of the price coefficients."""
        value = self.offer.get("golem.com.usage.vector")
        return [str(name) for name in value] if isinstance(value, list) else []

    @property
    def price_coeffs(self) -> list[float]:
        """One price per usage counter, then the start price. Raises UsageError when the offer is not linear."""
        value = self.offer.get("golem.com.pricing.model.linear.coeffs")
        coeffs = [number(c) for c in value] if isinstance(value, list) else [None]
        if None in coeffs:
            raise UsageError(f"agreement {self.id} has no linear price")
        return [c for c in coeffs if c is not None]

    @property
    def expires_at(self) -> float:
        """When the work must be over (seconds since the epoch), by the demand; infinite when it does not say.

        ``valid_to`` is not that: it only limits the approval (golem-core sends now + 60 s and works for hours).
        """
        value = number(self.demand.get("golem.srv.comp.expiration"))
        return float("inf") if value is None else value / 1000

    @property
    def payment_platform(self) -> str | None:
        """The platform both sides chose, e.g. "erc20-local-tglm"; see :func:`platform_of`."""
        return platform_of(self.demand, self.offer)

    @property
    def allocations(self) -> list[str]:
        """Ids of the allocations that its demand names; empty when it names none."""
        value = self.demand.get(ALLOCATIONS)
        return value.split(",") if isinstance(value, str) else []

    @property
    def task_package(self) -> str | None:
        value = self.demand.get("golem.srv.comp.task_package")
        if value is None and (manifest := read_manifest(self.demand)) is not None:
            return manifest.package
        return value if isinstance(value, str) else None
