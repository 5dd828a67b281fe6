"""activity-api."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from golemp2p.client.session import POLL_SLACK_S, Session

_PREFIX = "/activity-api/v1"


@dataclass(frozen=True)
class BatchEvent:
    """One runtime event of a batch. ``kind``: started, stdout, stderr, progress or finished; ``number`` counts up."""

    number: int
    index: int
    kind: str
    value: Any  # text of stdout and stderr; the object of the others


class ActivityApi:
    def __init__(self, session: Session) -> None:
        self._session = session

    async def create(self, agreement: str, *, timeout_s: float) -> str:
        return str(
            await self._session.request(
                "POST",
                f"{_PREFIX}/activity",
                json=agreement,
                params={"timeout": timeout_s},
                timeout_s=timeout_s + POLL_SLACK_S,
            )
        )

    async def destroy(self, activity: str, *, timeout_s: float) -> None:
        await self._session.request(
            "DELETE",
            f"{_PREFIX}/activity/{activity}",
            params={"timeout": timeout_s},
            timeout_s=timeout_s + POLL_SLACK_S,
        )

    async def execute(self, activity: str, commands: Sequence[dict[str, Any]]) -> str:
        """Start a batch; its id."""
        body = {"text": json.dumps(list(commands))}
        return str(await self._session.request("POST", f"{_PREFIX}/activity/{activity}/exec", json=body))

    async def results(self, activity: str, batch: str, *, timeout_s: float = 5.0) -> list[dict[str, Any]]:
        """All results so far; early only when the batch is finished."""
        found = await self._session.request(
            "GET",
            f"{_PREFIX}/activity/{activity}/exec/{batch}",
            params={"timeout": timeout_s},
            timeout_s=timeout_s + POLL_SLACK_S,
        )
        return [dict(result) for result in found]

    @asynccontextmanager
    async def events(
        self, activity: str, batch: str, *, after: int = -1, silence_s: float | None = None
    ) -> AsyncIterator[AsyncIterator[BatchEvent]]:
        """The batch's events from the first (or after number ``after``), as they happen, until it is finished."""
        from httpx_sse import EventSource

        headers = {"Accept": "text/event-stream"}
        if after >= 0:
            headers["Last-Event-ID"] = str(after)
        path = f"{_PREFIX}/activity/{activity}/exec/{batch}"
        async with self._session.stream("GET", path, headers=headers, timeout_s=silence_s) as response:

            async def parsed() -> AsyncGenerator[BatchEvent, None]:
                async with aclosing(EventSource(response).aiter_sse()) as raw:
                    async for event in raw:
                        data = event.json()
                        kind, value = next(iter(data["kind"].items()))
                        yield BatchEvent(int(event.id), data["index"], kind, value)

            async with aclosing(parsed()) as events:
                yield events

    async def state(self, activity: str) -> dict[str, Any]:
        """``{"state": [current, pending], "reason": …}``."""
        return dict(await self._session.request("GET", f"{_PREFIX}/activity/{activity}/state"))

    async def usage(self, activity: str) -> list[float]:
        """Counters in the order of the agreement's usage vector."""
        return list((await self._session.request("GET", f"{_PREFIX}/activity/{activity}/usage"))["currentUsage"])

    async def agent_events(self, *, after: datetime | None = None, timeout_s: float = 5.0) -> list[dict[str, Any]]:
        """Provider: CreateActivity and DestroyActivity events strictly later than ``after``."""
        found = await self._session.request(
            "GET",
            f"{_PREFIX}/events",
            params={"timeout": timeout_s, "afterTimestamp": None if after is None else after.isoformat()},
            timeout_s=timeout_s + POLL_SLACK_S,
        )
        return [dict(event) for event in found]
