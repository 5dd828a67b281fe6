"""The ASGI app: routers of the services, one mapping from our errors to HTTP, the guard in front of everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from golemp2p import __version__, errors
from golemp2p.api import openapi
from golemp2p.api.auth import AppKeys, Guard
from golemp2p.api.presence import Presence
from golemp2p.core.ids import Address

log = structlog.get_logger("golemp2p.api")

_STATUS: tuple[tuple[type[errors.GolemError], int], ...] = (
    (errors.NotFoundError, 404),
    (errors.GoneError, 410),
    (errors.ConflictError, 409),
    (errors.UsageError, 400),
    (errors.PolicyError, 403),
    (errors.DeadlineError, 408),
    (errors.RemoteProtocolError, 502),
    (errors.RemoteError, 500),  # yagna's clients treat 500 as "the provider said no"
    (errors.NetworkError, 500),
)
_CODES: Final = {404: "not_found", 501: "not_supported"}


def status_of(error: errors.GolemError) -> int:
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


async def _golem_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.GolemError)
    if isinstance(error, errors.InternalError):
        log.error("internal_error", error=str(error), exc_info=error)
    return JSONResponse({"message": str(error), "code": error.code}, status_code=status_of(error))


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return JSONResponse({"message": f"{where or 'body'}: {first['msg']}", "code": "usage"}, status_code=400)


async def _http_error(_request: Request, error: Exception) -> Response:
    """Unknown paths, wrong methods, bodies that are no JSON or too large: in the shape of all our errors."""
    assert isinstance(error, HTTPException)
    body = {"message": str(error.detail), "code": _CODES.get(error.status_code, "usage")}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _bug(request: Request, error: Exception) -> Response:
    """A bug of ours costs one request, never the node."""
    log.error("request_failed", path=request.url.path, exc_info=error)
    return JSONResponse({"message": "internal error; the node's log has the details", "code": "internal"}, 500)


async def _gone_client(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


def make_app(
    routers: Sequence[APIRouter],
    *,
    keys: AppKeys,
    address: Address,
    allowed_hosts: frozenset[str] = frozenset(),
    presence: Presence | None = None,
) -> FastAPI:
    # The page's scripts come from this node, not from somebody's CDN: the app-key is typed into that page.
    app: FastAPI = FastAPIOffline(
        title="golemp2p",
        version=__version__,
        description="yagna's API and golemp2p's own calls. Authorize with an app-key: golemp2p app-key create NAME.",
        docs_url="/docs",
        redoc_url=None,
    )
    for router in routers:
        app.include_router(router, responses=openapi.EVERYWHERE)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign] # FastAPI's documented way
    app.add_exception_handler(errors.GolemError, _golem_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone_client)
    app.add_exception_handler(Exception, _bug)
    app.add_middleware(Guard, keys=keys, address=address, allowed_hosts=allowed_hosts, presence=presence)
    return app
