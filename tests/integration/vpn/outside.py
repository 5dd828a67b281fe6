"""A small internet for payloads: names that this test knows, and servers on this machine."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from golemp2p.core.properties import Properties

NAMES = {"api.test": ["127.0.0.1"], "inner.test": ["10.255.255.1", "192.168.0.1"], "other.test": ["127.0.0.1"]}


async def resolve(name: str) -> Sequence[str]:
    if name not in NAMES:
        raise OSError(f"there is no {name}")
    return NAMES[name]


def manifest(*urls: str, unrestricted: bool = False, protocols: Sequence[str] = ("http", "https")) -> Properties:
    """A demand's property."""
    out: dict[str, object] = {"protocols": list(protocols)}
    out |= {"unrestricted": {"urls": True}} if unrestricted else {"urls": list(urls)}
    document = {
        "version": "0.1.0",
        "createdAt": "2022-07-26T12:51:00.000000Z",
        "expiresAt": "2100-01-01T00:01:00.000000Z",
        "payload": [],
        "compManifest": {"version": "0.1.0", "net": {"inet": {"out": out}}},
    }
    return {"golem.srv.comp.payload": base64.b64encode(json.dumps(document).encode()).decode()}


@asynccontextmanager
async def web_server(body: bytes) -> AsyncIterator[int]:
    """Answers every connection with ``body``; the port on 127.0.0.1."""

    async def serve(stream: trio.SocketStream) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked and (data := await stream.receive_some()):
            asked += data
        await stream.send_all(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield int(listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()
