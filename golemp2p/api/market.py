"""``/market-api/v1``: demands, offers and proposals (yagna-rest §1.2; protocols/rest/README.md)."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from golemp2p import limits
from golemp2p.api.agreements import add_agreements, agreement_of
from golemp2p.api.longpoll import Timeout, poll
from golemp2p.api.moments import moment_of
from golemp2p.api.openapi import answers
from golemp2p.api.shapes import Me, ReasonBody, checked_max_events, listed, reason_of
from golemp2p.core.ids import ProposalId, SubscriptionId
from golemp2p.core.peer import address_of
from golemp2p.core.properties import flatten
from golemp2p.core.proposal import Proposal
from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.market.service import MarketService
from golemp2p.market.subscriptions import AgreementReceived, MarketEvent, ProposalReceived
from golemp2p.wire.rest import market as rest


def offer_of(record: MarketRecord) -> rest.Offer:
    return rest.Offer(
        properties=record.properties,
        constraints=record.constraints,
        offer_id=record.id,
        provider_id=record.address,
        timestamp=moment_of(record.issued_at),
    )


def demand_of(record: MarketRecord) -> rest.Demand:
    return rest.Demand(
        properties=record.properties,
        constraints=record.constraints,
        demand_id=record.id,
        requestor_id=record.address,
        timestamp=moment_of(record.issued_at),
    )


def proposal_of(proposal: Proposal, me: str) -> rest.Proposal:
    return rest.Proposal(
        properties=proposal.terms.properties,
        constraints=proposal.terms.constraints,
        proposal_id=proposal.id,
        issuer_id=me if proposal.ours else address_of(proposal.peer),
        state=proposal.state.shown,
        timestamp=moment_of(proposal.timestamp),
        prev_proposal_id=proposal.previous,
    )


def _event_of(event: MarketEvent, me: str) -> rest.MarketEvent:
    if isinstance(event, ProposalReceived):
        return rest.MarketEvent(
            event_type="ProposalEvent", event_date=moment_of(event.moment), proposal=proposal_of(event.proposal, me)
        )
    if isinstance(event, AgreementReceived):
        return rest.MarketEvent(
            event_type="AgreementEvent", event_date=moment_of(event.moment), agreement=agreement_of(event.agreement)
        )
    return rest.MarketEvent(
        event_type="ProposalRejectedEvent",
        event_date=moment_of(event.moment),
        proposal_id=event.proposal_id,
        reason=reason_of(event.reason),
    )


def make_router(service: MarketService) -> APIRouter:
    router = APIRouter(prefix="/market-api/v1", tags=["market"])

    def subscription_routes(plural: str, kind: RecordKind) -> None:
        """The same calls for demands (requestor) and offers (provider)."""

        record_model = list[rest.Demand] if kind is RecordKind.DEMAND else list[rest.Offer]

        @router.post(f"/{plural}", status_code=201, response_model=str, name=f"subscribe_{kind.value}")
        async def subscribe(body: rest.Terms, caller: Me) -> Response:
            new_id = await service.subscribe(kind, flatten(body.properties), body.constraints, caller.key_name)
            return JSONResponse(new_id, status_code=201)

        @router.get(f"/{plural}", response_model=record_model, name=f"own_{plural}")
        async def subscribed(caller: Me) -> Response:
            own = service.subscriptions.all(kind, caller.key_name)
            make = demand_of if kind is RecordKind.DEMAND else offer_of
            return listed([make(s.record) for s in own])

        @router.delete(
            f"/{plural}/{{subscription}}",
            status_code=204,
            responses=answers(404, 410),
            name=f"unsubscribe_{kind.value}",
        )
        async def unsubscribe(subscription: str, _caller: Me) -> Response:
            await service.unsubscribe(kind, SubscriptionId(subscription))
            return Response(status_code=204)

        @router.get(
            f"/{plural}/{{subscription}}/events",
            response_model=list[rest.MarketEvent],
            responses=answers(404),
            name=f"{kind.value}_events",
        )
        async def events(
            request: Request,
            subscription: str,
            caller: Me,
            timeout: Timeout = limits.DEFAULT_LONG_POLL_S,
            maxEvents: int = limits.DEFAULT_POLL_EVENTS,  # noqa: N803 - yagna's name
        ) -> Response:
            count = checked_max_events(maxEvents)
            own = service.subscriptions.get(SubscriptionId(subscription), kind)
            found = await poll(request, lambda: own.events.take(timeout, count))
            return listed([_event_of(event, caller.address) for event in found])

        @router.get(
            f"/{plural}/{{subscription}}/proposals/{{proposal}}",
            response_model=rest.Proposal,
            responses=answers(404),
            name=f"{kind.value}_proposal",
        )
        async def get_proposal(subscription: str, proposal: str, caller: Me) -> Response:
            found = service.negotiation.get(SubscriptionId(subscription), ProposalId(proposal))
            return JSONResponse(proposal_of(found, caller.address).to_json())

        @router.post(
            f"/{plural}/{{subscription}}/proposals/{{proposal}}",
            response_model=str,
            responses=answers(404, 408, 409, 410, 502),
            name=f"counter_{kind.value}_proposal",
        )
        async def counter(subscription: str, proposal: str, body: rest.Terms, _caller: Me) -> Response:
            new_id = await service.negotiation.counter(
                kind, SubscriptionId(subscription), ProposalId(proposal), flatten(body.properties), body.constraints
            )
            return JSONResponse(new_id)

        @router.post(
            f"/{plural}/{{subscription}}/proposals/{{proposal}}/reject",
            status_code=204,
            responses=answers(404, 410),
            name=f"reject_{kind.value}_proposal",
        )
        async def reject(subscription: str, proposal: str, _caller: Me, reason: ReasonBody = None) -> Response:
            await service.negotiation.reject(
                kind, SubscriptionId(subscription), ProposalId(proposal), reason_of(reason)
            )
            return Response(status_code=204)

    subscription_routes("demands", RecordKind.DEMAND)
    subscription_routes("offers", RecordKind.OFFER)
    add_agreements(router, service)
    return router
