"""Agreements of ``/market-api/v1``: made, confirmed, approved, ended; their events."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from golemp2p import limits
from golemp2p.api.longpoll import Timeout, poll
from golemp2p.api.moments import Moment, microseconds_of, moment_of, moment_of_us
from golemp2p.api.openapi import answers
from golemp2p.api.shapes import Me, ReasonBody, checked_max_events, listed, reason_of
from golemp2p.core import agreement as core
from golemp2p.core.ids import AgreementId, ProposalId
from golemp2p.errors import UsageError
from golemp2p.market.service import MarketService
from golemp2p.storage.market import AgreementNews
from golemp2p.wire.rest import market as rest


def agreement_of(agreement: core.Agreement) -> rest.Agreement:
    return rest.Agreement(
        agreement_id=agreement.id,
        demand=rest.Demand(
            properties=agreement.demand,
            constraints=agreement.demand_constraints,
            demand_id=agreement.demand_id,
            requestor_id=agreement.requestor_address,
            timestamp=moment_of(agreement.created_at),
        ),
        offer=rest.Offer(
            properties=agreement.offer,
            constraints=agreement.offer_constraints,
            offer_id=agreement.offer_id,
            provider_id=agreement.provider_address,
            timestamp=moment_of(agreement.created_at),
        ),
        valid_to=moment_of(agreement.valid_to),
        state=agreement.state.value,
        timestamp=moment_of(agreement.created_at),
        approved_date=None if agreement.approved_at is None else moment_of(agreement.approved_at),
        app_session_id=agreement.session_id,
        proposed_signature=agreement.requestor_signature.hex() or None,
        approved_signature=agreement.provider_signature.hex() or None,
    )


def _news_of(news: AgreementNews) -> rest.AgreementOperationEvent:
    terminated = news.event == "AgreementTerminatedEvent"
    return rest.AgreementOperationEvent(
        # yagna and its clients know no event of that name; the agreement's state says Expired.
        event_type="AgreementCancelledEvent" if news.event == "AgreementExpiredEvent" else news.event,
        event_date=moment_of_us(news.moment),
        agreement_id=news.agreement_id,
        terminator=news.terminator if terminated else None,
        signature="NotSigned" if terminated else None,
        reason=None if news.reason is None else reason_of(dict(news.reason)),
    )


def agreement_entry(agreement: core.Agreement) -> rest.AgreementEntry:
    return rest.AgreementEntry(
        id=agreement.id,
        timestamp=moment_of(agreement.created_at),
        approved_date=None if agreement.approved_at is None else moment_of(agreement.approved_at),
        role=agreement.role.value.capitalize(),
        state=agreement.state.value,
    )


def add_agreements(router: APIRouter, service: MarketService) -> None:
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
        after: Annotated[Moment | None, Query(alias="afterDate")] = None,
        before: Annotated[Moment | None, Query(alias="beforeDate")] = None,
        after_too: Annotated[Moment | None, Query(alias="afterTimestamp")] = None,
        before_too: Annotated[Moment | None, Query(alias="beforeTimestamp")] = None,
    ) -> Response:
        """Both roles, newest first. yagna's code says ...Date, its specification ...Timestamp: both are taken."""
        states = None if state is None else [_state(state)]
        since_us = max((microseconds_of(m) for m in (after, after_too) if m is not None), default=None)
        until_us = min((microseconds_of(m) for m in (before, before_too) if m is not None), default=None)
        found = [
            a
            for a in await agreements.all(states)
            if app_session_id in (None, a.session_id)
            and (since_us is None or a.created_at * 1e6 > since_us)
            and (until_us is None or a.created_at * 1e6 < until_us)
        ]
        found.sort(key=lambda a: a.created_at, reverse=True)
        return listed([agreement_entry(a) for a in found[: limits.MAX_LISTED]])

    shown = _ShownAgreements()

    @router.get("/agreements/{agreement}", response_model=rest.Agreement, responses=answers(404))
    async def get_agreement(agreement: str, _caller: Me) -> Response:
        return Response(shown.json(await agreements.get(AgreementId(agreement))), media_type="application/json")

    @router.get("/agreements/{agreement}/terminate/reason", response_model=rest.Reason, responses=answers(404))
    async def end_reason(agreement: str, _caller: Me) -> Response:
        return JSONResponse(reason_of((await agreements.get(AgreementId(agreement))).end_reason))

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
        await agreements.reject(AgreementId(agreement), reason_of(reason))
        return Response(status_code=204)

    @router.post("/agreements/{agreement}/cancel", status_code=204, responses=answers(404, 410))
    async def cancel(agreement: str, _caller: Me, reason: ReasonBody = None) -> Response:
        await agreements.cancel(AgreementId(agreement), reason_of(reason))
        return Response(status_code=204)

    @router.post(
        "/agreements/{agreement}/terminate", response_class=Response, responses=answers(404, 409, 410, ok={200: {}})
    )
    async def terminate(agreement: str, _caller: Me, reason: ReasonBody = None) -> Response:
        await agreements.terminate(AgreementId(agreement), reason_of(reason))
        return Response(status_code=200)

    @router.get("/agreementEvents", response_model=list[rest.AgreementOperationEvent])
    async def agreement_events(
        request: Request,
        _caller: Me,
        timeout: Timeout = limits.DEFAULT_LONG_POLL_S,
        afterTimestamp: Moment | None = None,  # noqa: N803
        maxEvents: int = limits.DEFAULT_POLL_EVENTS,  # noqa: N803
        appSessionId: str | None = None,  # noqa: N803
    ) -> Response:
        after = microseconds_of(afterTimestamp)
        count = checked_max_events(maxEvents)
        found = await poll(request, lambda: agreements.events(after, appSessionId, timeout, count))
        return listed([_news_of(news) for news in found])


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


def _state(text: str) -> core.AgreementState:
    try:
        return core.AgreementState(text.capitalize())
    except ValueError as exc:
        known = ", ".join(core.AgreementState)
        raise UsageError(f"there is no agreement state {text!r}", hint=f"one of {known}") from exc
