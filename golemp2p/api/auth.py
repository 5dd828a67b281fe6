"""Who calls: app-keys, Host and Origin. REST is on loopback, but every web page in a browser can reach loopback too."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from golemp2p.core.ids import Address

OPEN_PATHS: Final = frozenset({"/version/get", "/healthz", "/metrics"})
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})


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

    def __init__(self, keys: Sequence[AppKey] = ()) -> None:
        self._keys = {key.name: key for key in keys}

    def all(self) -> list[AppKey]:
        return list(self._keys.values())

    def put(self, key: AppKey) -> None:
        self._keys[key.name] = key

    def remove(self, name: str) -> bool:
        return self._keys.pop(name, None) is not None

    def find(self, secret: str) -> AppKey | None:
        """Constant time per key."""
        found = None
        for key in self._keys.values():
            if hmac.compare_digest(key.key.encode(), secret.encode()):
                found = key
        return found


async def current_caller(request: Request) -> Caller:
    """FastAPI dependency. The guard has authenticated every request that reaches a route."""
    caller = request.scope.get("golemp2p.caller")
    if not isinstance(caller, Caller):
        raise TypeError("a route without a caller: is the guard installed?")
    return caller


class Guard:
    """ASGI middleware: Host check, Origin check and CORS, app-key. Pure ASGI, so that streams stay streams."""

    def __init__(self, app: ASGIApp, *, keys: AppKeys, address: Address, allowed_hosts: frozenset[str]) -> None:
        self._app = app
        self._keys = keys
        self._address = address
        self._hosts = allowed_hosts | LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if host not in self._hosts:
            # A DNS name that was re-bound to loopback (DNS rebinding) shows up here.
            await _refuse(scope, receive, send, 403, f"host {host!r} is not served; use 127.0.0.1 or localhost")
            return
        origin = headers.get("origin")
        key = self._keys.find(_token(headers.get("authorization", ""), scope))
        if origin is not None and not self._origin_allowed(origin, headers.get("host", ""), key):
            await _refuse(scope, receive, send, 403, f"origin {origin!r} is not allowed for this app-key")
            return
        if scope["path"] not in OPEN_PATHS:
            if key is None:
                message = "this app-key is unknown" if _token(headers.get("authorization", ""), scope) else "no app-key"
                await _refuse(scope, receive, send, 401, f"{message}; send 'Authorization: Bearer <app-key>'")
                return
            scope["golemp2p.caller"] = Caller(key.name, self._address)
        await self._app(scope, receive, send)

    def _origin_allowed(self, origin: str, host: str, key: AppKey | None) -> bool:
        """Our own pages, and what the key's owner listed."""
        if urlsplit(origin).netloc == host:
            return True
        return key is not None and (origin in key.cors_origins or "*" in key.cors_origins)


def _token(authorization: str, scope: Scope) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return str(query.get("authToken", [""])[0])


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, message: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": message[:120]})
        return
    response: Response = PlainTextResponse(message, status_code=status)
    await response(scope, receive, send)
