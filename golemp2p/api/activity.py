"""``/activity-api/v1``: yagna's requestor calls, what its provider's agent needs, and a list of our own."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final, TypeVar

import pydantic
import trio
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from golemp2p import limits
from golemp2p.activity.remote import RemoteBatch
from golemp2p.activity.service import ActivityService
from golemp2p.api.auth import current_caller
from golemp2p.api.longpoll import EventStream, Timeout, poll
from golemp2p.api.moments import Moment, microseconds_of
from golemp2p.api.openapi import EVENT_STREAM, NULL, answers, json_body
from golemp2p.core.activity import ActivityState
from golemp2p.core.agreement import Role
from golemp2p.core.ids import ActivityId, AgreementId, BatchId
from golemp2p.errors import GolemError, UsageError
from golemp2p.storage.activity import ActivityRecord
from golemp2p.wire.rest.activity import (
    ActivityBody,
    AgentEventBody,
    CommandState,
    CreateActivity,
    CreatedActivity,
    ExecText,
    Frames,
    ResultBody,
    StateBody,
    UsageBody,
    command_state,
    result_body,
)
from golemp2p.wire.rest.base import RestModel, iso_time

M = TypeVar("M", bound=RestModel)
_ID_OR_OBJECT: Final = {"type": "string"}, CreateActivity.model_json_schema()


def make_router(service: ActivityService) -> APIRouter:
    router = APIRouter(dependencies=[Depends(current_caller)], tags=["activity"])
    _add_requestor(router, service)
    _add_agent(router, service)
    return router


def _add_requestor(router: APIRouter, service: ActivityService) -> None:
    at = "/activity-api/v1/activity"

    @router.post(
        at,
        response_model=str | CreatedActivity,
        responses=answers(404, 408, 410, 502),
        openapi_extra=json_body({"oneOf": list(_ID_OR_OBJECT)}),
    )
    async def create(request: Request, timeout: Timeout = limits.ACTIVITY_CREATE_TIMEOUT_S) -> JSONResponse:
        body = await _json(request)
        if isinstance(body, str):
            agreement_id = AgreementId(body)
        else:
            agreement_id = AgreementId(_model(CreateActivity, body).agreement_id)

        async def attempt() -> ActivityId | GolemError:
            try:
                return await service.requestor.create(agreement_id, timeout_s=timeout)
            except GolemError as exc:  # handed over as a value, since the poll's nursery would wrap it
                return exc

        outcome = await poll(request, attempt)
        if isinstance(outcome, GolemError):
            raise outcome
        return JSONResponse(outcome if isinstance(body, str) else {"activityId": outcome})

    @router.delete(at + "/{activity_id}", response_model=None, responses=answers(404, 408, 502, ok={200: NULL}))
    async def destroy(activity_id: str, timeout: Timeout = limits.ACTIVITY_DESTROY_TIMEOUT_S) -> JSONResponse:
        record = await service.record(ActivityId(activity_id))
        if record.role is Role.PROVIDER:
            await service.provider.end(record.id, "ended by the provider")
        elif record.state is not ActivityState.TERMINATED:
            await (await service.requestor.live_activity(record.id)).destroy(timeout)
        return JSONResponse(None)

    @router.post(
        at + "/{activity_id}/exec",
        response_model=str,
        responses=answers(404, 409, 410),
        openapi_extra=json_body(ExecText.model_json_schema()),
    )
    async def execute(activity_id: str, request: Request) -> JSONResponse:
        script = _model(ExecText, await _json(request))
        return JSONResponse((await service.requestor.live_activity(ActivityId(activity_id))).exec(script.text))

    @router.get(
        at + "/{activity_id}/exec/{batch_id}",
        response_model=list[ResultBody],
        responses=answers(404, 410, ok={200: {"content": EVENT_STREAM}}),
    )
    async def results(
        activity_id: str,
        batch_id: str,
        request: Request,
        timeout: Timeout = limits.DEFAULT_LONG_POLL_S,
        accept: Annotated[str, Header()] = "",
        last_event_id: Annotated[int, Header(alias="Last-Event-ID")] = -1,
    ) -> Any:
        """All results so far: when the batch is finished, else at the end of ``timeout``. As an event stream: all

        events from the first (or the one after Last-Event-ID) to the end of the batch.
        """
        batch = (await service.requestor.live_activity(ActivityId(activity_id))).batch(BatchId(batch_id))
        if "text/event-stream" in accept:
            return EventStream(_frames(batch, last_event_id + 1))
        done = await poll(request, lambda: batch.results(timeout))
        return JSONResponse([result_body(result) for result in done])

    @router.get(at + "/{activity_id}/state", response_model=StateBody, responses=answers(404))
    async def state(activity_id: str) -> JSONResponse:
        record = await service.record(ActivityId(activity_id))
        body: dict[str, object] = {"state": [record.state.value, None]}
        if record.reason is not None:
            body |= {"reason": record.reason, "errorMessage": record.reason}
        return JSONResponse(body)

    @router.get(at + "/{activity_id}/usage", response_model=UsageBody, responses=answers(404))
    async def usage(activity_id: str) -> JSONResponse:
        record = await service.record(ActivityId(activity_id))
        return JSONResponse({"currentUsage": record.usage, "timestamp": int(time.time())})

    @router.get(at + "/{activity_id}/command", response_model=list[CommandState], responses=answers(404, 410))
    async def running_command(activity_id: str) -> JSONResponse:
        """What runs now, one element a batch; for the requestor."""
        activity = await service.requestor.live_activity(ActivityId(activity_id))
        return JSONResponse([command_state(command).to_json() for command in activity.running()])

    @router.get(at + "/{activity_id}/agreement", response_model=str, responses=answers(404))
    async def agreement(activity_id: str) -> JSONResponse:
        return JSONResponse((await service.record(ActivityId(activity_id))).agreement_id)


def _add_agent(router: APIRouter, service: ActivityService) -> None:
    @router.get("/activity-api/v1/activity", response_model=list[str])
    async def ids(agreement_id: Annotated[str | None, Query(alias="agreementId")] = None) -> JSONResponse:
        """Ids of the agreement's activities; without one (ours) of all live activities, both roles."""
        found = await service.records(live_only=agreement_id is None)
        return JSONResponse(list(dict.fromkeys(r.id for r in found if agreement_id in (None, r.agreement_id))))

    @router.get(
        "/activity-api/v1/_monitor", response_class=Response, responses=answers(ok={200: {"content": EVENT_STREAM}})
    )
    async def monitor() -> EventStream:
        """The live activities of the provider's side, again whenever they change, without end."""
        return EventStream(_watch(service))

    @router.get("/activity-api/v1/events", response_model=list[AgentEventBody])
    async def events(
        request: Request,
        timeout: Timeout = limits.DEFAULT_LONG_POLL_S,
        after: Annotated[Moment | None, Query(alias="afterTimestamp")] = None,
        max_events: Annotated[int, Query(alias="maxEvents", ge=1)] = limits.MAX_POLL_EVENTS,
    ) -> JSONResponse:
        """For the provider's agent: CreateActivity and DestroyActivity, oldest first, later than ``afterTimestamp``."""
        after_us = microseconds_of(after)
        found = await poll(
            request,
            lambda: service.provider.agent_events(
                after_us, timeout_s=timeout, max_events=min(max_events, limits.MAX_POLL_EVENTS)
            ),
        )
        return JSONResponse(
            [
                AgentEventBody(
                    event_type=event.event,
                    event_date=iso_time(event.moment_us / 1e6),
                    activity_id=event.activity_id,
                    agreement_id=event.agreement_id,
                ).to_json()
                for event in found
            ]
        )

    @router.get("/golemp2p/v1/activities", response_model=list[ActivityBody])
    async def activities(live: bool = False) -> JSONResponse:
        """Ours: everything on all activities (or the live ones), both roles, newest first."""
        return JSONResponse([_body(record) for record in await service.records(live_only=live)])

    @router.get("/golemp2p/v1/activities/{activity_id}", response_model=ActivityBody, responses=answers(404))
    async def activity(activity_id: str) -> JSONResponse:
        return JSONResponse(_body(await service.record(ActivityId(activity_id))))


