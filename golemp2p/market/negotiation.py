"""Proposals and counter-proposals: the in-memory half of negotiation. What binds (agreements) is in agreements.py.

Both nodes name a proposal by the same 64 hex digits; the prefix is the viewer's side (R- requestor, P- provider).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import structlog

from golemp2p import limits
from golemp2p.core.constraints import Terms, Ternary, explain, match, parse
from golemp2p.core.ids import PeerId, ProposalId, SubscriptionId, new_proposal_id
from golemp2p.core.properties import Properties
from golemp2p.core.proposal import Proposal, ProposalEvent, ProposalState
from golemp2p.core.records import MarketRecord, RecordKind, decode_terms, encode_terms
from golemp2p.errors import (
    ConflictError,
    GolemError,
    GoneError,
    NetworkError,
    NotFoundError,
    PolicyError,
    RemoteProtocolError,
    UsageError,
)
from golemp2p.market.book import OrderBook
from golemp2p.market.outcomes import Outcomes
from golemp2p.market.subscriptions import ProposalReceived, ProposalRejected, Subscription, Subscriptions
from golemp2p.market.sync import RecordSync
from golemp2p.net.rpc import Rpc
from golemp2p.wire.p2p.market import PROTOCOL, CounterBody, RecordBody, RejectBody

log = structlog.get_logger("golemp2p.market")

_GONE_HINT: Final = "proposals end with their offer, or after an hour"
_FINISHED: Final = frozenset(
    {
        ProposalState.COUNTERED_INITIAL,
        ProposalState.COUNTERED,
        ProposalState.REJECTED,
        ProposalState.ACCEPTED,
        ProposalState.EXPIRED,
    }
)


class Negotiation:
    def __init__(
        self,
        book: OrderBook,
        subscriptions: Subscriptions,
        sync: RecordSync,
        rpc: Rpc,
        me: PeerId,
        clock: Callable[[], float],
    ) -> None:
        self._book = book
        self._subscriptions = subscriptions
        self._sync = sync
        self._rpc = rpc
        self._me = me
        self._clock = clock
        self.outcomes = Outcomes(clock)
        self._proposals: dict[ProposalId, Proposal] = {}
        self._of_peer: dict[PeerId, dict[ProposalId, None]] = {}  # made by countering, oldest first
        self._offered: dict[SubscriptionId, set[SubscriptionId]] = {}  # demand -> offers with a proposal out

    # --- matching ---

    def match_demand(self, demand: Subscription) -> None:
        """Initial proposals of every known offer for a new own demand."""
        record = demand.record
        for offer in self._book.offers.candidates(record.terms, now=self._clock(), subnet=record.subnet):
            self.match_pair(demand, offer, matched=True)

    def match_offer(self, offer: MarketRecord) -> None:
        """Initial proposals of a new offer for every own demand."""
        for demand in self._subscriptions.all(RecordKind.DEMAND):
            if demand.record.subnet == offer.subnet:
                self.match_pair(demand, offer)

    def match_pair(
        self, demand: Subscription, offer: MarketRecord, *, again: bool = False, matched: bool = False
    ) -> None:
        """``again``: the pair may start over, since its last negotiation came to an end; ``matched``: it is known to
        match."""
        offered = self._offered.setdefault(demand.id, set())
        if offer.issuer == self._me or (offer.id in offered and not again):
            return
        if not matched and match(demand.record.terms, offer.terms) is not Ternary.TRUE:
            return
        offered.add(offer.id)
        proposal = Proposal(
            new_proposal_id("R"),
            demand.id,
            offer.id,
            offer.issuer,
            ours=False,
            terms=offer.terms,
            state=ProposalState.INITIAL,
            timestamp=self._clock(),
        )
        self._put(proposal)
        demand.events.put(ProposalReceived(proposal, self._clock()))

    def count_matched(self, demand_id: SubscriptionId) -> int:
        """Offers that were proposed for this own demand."""
        return len(self._offered.get(demand_id, ()))

    def forget_offer(self, offer_id: SubscriptionId) -> None:
        """The offer was withdrawn: its unanswered initial proposals lead nowhere."""
        affected = [offers for offers in self._offered.values() if offer_id in offers]
        if not affected:
            return
        for offers in affected:
            offers.discard(offer_id)
        for proposal in list(self._proposals.values()):
            if proposal.counterpart == offer_id and proposal.state is ProposalState.INITIAL:
                self._put(proposal.after(ProposalEvent.EXPIRE))

    def start_over(self, demand_id: SubscriptionId, offer_id: SubscriptionId) -> None:
        """A negotiation ended without a contract; let the pair find each other again while both are live."""
        demand = self._subscriptions.find(demand_id)
        offer = self._book.get(offer_id, self._clock())
        if demand is not None and offer is not None and demand.record.kind is RecordKind.DEMAND:
            self.match_pair(demand, offer, again=True)

    # --- looking things up ---

    def get(self, subscription_id: SubscriptionId, proposal_id: ProposalId) -> Proposal:
        """Raises NotFoundError."""
        proposal = self._proposals.get(proposal_id)
        if proposal is None or proposal.subscription != subscription_id:
            raise NotFoundError(f"proposal {proposal_id} of {subscription_id} is unknown", hint=_GONE_HINT)
        return proposal

    def find(self, proposal_id: ProposalId) -> Proposal:
        proposal = self._proposals.get(proposal_id)
        if proposal is None:
            raise NotFoundError(f"proposal {proposal_id} is unknown", hint=_GONE_HINT)
        return proposal

    def find_key(self, key: str, peer: PeerId) -> Proposal:
        """A proposal by its prefix-less id, as the peer names it. Raises NotFoundError."""
        for side in ("P", "R"):
            proposal = self._proposals.get(ProposalId(f"{side}-{key}"))
            if proposal is not None and proposal.peer == peer:
                return proposal
        raise NotFoundError(f"proposal {key[:80]} is unknown here")

    def _put(self, proposal: Proposal) -> None:
        self._proposals[proposal.id] = proposal
        if proposal.state is not ProposalState.INITIAL and proposal.state is not ProposalState.COUNTERED_INITIAL:
            self._of_peer.setdefault(proposal.peer, {}).setdefault(proposal.id)
        if len(self._proposals) > limits.MAX_PROPOSALS:
            finished = [p.id for p in self._proposals.values() if p.state in _FINISHED]
            for old in (finished or list(self._proposals))[: limits.MAX_PROPOSALS // 10]:
                self._drop(old)

    def _drop(self, proposal_id: ProposalId) -> None:
        proposal = self._proposals.pop(proposal_id, None)
        if proposal is not None and (of_peer := self._of_peer.get(proposal.peer)) is not None:
            of_peer.pop(proposal_id, None)
            if not of_peer:
                del self._of_peer[proposal.peer]

    def _make_room(self, peer: PeerId) -> None:
        """One peer may fill its own share only. Raises PolicyError."""
        of_peer = self._of_peer.get(peer, {})
        if len(of_peer) < limits.MAX_PROPOSALS_PER_PEER:
            return
        finished = [i for i in of_peer if self._proposals[i].state in _FINISHED]
        if not finished:
            raise PolicyError(
                f"{len(of_peer)} proposals with you are open", hint=f"at most {limits.MAX_PROPOSALS_PER_PEER}"
            )
        for old in finished[: limits.MAX_PROPOSALS_PER_PEER // 10]:
            self._drop(old)

    def forget_subscription(self, subscription_id: SubscriptionId) -> None:
        """A provider's answers stay for PROPOSAL_TTL_S: golem-js makes agreements of them when its demand has ended."""
        for proposal in [p for p in self._proposals.values() if p.subscription == subscription_id]:
            initial = proposal.state in (ProposalState.INITIAL, ProposalState.COUNTERED_INITIAL)
            if initial or not proposal.id.startswith("R-"):
                self._drop(proposal.id)
        self._offered.pop(subscription_id, None)

    def forget_old(self, now: float) -> None:
        """Drop what nobody went on with; an initial proposal lives as long as its offer and demand do."""
        for proposal in list(self._proposals.values()):
            if proposal.state is not ProposalState.INITIAL and proposal.timestamp < now - limits.PROPOSAL_TTL_S:
                self._drop(proposal.id)

    # --- what agents do ---

    async def counter(
        self,
        kind: RecordKind,
        subscription_id: SubscriptionId,
        proposal_id: ProposalId,
        properties: Properties,
        constraints: str,
    ) -> ProposalId:
        """Answer the other side's proposal with our terms. ``kind`` is that of our subscription.

        Raises UsageError (own proposal, no match: says which clause), GoneError (answered before), NetworkError.
        """
        subscription = self._subscriptions.get(subscription_id, kind)
        theirs = self.get(subscription_id, proposal_id)
        if theirs.ours:
            raise UsageError(f"proposal {proposal_id} is your own", hint="counter the other side's proposal")
        if theirs.state not in (ProposalState.INITIAL, ProposalState.DRAFT, ProposalState.REJECTED):
            raise GoneError(f"proposal {proposal_id} is {theirs.state.shown} and answered already")
        content = encode_terms(properties, constraints)
        self._make_room(theirs.peer)
        terms = Terms(properties, constraints)
        _require_match(kind, ours=terms, theirs=theirs.terms)
        side = "R" if kind is RecordKind.DEMAND else "P"
        ours = Proposal(
            new_proposal_id(side),
            subscription_id,
            theirs.counterpart,
            theirs.peer,
            ours=True,
            terms=terms,
            state=ProposalState.DRAFT,
            timestamp=self._clock(),
            previous=theirs.id,
        )
        first = kind is RecordKind.DEMAND and theirs.previous is None  # the offer's own terms
        demand_id, offer_id = (
            (subscription_id, theirs.counterpart) if side == "R" else (theirs.counterpart, subscription_id)
        )
        body = CounterBody(
            proposal=ours.key,
            previous=None if first else theirs.key,
            demand=RecordBody.of(subscription.record) if first else None,
            demand_id=demand_id,
            offer_id=offer_id,
            content=content,
        )
        # Answered before it is sent, so that a second counter cannot slip in while we wait.
        self._put(theirs.after(ProposalEvent.COUNTER))
        self._put(ours)
        try:
            await self._rpc.call(
                theirs.peer, PROTOCOL, "counter", body.to_wire(), timeout_s=limits.MARKET_RPC_TIMEOUT_S
            )
        except BaseException as exc:
            now = self._proposals.get(ours.id)
            if isinstance(exc, NetworkError) and now is not None and now.state is not ProposalState.DRAFT:
                return ours.id  # its answer came before the acknowledgement could
            # The peer did not take it: the proposal can be tried again.
            if isinstance(exc, GolemError) and kind is RecordKind.DEMAND:
                self.outcomes.failed(theirs.counterpart, exc)
            self._drop(ours.id)
            if self._subscriptions.find(subscription_id) is not None:
                self._put(theirs)
            raise
        return ours.id

    async def reject(
        self, kind: RecordKind, subscription_id: SubscriptionId, proposal_id: ProposalId, reason: dict[str, Any]
    ) -> None:
        """Raises NotFoundError, GoneError (answered before). The peer is told if it can be reached."""
        self._subscriptions.get(subscription_id, kind)
        theirs = self.get(subscription_id, proposal_id)
        if theirs.state is ProposalState.REJECTED:
            return
        if theirs.ours or theirs.state not in (ProposalState.INITIAL, ProposalState.DRAFT):
            raise GoneError(f"proposal {proposal_id} is {theirs.state.shown} and cannot be rejected")
        initial = theirs.state is ProposalState.INITIAL
        self._put(theirs.after(ProposalEvent.REJECT, reason=str(reason.get("message", ""))))
        if not initial:  # of an initial proposal the provider does not know
            body = RejectBody(proposal=theirs.key, reason=reason).to_wire()
            try:
                await self._rpc.call(theirs.peer, PROTOCOL, "reject", body, timeout_s=limits.MARKET_RPC_TIMEOUT_S)
            except GolemError as exc:  # its proposal runs out by itself
                log.info("rejection_unheard", proposal=proposal_id, peer=theirs.peer, error=exc.message)

    # --- what peers do ---

    async def on_counter(self, peer: PeerId, raw: dict[str, Any]) -> object:
        body = CounterBody.model_validate(raw)
        demand_id, offer_id = SubscriptionId(body.demand_id), SubscriptionId(body.offer_id)
        own = self._subscriptions.find(offer_id)
        kind = RecordKind.OFFER
        if own is None:
            own, kind = self._subscriptions.find(demand_id), RecordKind.DEMAND
        if own is None or own.record.kind is not kind:
            raise NotFoundError(f"neither offer {offer_id} nor demand {demand_id} is live here")
        if kind is RecordKind.OFFER and body.demand is not None:
            demand = body.demand.record()
            if demand.id != demand_id or demand.issuer != peer or demand.kind is not RecordKind.DEMAND:
                raise RemoteProtocolError("the demand with the proposal is not the sender's")
            self._sync.take(demand)
        terms = decode_terms(body.content)
        _require_match(kind, ours=own.record.terms, theirs=terms)
        side, counterpart = ("P", demand_id) if kind is RecordKind.OFFER else ("R", offer_id)
        proposal_id = ProposalId(f"{side}-{body.proposal}")
        known = self._proposals.get(proposal_id)
        if known is not None:
            if known.peer == peer and known.terms == terms:
                return {}  # sent again after a lost answer
            raise ConflictError(f"proposal {body.proposal} exists already")
        self._make_room(peer)
        previous = self._answered_by(body, peer, kind, own.id, counterpart)
        proposal = Proposal(
            proposal_id,
            own.id,
            counterpart,
            peer,
            ours=False,
            terms=terms,
            state=ProposalState.DRAFT,
            timestamp=self._clock(),
            previous=previous,
        )
        self._put(proposal)
        own.events.put(ProposalReceived(proposal, self._clock()))
        return {}

    def _answered_by(
        self, body: CounterBody, peer: PeerId, kind: RecordKind, own: SubscriptionId, counterpart: SubscriptionId
    ) -> ProposalId | None:
        """Mark our proposal that ``body`` answers. Raises RemoteProtocolError, GoneError, NotFoundError."""
        if body.previous is None:
            if kind is RecordKind.DEMAND:
                raise RemoteProtocolError("a provider's proposal answers one of the requestor's")
            if body.demand is None:
                raise RemoteProtocolError("the first proposal comes with its demand")
            return None
        ours = self.find_key(body.previous, peer)
        if not ours.ours:
            raise RemoteProtocolError("the proposal answers the sender's own")
        if (ours.subscription, ours.counterpart) != (own, counterpart):
            raise RemoteProtocolError("the proposal answers one of another offer or demand")
        if ours.state not in (ProposalState.DRAFT, ProposalState.REJECTED):
            raise GoneError(f"proposal {ours.key} is {ours.state.shown} and answered already")
        self._put(ours.after(ProposalEvent.COUNTER))
        return ours.id

    async def on_reject(self, peer: PeerId, raw: dict[str, Any]) -> object:
        body = RejectBody.model_validate(raw)
        proposal = self.find_key(body.proposal, peer)
        if not proposal.ours:
            raise RemoteProtocolError("the sender rejects its own proposal")
        if proposal.state is not ProposalState.DRAFT:
            return {}
        self._put(proposal.after(ProposalEvent.REJECT, reason=str(body.reason.get("message", ""))))
        self.outcomes.refused(proposal.counterpart, body.reason)
        own = self._subscriptions.find(proposal.subscription)
        if own is not None:
            own.events.put(ProposalRejected(proposal.id, body.reason, self._clock()))
        return {}

    def mark_accepted(self, proposal: Proposal) -> None:
        """The proposal became an agreement. Raises ImpossibleEventError."""
        self._put(proposal.after(ProposalEvent.ACCEPT))

    def reopen(self, proposal: Proposal) -> None:
        """Undo mark_accepted when the agreement could not be stored."""
        self._put(replace(proposal, state=ProposalState.DRAFT))


def _require_match(kind: RecordKind, *, ours: Terms, theirs: Terms) -> None:
    """Both directions must be true. Raises UsageError naming the clause and the side that says so."""
    demand, offer = (ours, theirs) if kind is RecordKind.DEMAND else (theirs, ours)
    if match(demand, offer) is Ternary.TRUE:
        return
    for side, mine, other in (("demand", demand, offer), ("offer", offer, demand)):
        why = explain(parse(mine.constraints), other.properties)
        if why.result is not Ternary.TRUE:
            missing = f"; missing: {', '.join(why.unresolved)}" if why.unresolved else ""
            raise UsageError(f"the {side}'s constraint {' '.join(why.clauses)} is {why.result.value}{missing}")
