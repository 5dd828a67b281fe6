"""``/market-api/v1/scan``: looking through the offers that the node knows, as golem-js's market.scan does."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from golemp2p import limits
from golemp2p.api.auth import current_caller
from golemp2p.api.longpoll import EventStream, Timeout, poll
from golemp2p.api.market import offer_of
from golemp2p.api.openapi import EVENT_STREAM, answers
from golemp2p.errors import GoneError, NotFoundError
from golemp2p.market.scans import Scans
from golemp2p.wire.rest import market as rest


def make_router(scans: Scans) -> APIRouter:
    router = APIRouter(prefix="/market-api/v1", tags=["market"], dependencies=[Depends(current_caller)])

    @router.post("/scan", status_code=201, response_model=str, responses=answers(501))
    async def begin_scan(body: rest.NewScan) -> Response:
        """The scan's id; it ends when nobody reads it for ``timeout`` seconds (default 300)."""
        if body.type != "offer":
            raise HTTPException(501, "only offers can be scanned: {'type': 'offer'}")
        idle_s = limits.SCAN_IDLE_S if body.timeout is None else body.timeout
        return JSONResponse(scans.begin(body.constraints or "()", idle_s), status_code=201)

    @router.get(
        "/scan/{scan}/events",
        response_model=list[rest.Offer],
        responses=answers(404, 410, ok={200: {"content": EVENT_STREAM}}),
    )
    async def scan_events(
        request: Request,
        scan: str,
        timeout: Timeout = limits.DEFAULT_LONG_POLL_S,
        max_events: Annotated[int, Query(alias="maxEvents", ge=0)] = limits.DEFAULT_SCAN_EVENTS,
        peer: Annotated[str | None, Query(alias="peerId", pattern="^0x[0-9a-fA-F]{40}$")] = None,
        accept: Annotated[str, Header()] = "",
    ) -> Any:
        """Offers, each once: as a list, or with ``Accept: text/event-stream`` as they come, without end."""
        count = min(max_events, limits.MAX_SCAN_EVENTS)
        if peer is not None:
            found = await scans.take_of_peer(scan, peer.lower(), count)
        elif "text/event-stream" in accept:
            await scans.take(scan, 0, 0)  # an unknown one is told by the status
            return EventStream(_frames(scans, scan))
        else:
            found = await poll(request, lambda: scans.take(scan, timeout if count else 0.0, count))
        return JSONResponse([offer_of(offer).to_json() for offer in found])

    @router.delete("/scan/{scan}", status_code=204, responses=answers(404))
    async def end_scan(scan: str) -> Response:
        scans.end(scan)
        return Response(status_code=204)

    return router


async def _frames(scans: Scans, scan: str) -> AsyncGenerator[str, None]:
    with contextlib.suppress(GoneError, NotFoundError):  # it was ended, which ends the stream
        while True:
            offers = await scans.take(scan, limits.SSE_KEEPALIVE_S, limits.MAX_POLL_EVENTS)
            for offer in offers:
                yield f"event: offer\ndata: {json.dumps(offer_of(offer).to_json())}\n\n"
            if not offers:
                yield ":\n\n"
