"""``/activity-api/v1``: yagna's requestor calls, what its provider's agent needs, and a list of our own."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, TypeVar

import pydantic
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Send

from golemp2p import limits
from golemp2p.activity.remote import RemoteBatch
from golemp2p.activity.service import ActivityService
from golemp2p.api.auth import current_caller
from golemp2p.api.longpoll import poll
from golemp2p.core.activity import ActivityState
from golemp2p.core.agreement import Role
from golemp2p.core.ids import ActivityId, AgreementId, BatchId
from golemp2p.errors import GolemError, UsageError
from golemp2p.storage.activity import ActivityRecord
from golemp2p.wire.rest.activity import (
    ActivityBody,
    AgentEventBody,
    CreateActivity,
    ExecText,
    Frames,
    StateBody,
    UsageBody,
    result_body,
)
from golemp2p.wire.rest.base import RestModel, from_iso_time, iso_time

M = TypeVar("M", bound=RestModel)
Timeout = Annotated[float, Query(ge=0, le=limits.MAX_LONG_POLL_S)]


def make_router(service: ActivityService) -> APIRouter:
    router = APIRouter(dependencies=[Depends(current_caller)], tags=["activity"])
    _add_requestor(router, service)
    _add_agent(router, service)
    return router


def _add_requestor(router: APIRouter, service: ActivityService) -> None:
    at = "/activity-api/v1/activity"

    @router.post(at)
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

    @router.delete(at + "/{activity_id}")
    async def destroy(activity_id: str, timeout: Timeout = limits.ACTIVITY_DESTROY_TIMEOUT_S) -> JSONResponse:
        record = await service.record(ActivityId(activity_id))
        if record.role is Role.PROVIDER:
            await service.provider.end(record.id, "ended by the provider")
        elif record.state is not ActivityState.TERMINATED:
            await (await service.requestor.live_activity(record.id)).destroy(timeout)
        return JSONResponse(None)

    @router.post(at + "/{activity_id}/exec")
    async def execute(activity_id: str, request: Request) -> JSONResponse:
        script = _model(ExecText, await _json(request))
        return JSONResponse((await service.requestor.live_activity(ActivityId(activity_id))).exec(script.text))

    @router.get(at + "/{activity_id}/exec/{batch_id}")
    async def results(
        activity_id: str,
        batch_id: str,
        request: Request,
        timeout: Timeout = limits.DEFAULT_LONG_POLL_S,
        accept: Annotated[str, Header()] = "",
        last_event_id: Annotated[int, Header(alias="Last-Event-ID")] = -1,
    ) -> Any:
        batch = (await service.requestor.live_activity(ActivityId(activity_id))).batch(BatchId(batch_id))
        if "text/event-stream" in accept:
            return _EventStream(_frames(batch, last_event_id + 1))
        done = await poll(request, lambda: batch.results(timeout))
        return JSONResponse([result_body(result) for result in done])

    @router.get(at + "/{activity_id}/state")
    async def state(activity_id: str) -> dict[str, object]:
        record = await service.record(ActivityId(activity_id))
        return StateBody(state=(record.state.value, None), reason=record.reason, error_message=record.reason).to_json()

    @router.get(at + "/{activity_id}/usage")
    async def usage(activity_id: str) -> dict[str, object]:
        record = await service.record(ActivityId(activity_id))
        return UsageBody(current_usage=list(record.usage), timestamp=int(time.time())).to_json()

    @router.get(at + "/{activity_id}/agreement")
    async def agreement(activity_id: str) -> JSONResponse:
        return JSONResponse((await service.record(ActivityId(activity_id))).agreement_id)


def _add_agent(router: APIRouter, service: ActivityService) -> None:
    @router.get("/activity-api/v1/activity")
    async def ids() -> list[str]:
        """Ids of the live activities, both roles."""
        return [record.id for record in await service.records(live_only=True)]

    @router.get("/activity-api/v1/events")
    async def events(
        request: Request,
        timeout: Timeout = limits.DEFAULT_LONG_POLL_S,
        after: Annotated[str | None, Query(alias="afterTimestamp")] = None,
        max_events: Annotated[int, Query(alias="maxEvents", ge=1, le=limits.MAX_POLL_EVENTS)] = limits.MAX_POLL_EVENTS,
    ) -> list[dict[str, object]]:
        """CreateActivity and DestroyActivity, oldest first, strictly later than ``afterTimestamp``."""
        after_us = _microseconds(after)
        found = await poll(
            request, lambda: service.provider.agent_events(after_us, timeout_s=timeout, max_events=max_events)
        )
        return [
            AgentEventBody(
                event_type=event.event,
                event_date=iso_time(event.moment_us / 1e6),
                activity_id=event.activity_id,
                agreement_id=event.agreement_id,
            ).to_json()
            for event in found
        ]

    @router.get("/golemp2p/v1/activities")
    async def activities(live: bool = False) -> list[dict[str, object]]:
        """Ours: everything on all activities (or the live ones), both roles, newest first."""
        return [_body(record) for record in await service.records(live_only=live)]

    @router.get("/golemp2p/v1/activities/{activity_id}")
    async def activity(activity_id: str) -> dict[str, object]:
        return _body(await service.record(ActivityId(activity_id)))


class _EventStream(StreamingResponse):
    """Closes its generator when the client goes, so that a reader of the log is let go at once."""

    def __init__(self, frames: AsyncGenerator[str, None]) -> None:
        super().__init__(frames, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._frames = frames

    async def stream_response(self, send: Send) -> None:
        async with contextlib.aclosing(self._frames):
            await super().stream_response(send)


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


def _microseconds(text: str | None) -> int:
    if text is None:
        return 0
    try:
        return round(from_iso_time(text.replace(" ", "+")) * 1e6)  # a plus sign that was not escaped
    except ValueError:
        raise UsageError(f"afterTimestamp {text[:40]!r} is no ISO 8601 time") from None