async def _frames(batch: RemoteBatch, position: int) -> AsyncGenerator[str, None]:
    """From the first event (or the one after Last-Event-ID) to the last ``finished``."""
    frames = Frames(batch.id, tuple(batch.commands))
    with batch.log.reading(position) as reader:
        while items := await reader.next():
            for number, event in items:
                frame = frames.frame(number, event)
                if frame:
                    yield frame
                reader.advance(number + 1)


async def _watch(service: ActivityService) -> AsyncGenerator[str, None]:
    """A frame when something changed; a comment now and then, so that a reader who is gone is noticed."""
    told, told_s = "", 0.0
    while True:
        records = await service.provider.records(live_only=True)
        shown = json.dumps([{"id": r.id, "state": r.state.value, "agreementId": r.agreement_id} for r in records])
        if shown != told:
            told, told_s = shown, trio.current_time()
            yield f'data: {{"ts": "{iso_time(time.time())}", "activities": {shown}}}\n\n'
        elif trio.current_time() - told_s > limits.SSE_KEEPALIVE_S:
            told_s = trio.current_time()
            yield ":\n\n"
        await trio.sleep(limits.MONITOR_LOOK_S)


def _body(record: ActivityRecord) -> dict[str, object]:
    return ActivityBody(
        activity_id=record.id,
        agreement_id=record.agreement_id,
        role=record.role.value,
        peer_id=record.peer,
        state=record.state.value,
        reason=record.reason,
        created_at=iso_time(record.created_at),
        ended_at=None if record.ended_at is None else iso_time(record.ended_at),
        usage=list(record.usage),
    ).to_json()


async def _json(request: Request) -> Any:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.MAX_REST_BODY_BYTES:
            raise UsageError("the request is too large", hint=f"at most {limits.MAX_REST_BODY_BYTES} bytes")
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"the body is not JSON: {exc}") from None


def _model(model: type[M], body: object) -> M:
    try:
        return model.model_validate(body)
    except pydantic.ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from None
