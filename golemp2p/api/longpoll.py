"""Long polls and event streams that hold nothing once their client is gone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, TypeVar

import trio
from fastapi import Query
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator
from starlette.requests import ClientDisconnect, Request
from starlette.types import Send

from golemp2p import limits

T = TypeVar("T")


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), limits.MAX_LONG_POLL_S)


Timeout = Annotated[
    float,
    Query(allow_inf_nan=False, description=f"Seconds; at most {limits.MAX_LONG_POLL_S:g} count, 0 looks once"),
    AfterValidator(_bounded),
]
"""``timeout`` of a call that waits. What is beyond the bounds is cut, not refused: clients ask for what they like."""


async def poll(request: Request, fetch: Callable[[], Awaitable[T]]) -> T:
    """Run ``fetch``; cancel it when the client disconnects. The body must have been read before.

    Raises what ``fetch`` raises, as it is, and ClientDisconnect.
    """
    result: list[T] = []
    failure: Exception | None = None

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            result.append(await fetch())
        except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery, which would wrap it
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not result:
        raise ClientDisconnect
    return result[0]


class EventStream(StreamingResponse):
    """``text/event-stream``. Closes its generator when the client goes, so that what it holds is let go at once."""

    def __init__(self, frames: AsyncGenerator[str, None]) -> None:
        super().__init__(frames, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._frames = frames

    async def stream_response(self, send: Send) -> None:
        async with contextlib.aclosing(self._frames):
            await super().stream_response(send)
