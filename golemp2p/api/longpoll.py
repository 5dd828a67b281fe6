"""Long polls that hold nothing once their client is gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


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
