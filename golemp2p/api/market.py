"""/market-api/v1: demands, offers, proposals, agreements, events (yagna-rest §1.2; protocols/rest/README.md)."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from golemp2p import limits
from golemp2p.api.auth import Caller, current_caller
from golemp2p.api.longpoll import Timeout, poll
from golemp2p.api.openapi import answers
from golemp2p.core import agreement as core
from golemp2p.core.ids import AgreementId, ProposalId, SubscriptionId
from golemp2p.core.peer import address_of
from golemp2p.core.properties import flatten
from golemp2p.core.proposal import Proposal
from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.errors import UsageError
from golemp2p.market.service import MarketService
from golemp2p.market.subscriptions import AgreementReceived, MarketEvent, ProposalReceived
from golemp2p.storage.market import AgreementNews
from golemp2p.wire.p2p.market import checked_reason
from golemp2p.wire.rest import market as rest

Me = Annotated[Caller, Depends(current_caller)]
ReasonBody = Annotated[dict[str, Any] | None, Body(description="`message`, and what else the sender likes")]
_EPOCH = datetime.fromtimestamp(0, UTC)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def offer_of(record: MarketRecord) -> rest.Offer:
    return rest.Offer(
        properties=record.properties,
        constraints=record.constraints,
        offer_id=record.id,
        provider_id=record.address,
        timestamp=_time(record.issued_at),
    )


def demand_of(record: MarketRecord) -> rest.Demand:
    return rest.Demand(
        properties=record.properties,
        constraints=record.constraints,
        demand_id=record.id,
        requestor_id=record.address,
        timestamp=_time(record.issued_at),
    )


def proposal_of(proposal: Proposal, me: str) -> rest.Proposal:
    return rest.Proposal(
        properties=proposal.terms.properties,
        constraints=proposal.terms.constraints,
        proposal_id=proposal.id,
        issuer_id=me if proposal.ours else address_of(proposal.peer),
        state=proposal.state.shown,
        timestamp=_time(proposal.timestamp),
        prev_proposal_id=proposal.previous,
    )


def agreement_of(agreement: core.Agreement) -> rest.Agreement:
    return rest.Agreement(
        agreement_id=agreement.id,
        demand=rest.Demand(
            properties=agreement.demand,
            constraints=agreement.demand_constraints,
            demand_id=agreement.demand_id,
            requestor_id=agreement.requestor_address,
            timestamp=_time(agreement.created_at),
        ),
        offer=rest.Offer(
            properties=agreement.offer,
            constraints=agreement.offer_constraints,
            offer_id=agreement.offer_id,
            provider_id=agreement.provider_address,
            timestamp=_time(agreement.created_at),
        ),
        valid_to=_time(agreement.valid_to),
        state=agreement.state.value,
        timestamp=_time(agreement.created_at),
        approved_date=None if agreement.approved_at is None else _time(agreement.approved_at),
        app_session_id=agreement.session_id,
        proposed_signature=agreement.requestor_signature.hex() or None,
        approved_signature=agreement.provider_signature.hex() or None,
    )


def _event_of(event: MarketEvent, me: str) -> rest.MarketEvent:
    if isinstance(event, ProposalReceived):
        return rest.MarketEvent(
            event_type="ProposalEvent", event_date=_time(event.moment), proposal=proposal_of(event.proposal, me)
        )
    if isinstance(event, AgreementReceived):
        return rest.MarketEvent(
            event_type="AgreementEvent", event_date=_time(event.moment), agreement=agreement_of(event.agreement)
        )
    return rest.MarketEvent(
        event_type="ProposalRejectedEvent",
        event_date=_time(event.moment),
        proposal_id=event.proposal_id,
        reason=_reason(event.reason),
    )


def _reason(raw: Any) -> dict[str, Any]:
    """Clients require ``message`` in every reason. Raises UsageError (too large, no JSON)."""
    reason = {"message": "", **(raw if isinstance(raw, dict) else {})}
    try:
        return checked_reason(reason)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


def _news_of(news: AgreementNews) -> rest.AgreementOperationEvent:
    terminated = news.event == "AgreementTerminatedEvent"
    return rest.AgreementOperationEvent(
        # yagna and its clients know no event of that name; the agreement's state says Expired.
        event_type="AgreementCancelledEvent" if news.event == "AgreementExpiredEvent" else news.event,
        event_date=_micro(news.moment),
        agreement_id=news.agreement_id,
        terminator=news.terminator if terminated else None,
        signature="NotSigned" if terminated else None,
        reason=None if news.reason is None else _reason(dict(news.reason)),
    )


def _micro(moment: int) -> datetime:
    """Exact: floats of seconds would lose the last microsecond, and clients echo it back."""
    seconds, micro = divmod(moment, 1_000_000)
    return _EPOCH + timedelta(seconds=seconds, microseconds=micro)


def agreement_entry(agreement: core.Agreement) -> rest.AgreementEntry:
    return rest.AgreementEntry(
        id=agreement.id,
        timestamp=_time(agreement.created_at),
        approved_date=None if agreement.approved_at is None else _time(agreement.approved_at),
        role=agreement.role.value.capitalize(),
        state=agreement.state.value,
    )


def _max_events(value: int) -> int:
    if not 0 < value <= limits.MAX_POLL_EVENTS:
        raise UsageError(f"maxEvents is {value}", hint=f"1 to {limits.MAX_POLL_EVENTS}")
    return value


def _dump(models: list[Any]) -> JSONResponse:
    return JSONResponse([model.to_json() for model in models])


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
            return _dump([make(s.record) for s in own])

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
            count = _max_events(maxEvents)
            own = service.subscriptions.get(SubscriptionId(subscription), kind)
            found = await poll(request, lambda: own.events.take(timeout, count))
            return _dump([_event_of(event, caller.address) for event in found])

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
            await service.negotiation.reject(kind, SubscriptionId(subscription), ProposalId(proposal), _reason(reason))
            return Response(status_code=204)

    subscription_routes("demands", RecordKind.DEMAND)
    subscription_routes("offers", RecordKind.OFFER)
    _agreement_routes(router, service)
    return router


def _agreement_routes(router: APIRouter, service: MarketService) -> None:
    agreements = service.agreements

    @router.post("/agreements", response_model=str, responses=answers(404, 409, 410))
    async def create(body: rest.AgreementRequest, _caller: Me) -> Response:
        valid_to = body.valid_to if body.valid_to.tzinfo else body.valid_to.replace(tzinfo=UTC)
        return JSONResponse(await agreements.create(ProposalId(body.proposal_id), valid_to.timestamp()))

    @router.get("/agreements", response_model=list[rest.AgreementEntry])
    async def list_agreements(
        _caller: Me,
        state: str | None = None,
        app_session_id: Annotated[str | None, Query(alias="appSessionId")] = None,
        after: Annotated[datetime | None, Query(alias="afterDate")] = None,
        before: Annotated[datetime | None, Query(alias="beforeDate")] = None,
        after_too: Annotated[datetime | None, Query(alias="afterTimestamp")] = None,
        before_too: Annotated[datetime | None, Query(alias="beforeTimestamp")] = None,
    ) -> Response:
        """Both roles, newest first. yagna's code says ...Date, its specification ...Timestamp: both are taken."""
        states = None if state is None else [_state(state)]
        since_us = max((_micros(m) for m in (after, after_too) if m is not None), default=None)
        until_us = min((_micros(m) for m in (before, before_too) if m is not None), default=None)
        found = [
            a
            for a in await agreements.all(states)
            if app_session_id in (None, a.session_id)
            and (since_us is None or a.created_at * 1e6 > since_us)
            and (until_us is None or a.created_at * 1e6 < until_us)
        ]
        found.sort(key=lambda a: a.created_at, reverse=True)
        return _dump([agreement_entry(a) for a in found[: limits.MAX_LISTED]])

    shown = _ShownAgreements()

    @router.get("/agreements/{agreement}", response_model=rest.Agreement, responses=answers(404))
    async def get_agreement(agreement: str, _caller: Me) -> Response:
        return Response(shown.json(await agreements.get(AgreementId(agreement))), media_type="application/json")

    @router.get("/agreements/{agreement}/terminate/reason", response_model=rest.Reason, responses=answers(404))
    async def end_reason(agreement: str, _caller: Me) -> Response:
        return JSONResponse(_reason((await agreements.get(AgreementId(agreement))).end_reason))

    @router.post("/agreements/{agreement}/confirm", status_code=204, responses=answers(404, 408, 409, 410, 502))
    async def confirm(agreement: str, _caller: Me, appSessionId: str | None = None) -> Response:  # noqa: N803
        await agreements.confirm(AgreementId(agreement), appSessionId)
        return Response(status_code=204)

    @router.post("/agreements/{agreement}/wait", status_code=204, responses=answers(404, 408, 410))
    async def wait(
        request: Request, agreement: str, _caller: Me, timeout: Timeout = limits.DEFAULT_LONG_POLL_S
    ) -> Response:
        await poll(request, lambda: agreements.wait_approved(AgreementId(agreement), timeout))
        return Response(status_code=204)

    @router.post("/agreements/{agreement}/approve", status_code=204, responses=answers(404, 408, 410))
    async def approve(
        agreement: str,
        _caller: Me,
        timeout: Timeout = limits.MARKET_RPC_TIMEOUT_S,
        appSessionId: str | None = None,  # noqa: N803
    ) -> Response:
        await agreements.approve(AgreementId(agreement), timeout, appSessionId)
        return Response(status_code=204)

    @router.post("/agreements/{agreement}/reject", status_code=204, responses=answers(404, 410))
    async def reject_agreement(agreement: str, _caller: Me, reason: ReasonBody = None) -> Response:
        await agreements.reject(AgreementId(agreement), _reason(reason))
        return Response(status_code=204)

    @router.post("/agreements/{agreement}/cancel", status_code=204, responses=answers(404, 410))
    async def cancel(agreement: str, _caller: Me, reason: ReasonBody = None) -> Response:
        await agreements.cancel(AgreementId(agreement), _reason(reason))
        return Response(status_code=204)

    @router.post(
        "/agreements/{agreement}/terminate", response_class=Response, responses=answers(404, 409, 410, ok={200: {}})
    )
    async def terminate(agreement: str, _caller: Me, reason: ReasonBody = None) -> Response:
        await agreements.terminate(AgreementId(agreement), _reason(reason))
        return Response(status_code=200)

    @router.get("/agreementEvents", response_model=list[rest.AgreementOperationEvent])
    async def agreement_events(
        request: Request,
        _caller: Me,
        timeout: Timeout = limits.DEFAULT_LONG_POLL_S,
        afterTimestamp: datetime | None = None,  # noqa: N803
        maxEvents: int = limits.DEFAULT_POLL_EVENTS,  # noqa: N803
        appSessionId: str | None = None,  # noqa: N803
    ) -> Response:
        after = 0 if afterTimestamp is None else _micros(afterTimestamp)
        count = _max_events(maxEvents)
        found = await poll(request, lambda: agreements.events(after, appSessionId, timeout, count))
        return _dump([_news_of(news) for news in found])


class _ShownAgreements:
    """The JSON of the latest agreements that were asked for: golem-js asks for each many times per command."""

    def __init__(self) -> None:
        self._made: OrderedDict[AgreementId, tuple[core.Agreement, bytes]] = OrderedDict()

    def json(self, agreement: core.Agreement) -> bytes:
        known = self._made.get(agreement.id)
        if known is not None and known[0] is agreement:  # a change makes another object
            self._made.move_to_end(agreement.id)
            return known[1]
        made = JSONResponse(agreement_of(agreement).to_json()).body
        self._made[agreement.id] = agreement, bytes(made)
        self._made.move_to_end(agreement.id)
        if len(self._made) > limits.MAX_SHOWN_AGREEMENTS:
            self._made.popitem(last=False)
        return bytes(made)


def _micros(moment: datetime) -> int:
    """Exact, as :func:`_micro`: clients send the last eventDate back, and get what is strictly newer."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def _state(text: str) -> core.AgreementState:
    try:
        return core.AgreementState(text.capitalize())
    except ValueError as exc:
        known = ", ".join(core.AgreementState)
        raise UsageError(f"there is no agreement state {text!r}", hint=f"one of {known}") from exc
