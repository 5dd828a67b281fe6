"""Who calls: app-keys, Host and Origin. REST is on loopback, but every web page in a browser can reach loopback too."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from golemp2p import limits
from golemp2p.api.presence import Presence
from golemp2p.core.ids import Address

OPEN_PATHS: Final = frozenset({"/version/get", "/healthz", "/metrics", "/docs", "/openapi.json"})
# Scripts and style of /docs; the image registry, which its clients ask without a key: content by its hash alone.
_REGISTRY: Final = ("/v1/image/", "/image.")
OPEN_PREFIXES: Final = ("/static-offline-docs/", *_REGISTRY)
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
UNLIMITED_BODIES: Final = frozenset({("PUT", "/golemp2p/v1/files")})  # streamed to disk, with a limit of its own
_CORS_MAX_AGE_S: Final = 600
ROLE_HEADER: Final = "golemp2p-role"
PROVIDER_ROLE: Final = "provider"


@dataclass(frozen=True)
class Caller:
    """An authenticated agent: the name of its app-key, and the node's identity that it acts for."""

    key_name: str
    address: Address


@dataclass(frozen=True)
class AppKey:
    name: str
    key: str
    cors_origins: tuple[str, ...] = field(default=())


class AppKeys:
    """The app-keys of this node, in memory; :mod:`golemp2p.storage.app_keys` keeps them."""

    def __init__(self, keys: Sequence[AppKey] = (), *, origins: Sequence[str] = ()) -> None:
        """``origins``: whose pages may call with any key, besides those that the key itself lists."""
        self._keys = {key.name: key for key in keys}
        self._origins = frozenset(origins)

    def all(self) -> list[AppKey]:
        return list(self._keys.values())

    def put(self, key: AppKey) -> None:
        self._keys[key.name] = key

    def remove(self, name: str) -> bool:
        return self._keys.pop(name, None) is not None

    def allows_origin(self, origin: str) -> bool:
        """Whether any key may be used from ``origin``: all that a preflight can tell, for browsers send no key."""
        return any(self.lists(key, origin) for key in self._keys.values())

    def lists(self, key: AppKey, origin: str) -> bool:
        """Whether pages of ``origin`` may call with ``key``."""
        return not {origin, "*"}.isdisjoint(self._origins.union(key.cors_origins))

    def find(self, secret: str) -> AppKey | None:
        """Constant time per key."""
        found = None
        for key in self._keys.values():
            if hmac.compare_digest(key.key.encode(), secret.encode()):
                found = key
        return found


def is_open(path: str) -> bool:
    """Whether ``path`` is served without an app-key."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


async def current_caller(request: Request) -> Caller:
    """FastAPI dependency. The guard has authenticated every request that reaches a route."""
    caller = request.scope.get("golemp2p.caller")
    if not isinstance(caller, Caller):
        raise TypeError("a route without a caller: is the guard installed?")
    return caller


class Guard:
    """ASGI middleware: Host check, Origin check and CORS, app-key. Pure ASGI, so that streams stay streams."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: AppKeys,
        address: Address,
        allowed_hosts: frozenset[str],
        presence: Presence | None = None,
    ) -> None:
        self._app = app
        self._presence = presence or Presence()
        self._keys = keys
        self._address = address
        self._hosts = allowed_hosts | LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        host = _hostname(headers.get("host", ""))
        if host not in self._hosts:
            # A DNS name that was re-bound to loopback (DNS rebinding) shows up here.
            await _refuse(scope, receive, send, 403, f"host {host!r} is not served; use 127.0.0.1 or localhost")
            return
        origin = headers.get("origin")
        key = self._keys.find(_token(headers.get("authorization", ""), scope))
        foreign = origin is not None and not _is_own(origin, headers.get("host", ""))
        if origin is not None and foreign:
            if scope["type"] == "http" and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await self._preflight(origin, headers, scope, receive, send)
                return
            keyless = key is None and is_open(scope["path"])  # golem-js asks for our version without its key
            if not (self._keys.allows_origin(origin) if keyless else key and self._keys.lists(key, origin)):
                await _refuse(scope, receive, send, 403, f"origin {origin!r} is not allowed for this app-key")
                return
            send = _with_cors(send, origin)
        elif scope["path"].startswith(_REGISTRY) and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            # A page that loads it as a picture sends no Origin; whether it loads says which images are here.
            await _refuse(scope, receive, send, 403, "pages of other sites do not see the images of this node")
            return
        if not is_open(scope["path"]):
            if key is None:
                message = "this app-key is unknown" if _token(headers.get("authorization", ""), scope) else "no app-key"
                await _refuse(scope, receive, send, 401, f"{message}; send 'Authorization: Bearer <app-key>'")
                return
            scope["golemp2p.caller"] = Caller(key.name, self._address)
        if scope["type"] == "http" and (scope["method"], scope["path"]) not in UNLIMITED_BODIES:
            length = headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > limits.MAX_REST_BODY_BYTES:
                await _refuse(scope, receive, send, 413, _TOO_LARGE)
                return
            receive = _limited(receive)
        if headers.get(ROLE_HEADER) == PROVIDER_ROLE:  # it asks for events for ever: nobody's requestor lives by that
            await self._app(scope, receive, send)
            return
        with self._presence.call(scope["path"], scope.get("query_string", b"").decode("latin-1")):
            await self._app(scope, receive, send)

    async def _preflight(
        self, origin: str, headers: Mapping[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """The browser asks whether a page of ``origin`` may call; what the call itself may do, its key decides."""
        if not self._keys.allows_origin(origin):
            await _refuse(scope, receive, send, 403, f"origin {origin!r} is not allowed for any app-key")
            return
        answer = Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
                "Access-Control-Allow-Headers": headers.get("access-control-request-headers", "authorization"),
                "Access-Control-Max-Age": str(_CORS_MAX_AGE_S),
            },
        )
        await answer(scope, receive, _with_cors(send, origin))


_TOO_LARGE: Final = f"the body is larger than {limits.MAX_REST_BODY_BYTES} bytes; files go to PUT /golemp2p/v1/files"


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_own(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _with_cors(send: Send, origin: str) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers.add_vary_header("Origin")
        await send(message)

    return with_headers


def _limited(receive: Receive) -> Receive:
    """Counts what comes, for a body without or with a wrong Content-Length."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > limits.MAX_REST_BODY_BYTES:
                raise HTTPException(413, _TOO_LARGE)
        return message

    return counted


def _token(authorization: str, scope: Scope) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return str(query.get("authToken", [""])[0])


_CODES: Final = {401: "unauthorized", 403: "policy", 413: "usage"}


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, message: str) -> None:
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": message[:120]})
        return
    # As all errors are, and as yagna's specification has it: yapapi dies of a 401 in plain text without showing it.
    response: Response = JSONResponse({"message": message, "code": _CODES[status]}, status_code=status)
    await response(scope, receive, send)
