"""Proposals: one step of a negotiation, seen from one side.

Theory of operation. A match makes an INITIAL proposal (the offer's terms) for the requestor. A side answers the other
side's proposal with a counter-proposal (DRAFT); an answered proposal is COUNTERED for good, so each can be countered
once. The requestor makes an agreement of a DRAFT by the provider: ACCEPTED. Clients see COUNTERED as Draft.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from golemp2p.core.constraints import Terms
from golemp2p.core.ids import PeerId, ProposalId, SubscriptionId
from golemp2p.core.machine import Machine


class ProposalState(StrEnum):
    INITIAL = "Initial"
    DRAFT = "Draft"
    COUNTERED_INITIAL = "CounteredInitial"
    COUNTERED = "Countered"
    REJECTED = "Rejected"
    ACCEPTED = "Accepted"
    EXPIRED = "Expired"

    @property
    def shown(self) -> str:
        """The state in REST: yagna has no name for "answered"."""
        return {"CounteredInitial": "Initial", "Countered": "Draft"}.get(self.value, self.value)


class ProposalEvent(StrEnum):
    COUNTER = "counter"
    REJECT = "reject"
    ACCEPT = "accept"
    EXPIRE = "expire"


_S, _E = ProposalState, ProposalEvent
PROPOSAL: Final = Machine(
    "proposal",
    _S.INITIAL,
    {
        (_S.INITIAL, _E.COUNTER): _S.COUNTERED_INITIAL,
        (_S.INITIAL, _E.REJECT): _S.REJECTED,
        (_S.INITIAL, _E.EXPIRE): _S.EXPIRED,
        (_S.DRAFT, _E.COUNTER): _S.COUNTERED,
        (_S.DRAFT, _E.REJECT): _S.REJECTED,
        (_S.DRAFT, _E.ACCEPT): _S.ACCEPTED,
        (_S.DRAFT, _E.EXPIRE): _S.EXPIRED,
        (_S.REJECTED, _E.COUNTER): _S.COUNTERED,  # who rejected it thought better of it
    },
)


@dataclass(frozen=True)
class Proposal:
    """``ours`` tells who issued it. ``key`` is the id without the viewer's prefix: the same on both nodes."""

    id: ProposalId
    subscription: SubscriptionId  # our demand or offer
    counterpart: SubscriptionId  # theirs
    peer: PeerId
    ours: bool
    terms: Terms
    state: ProposalState
    timestamp: float
    previous: ProposalId | None = None
    reason: str | None = None

    @property
    def key(self) -> str:
        return self.id[2:]

    def after(self, event: ProposalEvent, *, reason: str | None = None) -> Proposal:
        """Raises ImpossibleEventError."""
        return replace(self, state=PROPOSAL.next(self.state, event), reason=reason or self.reason)
