"""Files that programs serve, for the data protocol (protocols/data.md): ``/public/gftp/<name>`` on this node.

Reading: GetMetadata, then GetChunk, some ahead, in any order of answers. Writing: UploadChunk one after the other,
each after the answer to the one before, because golem-js appends what comes; then UploadFinished with the sha3-256.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import (
    ConflictError,
    GolemError,
    GoneError,
    NetworkError,
    NotFoundError,
    RemoteError,
    RemoteProtocolError,
)
from golemp2p.gsb.services import Service, Services
from golemp2p.wire.gsb import whole_number

log = structlog.get_logger(__name__)
PREFIX: Final = "/public/gftp/"
MayReach = Callable[[PeerId], bool]


@dataclass
class _Ahead:
    """A chunk that was asked for."""

    arrived: trio.Event = field(default_factory=trio.Event)
    content: bytes = b""
    error: GolemError | None = None


class ServedFile:
    """A file that one or several programs hold; ``size_bytes`` is their word."""

    def __init__(self, holders: list[Service], size_bytes: int) -> None:
        self._holders, self.size_bytes = holders, size_bytes

    async def pour(self, offset: int, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand all from ``offset`` to ``take``, in order. Raises what the program says, NetworkError, GoneError."""
        ahead: deque[_Ahead] = deque()
        failure: GolemError | None = None
        async with trio.open_nursery() as nursery:
            while offset < self.size_bytes or ahead:
                while offset < self.size_bytes and len(ahead) < limits.GSB_READ_AHEAD:
                    size = min(limits.GSB_CHUNK_BYTES, self.size_bytes - offset)
                    ahead.append(_Ahead())
                    nursery.start_soon(self._read, ahead[-1], offset, size)
                    offset += size
                chunk = ahead.popleft()
                await chunk.arrived.wait()
                if chunk.error is not None:
                    failure = chunk.error
                    break
                try:
                    await take(chunk.content)
                except GolemError as exc:
                    failure = exc
                    break
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _read(self, chunk: _Ahead, offset: int, size: int) -> None:
        try:
            parts = []
            while size:
                parts.append(await self._chunk(offset, size))
                offset, size = offset + len(parts[-1]), size - len(parts[-1])
            chunk.content = b"".join(parts) if len(parts) != 1 else parts[0]
        except GolemError as exc:
            chunk.error = exc
        chunk.arrived.set()

    async def _chunk(self, offset: int, size: int) -> bytes:
        """One answer, perhaps shorter than asked for."""
        match await _ask_any(self._holders, "GetChunk", {"offset": offset, "size": size}):
            case {"content": bytes(content), **rest} if whole_number(rest.get("offset", offset)) == offset and content:
                pass
            case {"content": b""}:
                raise RemoteProtocolError(f"the file ends at {offset}, it was said to have {self.size_bytes} bytes")
            case _:
                raise RemoteProtocolError(f"the program's answer to GetChunk {offset} is no chunk of it")
        if len(content) > size:
            # golem-js encodes a view of a Buffer as all that is behind the view: of a large one that is the whole file.
            if len(content) != self.size_bytes:
                raise RemoteProtocolError(
                    f"the program answered {len(content)} bytes for {size}",
                    hint="golem-js does so for small Buffers: give it a Uint8Array of its own, new Uint8Array(buffer)",
                )
            content = content[offset : offset + size]
        return content


async def _told(service: Service, component: str, payload: dict[str, Any], *, repeatable: bool) -> Any:
    """As :meth:`Service.call`; that a program is out of reach is told to the peer, it is no break of its connection."""
    try:
        return await service.call(component, payload, repeatable=repeatable)
    except NetworkError as exc:
        raise RemoteError(f"the program that serves the file is out of reach: {exc}", code="gsb") from exc


async def _ask_any(holders: list[Service], component: str, payload: dict[str, Any]) -> Any:
    """The first that answers: equal content may be served by several processes, any of which may end."""
    while True:
        holder = holders[-1]
        try:
            return await _told(holder, component, payload, repeatable=True)
        except GolemError as exc:
            if len(holders) == 1:
                raise
            log.info("gsb_holder_failed", service=holder.name, error=str(exc))
            if holder in holders:  # other chunks are asked for at the same time
                holders.remove(holder)


