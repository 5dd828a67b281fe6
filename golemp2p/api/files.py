"""``/golemp2p/v1/files`` and ``/slots``: how agents, the gftp command and the SDK move files through the node.

Bodies are raw bytes, streamed both ways; nothing is held in memory.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated, Final, Literal

import trio
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse

from golemp2p import limits
from golemp2p.api.auth import Caller, current_caller
from golemp2p.api.longpoll import Timeout, poll
from golemp2p.api.openapi import BYTES, answers
from golemp2p.errors import DeadlineError, NotFoundError
from golemp2p.storage.content import Content, ContentStore
from golemp2p.wire.rest.files import FileBody, NewSlot, SlotBody

Algorithm = Literal["sha256", "sha3-224", "sha3-256", "sha3-384", "sha3-512"]  # storage.content.ALGORITHMS
Me = Annotated[Caller, Depends(current_caller)]
_CONTENT: Final = {"content": BYTES}
_DOWNLOAD: Final = answers(404, ok={200: _CONTENT, 206: _CONTENT}) | {416: {"description": "No such range"}}


def make_router(content: ContentStore, announce: Callable[[Content], None] | None = None) -> APIRouter:
    """``announce`` is told of every file that is put here, so that the network may learn of it."""
    router = APIRouter(prefix="/golemp2p/v1", tags=["files"], dependencies=[Depends(current_caller)])

    @router.put("/files", openapi_extra={"requestBody": {"required": True, **_CONTENT}})
    async def put_file(request: Request, me: Me, also: Annotated[list[Algorithm] | None, Query()] = None) -> FileBody:
        """Store the body. ``also`` names further hash algorithms to be found by, e.g. sha3-224."""
        stored = await content.add_stream(
            request.stream(), max_bytes=limits.MAX_REST_FILE_BYTES, also=tuple(also or ())
        )
        if announce is not None:
            announce(stored)
        return _file(me, stored)

    @router.get("/files/{sha3_256}", response_class=Response, responses=_DOWNLOAD)
    async def get_file(sha3_256: str) -> FileResponse:
        return _download(_found(content, sha3_256))

    @router.get("/files/{sha3_256}/info", responses=answers(404))
    async def file_info(sha3_256: str, me: Me) -> FileBody:
        return _file(me, _found(content, sha3_256))

    @router.delete("/files/{sha3_256}", status_code=204, responses=answers(404))
    async def delete_file(sha3_256: str) -> Response:
        content.remove(_found(content, sha3_256))
        return Response(status_code=204)

    @router.post("/slots")
    async def post_slot(me: Me, terms: NewSlot | None = None) -> SlotBody:
        slot = content.open_slot(secrets.token_hex(16), (terms or NewSlot()).max_bytes)
        return SlotBody(slot=slot.slot_id, url=f"gftp://{me.address}/{slot.slot_id}")

    @router.get("/slots/{slot}", response_class=Response, responses=_DOWNLOAD | answers(404, 408, 410))
    async def get_slot(slot: str, request: Request, timeout: Timeout = limits.DEFAULT_LONG_POLL_S) -> FileResponse:
        """The file once it is complete; 408 when it is not within ``timeout``."""

        async def wait() -> Content:
            with trio.move_on_after(timeout):
                return await content.wait_finished(slot)
            raise DeadlineError(f"slot {slot} is not complete yet", hint="ask again")

        return _download(await poll(request, wait))

    @router.delete("/slots/{slot}", status_code=204)
    async def delete_slot(slot: str) -> Response:
        content.close_slot(slot)
        return Response(status_code=204)

    return router


def _found(content: ContentStore, sha3_256: str) -> Content:
    found = content.lookup("sha3-256", sha3_256)
    if found is None:
        raise NotFoundError(f"there is no file with sha3-256 {sha3_256}")
    return found


def _file(me: Caller, stored: Content) -> FileBody:
    return FileBody(
        url=f"gftp://{me.address}/{stored.sha3_256}",
        sha3_256=stored.sha3_256,
        sha256=stored.sha256,
        size=stored.size_bytes,
    )


def _download(stored: Content) -> FileResponse:
    return FileResponse(stored.path, media_type="application/octet-stream", headers={"ETag": f'"{stored.sha256}"'})
