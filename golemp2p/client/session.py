"""One HTTP session with a node: bearer key, JSON, and our error families back from status codes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from golemp2p import errors

CONNECT_TIMEOUT_S: Final = 5.0
REQUEST_TIMEOUT_S: Final = 30.0
POLL_SLACK_S: Final = 10.0  # what a long poll may take beyond its own timeout
MAX_CONNECTIONS: Final = 200

Params = Mapping[str, str | int | float | bool | list[str] | None]

_BY_CODE: Final[dict[str, type[errors.GolemError]]] = {
    kind.code: kind
    for kind in (
        errors.UsageError,
        errors.NotFoundError,
        errors.GoneError,
        errors.ConflictError,
        errors.PolicyError,
        errors.DeadlineError,
        errors.NetworkError,
        errors.RemoteProtocolError,
        errors.InternalError,
    )
}
_BY_STATUS: Final[dict[int, type[errors.GolemError]]] = {
    400: errors.UsageError,
    403: errors.PolicyError,
    404: errors.NotFoundError,
    408: errors.DeadlineError,
    409: errors.ConflictError,
    410: errors.GoneError,
    504: errors.DeadlineError,
}


class UnauthorizedError(errors.UsageError):
    """The node does not know our app-key."""

    code = "unauthorized"


class Session:
    """Raises errors of :mod:`golemp2p.errors` only; a node that cannot be reached is a NetworkError."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @property
    def url(self) -> str:
        return str(self._http.base_url)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        content: Any = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Any:
        """The decoded JSON answer, None for an empty one."""
        given = {k: v for k, v in (params or {}).items() if v is not None}
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        with self._mapped():
            body: dict[str, Any] = {"content": content} if content is not None else {"json": json}
            if json is None and content is None:
                body = {}
            response = await self._http.request(
                method, path, params=given, headers=dict(headers or {}), timeout=timeout, **body
            )
        self._check(response.status_code, response.content)
        return response.json() if response.content else None

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """A streamed answer; ``timeout_s`` is the longest silence, None is no limit."""
        given = {k: v for k, v in (params or {}).items() if v is not None}
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        with self._mapped():
            async with self._http.stream(
                method, path, params=given, headers=dict(headers or {}), timeout=timeout
            ) as response:
                if response.status_code >= 400:
                    self._check(response.status_code, await response.aread())
                yield response

    def _mapped(self) -> _Mapped:
        return _Mapped(self.url)

    def _check(self, status: int, body: bytes) -> None:
        if status < 400:
            return
        message, code = _error_of(body)
        if status == 401:
            raise UnauthorizedError(message or "the node refused the app-key", hint="set YAGNA_APPKEY or --app-key")
        kind = _BY_CODE.get(code) or _BY_STATUS.get(status)
        if kind is None:
            raise errors.RemoteError(message or f"the node answered {status}", code=code or "error")
        raise kind(message or f"the node answered {status}")


class _Mapped:
    """httpx's exceptions become ours at this border."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            raise errors.NetworkError(
                f"no node answers at {self._url}", hint="is it running? start one with: golemp2p run"
            ) from error
        if isinstance(error, httpx.TimeoutException):
            raise errors.DeadlineError(f"the node at {self._url} did not answer in time") from error
        if isinstance(error, httpx.HTTPError | httpx.StreamError):
            raise errors.NetworkError(f"the connection to the node was cut: {error}") from error


def _error_of(body: bytes) -> tuple[str, str]:
    import json

    try:
        document = json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")[:500], ""
    if isinstance(document, dict):
        return str(document.get("message", "")), str(document.get("code", ""))
    return str(document)[:500], ""