class Upload:
    """One file on its way into a program. Lives with its service, so that a broken connection can be taken up again."""

    def __init__(self, service: Service, peer: PeerId, size_bytes: int, sha256: str) -> None:
        self._service, self.peer, self.size_bytes, self.sha256 = service, peer, size_bytes, sha256
        self._sha256, self._sha3 = hashlib.sha256(), hashlib.sha3_256()
        self.offset = 0
        self.busy = False
        self.broken: GolemError | None = None
        self.sha3_256: str | None = None  # set when all is there
        self._rest = bytearray()

    async def write(self, data: bytes) -> None:
        """The next bytes. Raises what the program says, NetworkError, GoneError; then the upload is over."""
        self._rest += data
        while len(self._rest) >= limits.GSB_CHUNK_BYTES:
            await self._write(bytes(self._rest[: limits.GSB_CHUNK_BYTES]))
            del self._rest[: limits.GSB_CHUNK_BYTES]

    async def _write(self, chunk: bytes) -> None:
        failure: GolemError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, self._hash, chunk)
            try:
                await self._ask("UploadChunk", {"chunk": {"offset": self.offset, "content": chunk}})
            except GolemError as exc:
                failure = exc
        if failure is not None:
            raise failure
        self.offset += len(chunk)

    def _hash(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self._sha3.update(chunk)

    async def finish(self) -> str:
        """All is there: check it and tell the program; the sha3-256. Raises RemoteProtocolError (another sha256)."""
        if self._rest:
            await self._write(bytes(self._rest))
            self._rest.clear()
        if self._sha256.hexdigest() != self.sha256:
            self.broken = RemoteProtocolError(f"the file has sha256 {self._sha256.hexdigest()}, not {self.sha256}")
            raise self.broken
        digest = self._sha3.hexdigest()
        await self._ask("UploadFinished", {"hash": digest})
        self.sha3_256 = digest
        return digest

    async def _ask(self, component: str, payload: dict[str, Any]) -> None:
        answered = False
        try:
            await _told(self._service, component, payload, repeatable=False)
            answered = True
        except GolemError as exc:
            self.broken = exc
            raise
        finally:
            if not answered and self.broken is None:  # cancelled: nobody knows whether the program has the chunk
                self.broken = GoneError("the upload was given up half way")

    def drop_rest(self) -> None:
        """What came after the last whole chunk of a broken connection; it comes again."""
        self._rest.clear()


class ServedFiles:
    """``may_reach``: whether a peer works for us now; others do not even learn which names exist."""

    def __init__(self, services: Services, may_reach: MayReach) -> None:
        self._services, self._may_reach = services, may_reach

    def has(self, name: str, peer: PeerId) -> bool:
        return bool(self._holders(name, peer))

    def _holders(self, name: str, peer: PeerId) -> list[Service]:
        holders = self._services.serving(PREFIX + name)
        return holders if holders and self._may_reach(peer) else [each for each in holders if each.anybody]

    async def file(self, name: str, peer: PeerId) -> ServedFile:
        """Raises NotFoundError, and what the program says."""
        holders = self._holders(name, peer)
        if not holders:
            raise NotFoundError(f"no file {name}", hint="its program may have ended or closed it")
        match await _ask_any(holders, "GetMetadata", {}):
            case {"fileSize": size}:
                return ServedFile(holders, whole_number(size))
            case _:
                raise RemoteProtocolError("the program's answer to GetMetadata has no fileSize")

    @asynccontextmanager
    async def upload(self, name: str, peer: PeerId, size_bytes: int, sha256: str) -> AsyncIterator[Upload]:
        """Raises NotFoundError, ConflictError (in use, written to already), what broke it before."""
        holders = self._holders(name, peer)
        if not holders:
            raise NotFoundError(f"no place {name} for a file", hint="its program may have ended or closed it")
        service = holders[-1]
        found: Upload | None = service.upload
        same = found is not None and (found.peer, found.size_bytes, found.sha256) == (peer, size_bytes, sha256)
        if found is not None and found.busy:
            raise ConflictError(f"{name} is being written to")
        if found is None or (service.shared and (not same or found.broken is not None)):
            found = service.upload = Upload(service, peer, size_bytes, sha256)  # gftp begins a new file at offset 0
        elif not same:
            raise ConflictError(f"{name} was written to already", hint="a new transfer needs a new URL")
        elif found.broken is not None:
            raise found.broken
        found.busy = True
        try:
            yield found
        finally:
            found.drop_rest()
            found.busy = False
