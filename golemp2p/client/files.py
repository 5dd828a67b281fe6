"""Files of the node's content store: published by hash, received into slots."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import anyio

from golemp2p.client.session import POLL_SLACK_S, Session
from golemp2p.wire.rest.files import FileBody, SlotBody

_PREFIX = "/golemp2p/v1"
CHUNK_BYTES: Final = 256 * 1024
TRANSFER_TIMEOUT_S: Final = 600.0


class FilesApi:
    def __init__(self, session: Session) -> None:
        self._session = session

    async def publish(self, source: Path | bytes, *, also: tuple[str, ...] = ()) -> FileBody:
        """Give a file to the node; ``url`` of the answer is what a provider's ``transfer`` reads.

        ``also``: more hash algorithms to be found by, such as sha3-224.
        """
        content = source if isinstance(source, bytes) else _chunks(source)
        found = await self._session.request(
            "PUT", f"{_PREFIX}/files", params={"also": list(also)}, content=content, timeout_s=TRANSFER_TIMEOUT_S
        )
        return FileBody.model_validate(found)

    async def open_slot(self) -> SlotBody:
        """A place for one file to come; ``url`` is what a provider's ``transfer`` writes."""
        return SlotBody.model_validate(await self._session.request("POST", f"{_PREFIX}/slots", json={}))

    async def close_slot(self, slot: str) -> None:
        await self._session.request("DELETE", f"{_PREFIX}/slots/{slot}")

    async def read_slot(self, slot: str, *, timeout_s: float) -> bytes:
        """The whole file in memory. Raises DeadlineError when it is not complete in time."""
        return b"".join([chunk async for chunk in self._slot(slot, timeout_s)])

    async def save_slot(self, slot: str, destination: Path, *, timeout_s: float) -> int:
        """Into ``destination``, atomically; the size in bytes."""
        part = anyio.Path(destination.with_name(destination.name + ".part"))
        size = 0
        async with await part.open("wb") as file:
            async for chunk in self._slot(slot, timeout_s):
                size += await file.write(chunk)
        await part.rename(destination)
        return size

    async def _slot(self, slot: str, timeout_s: float) -> AsyncIterator[bytes]:
        async with self._session.stream(
            "GET", f"{_PREFIX}/slots/{slot}", params={"timeout": timeout_s}, timeout_s=timeout_s + POLL_SLACK_S
        ) as response:
            async for chunk in response.aiter_bytes(CHUNK_BYTES):
                yield chunk


async def _chunks(source: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(source, "rb") as file:
        while chunk := await file.read(CHUNK_BYTES):
            yield chunk
