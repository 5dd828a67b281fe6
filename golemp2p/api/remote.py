"""``/golemp2p/v1/gftp``: files at other nodes, for `gftp download` and `gftp upload`; and the gftp command's socket.

What comes is kept in the content store and read from there, what goes is put there before (`/golemp2p/v1/files`).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request

from golemp2p import limits
from golemp2p.api.auth import Caller, current_caller
from golemp2p.api.longpoll import poll
from golemp2p.api.openapi import answers
from golemp2p.core.ids import Address, PeerId
from golemp2p.errors import NetworkError, NotFoundError, UsageError
from golemp2p.net.data import DataService
from golemp2p.storage.content import Content, ContentStore
from golemp2p.wire.rest.files import FileBody
from golemp2p.wire.rest.gsb import RemoteFile, RemoteSlot

Me = Annotated[Caller, Depends(current_caller)]
FindPeer = Callable[[Address], Awaitable[PeerId | None]]
_URL: Final = re.compile(r"gftp://(0x[0-9a-fA-F]{40})/([A-Za-z0-9_-]{1,128})")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")


def make_router(content: ContentStore, data: DataService, find_peer: FindPeer) -> APIRouter:
    router = APIRouter(prefix="/golemp2p/v1/gftp", tags=["files"], dependencies=[Depends(current_caller)])

    @router.post("/fetch", responses=answers(404, 408, 410, 502))
    async def fetch(file: RemoteFile, me: Me, request: Request) -> FileBody:
        """Get a file that another node serves; then it is in ours, at ``/golemp2p/v1/files/{sha3_256}``."""
        peer, name = await _place(file.url, me)
        stored = await poll(request, lambda: _fetch(peer, name))
        return FileBody(
            url=f"gftp://{me.address}/{stored.sha3_256}",
            sha3_256=stored.sha3_256,
            sha256=stored.sha256,
            size=stored.size_bytes,
        )

    @router.post("/push", status_code=204, responses=answers(404, 408, 409, 410, 502))
    async def push(file: RemoteSlot, me: Me, request: Request) -> None:
        """Write a file of our node, ``sha3_256``, to a place that another one waits at."""
        peer, name = await _place(file.url, me)
        found = content.lookup("sha3-256", file.sha3_256)
        if found is None:
            raise NotFoundError(f"there is no file with sha3-256 {file.sha3_256[:64]}")
        path = found.path
        await poll(request, lambda: data.push(peer, name, path, timeout_s=limits.TRANSFER_TIMEOUT_S))

    async def _place(url: str, me: Caller) -> tuple[PeerId, str]:
        match = _URL.fullmatch(url)
        if match is None:
            raise UsageError(f"{url[:120]!r} is no URL of a file", hint="gftp://0x<address>/<name>")
        address = Address(match[1].lower())
        if address == me.address:
            raise UsageError("the file is at this very node", hint="copy it")
        peer = await find_peer(address)
        if peer is None:
            raise NetworkError(f"nobody here knows a node with address {address}", hint="connect to it first")
        return peer, match[2]

    async def _fetch(peer: PeerId, name: str) -> Content:
        timeout_s, max_bytes = limits.TRANSFER_TIMEOUT_S, limits.MAX_REST_FILE_BYTES
        if _DIGEST.fullmatch(name):
            return await data.fetch(peer, "sha3-256", name, max_bytes=max_bytes, timeout_s=timeout_s)
        partial = content.partial(f"tmp-{secrets.token_hex(8)}")
        try:
            await data.fetch_named(peer, name, partial, max_bytes=max_bytes, timeout_s=timeout_s)
            return await content.adopt(partial)
        finally:
            content.discard(partial)

    return router
