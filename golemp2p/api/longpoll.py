"""Long polls that hold nothing once their client is gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")


async def poll(request: Request, fetch: Callable[[], Awaitable[T]]) -> T:
    """Run ``fetch``; cancel it when the client disconnects. The body must have been read before."""
    result: list[T] = []

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        result.append(await fetch())
        nursery.cancel_scope.cancel()
    if not result:
        raise ClientDisconnect
    return result[0]
