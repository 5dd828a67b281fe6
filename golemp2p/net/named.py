"""Files by name on the data protocol: what programs of a node serve (golemp2p.gsb), read and written by its peers.

``get`` with the algorithm ``name`` answers in blocks, so that a failure in the middle can still be told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol

import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError, NetworkError, NotFoundError, PolicyError, RemoteProtocolError, UsageError
from golemp2p.net.datawire import Progress, Wire, encode_header
from golemp2p.net.filewriter import writing

BY_NAME: Final = "name"
_PIECE_BYTES: Final = 4 * limits.DATA_PACKET_BYTES  # read at a time
_PIECES_AHEAD: Final = 4  # of what the program that they are for has taken
_MAX_BLOCK_BYTES: Final = 4 * limits.MIB
_END: Final = bytes(4)  # a block of nothing; a header follows


class NamedFile(Protocol):
    @property
    def size_bytes(self) -> int: ...

    async def pour(self, offset: int, take: Callable[[bytes], Awaitable[None]], /) -> None:
        """Hand all from ``offset`` on to ``take``, in order. NetworkError is only raised by ``take``."""
        ...


class NamedUpload(Protocol):
    offset: int  # what has arrived for good
    size_bytes: int
    sha3_256: str | None  # set when the file is complete

    async def write(self, data: bytes, /) -> None: ...

    async def finish(self) -> str: ...


class NamedFiles(Protocol):
    """golemp2p.gsb.files.ServedFiles."""

    def has(self, name: str, peer: PeerId, /) -> bool: ...

    async def file(self, name: str, peer: PeerId, /) -> NamedFile:
        """Raises NotFoundError."""
        ...

    def upload(
        self, name: str, peer: PeerId, size_bytes: int, sha256: str, /
    ) -> AbstractAsyncContextManager[NamedUpload]:
        """Raises NotFoundError, ConflictError."""
        ...


async def give(wire: Wire, named: NamedFiles | None, name: str, offset: int) -> None:
    """Answer ``["get", "name", name, offset]``."""
    if named is None:
        raise NotFoundError(f"no file {name[:80]}")
    file = await named.file(name, wire.stream.peer)
    if offset > file.size_bytes:
        raise UsageError(f"offset {offset} is behind the end ({file.size_bytes})")
    await wire.send(encode_header(["ok", file.size_bytes]))
    try:
        await file.pour(offset, lambda block: _send_block(wire, block))
    except NetworkError:
        raise  # of this stream: there is nobody to tell
    except GolemError:
        await wire.send(_END)
        raise  # the handler tells it, as any error
    await wire.send(_END + encode_header(["ok"]))
    await wire.stream.close_write()
    await wire.some(1)  # the peer closes when it has read all


async def _send_block(wire: Wire, block: bytes) -> None:
    await wire.send(len(block).to_bytes(4, "big"))
    await wire.send_bulk(block)


async def take_blocks(
    wire: Wire,
    path: Path,
    offset: int,
    total: int,
    on_progress: Progress | None = None,
    *,
    algorithms: Sequence[str] = (),
) -> dict[str, str]:
    """The blocks of an answer, appended to ``path`` from ``offset``. What arrived stays, whatever happens.

    The whole file's digests. Raises the peer's error, RemoteProtocolError, NetworkError.
    """
    async with writing(path, offset, algorithms) as writer:
        while left := int.from_bytes(await wire.exactly(4), "big"):
            if left > _MAX_BLOCK_BYTES or offset + left > total:
                raise RemoteProtocolError(f"a block of {left} bytes at {offset} of {total}")
            while left:
                piece = await wire.some(min(left, _PIECE_BYTES))
                if not piece:
                    raise NetworkError(f"{wire.stream.peer} ended the transfer after {offset} of {total} bytes")
                await writer.write(piece)
                left, offset = left - len(piece), offset + len(piece)
            if on_progress is not None:
                on_progress(offset, total)
    await wire.answer()
    if offset != total:
        raise RemoteProtocolError(f"the file ended after {offset} of {total} bytes")
    return writer.digests


async def take_upload(wire: Wire, named: NamedFiles, name: str, total: int, sha256: str) -> None:
    """Answer a put into a name that a program serves."""
    if total > limits.MAX_REST_FILE_BYTES:  # the provider says how much; the program writes all that comes
        raise PolicyError(f"{total} bytes are too many for {name}", hint=f"at most {limits.MAX_REST_FILE_BYTES}")
    async with named.upload(name, wire.stream.peer, total, sha256) as upload:
        await wire.send(encode_header(["ok", total if upload.sha3_256 else upload.offset]))
        digest = upload.sha3_256
        if digest is None:
            await _pass_on(wire, upload, total - upload.offset)
            digest = await upload.finish()
    await wire.send(encode_header(["ok", digest]))


async def _pass_on(wire: Wire, upload: NamedUpload, left: int) -> None:
    """``left`` bytes from the peer to the program; one is read while the other is written."""
    send, receive = trio.open_memory_channel[bytes](_PIECES_AHEAD)
    failure: GolemError | None = None

    async def read() -> None:
        nonlocal failure, left
        async with send:
            try:
                while left:
                    piece = await wire.some(min(left, _PIECE_BYTES))
                    if not piece:
                        failure = NetworkError(f"{wire.stream.peer} ended the transfer with {left} bytes to go")
                        return
                    left -= len(piece)
                    await send.send(piece)
            except GolemError as exc:
                failure = exc

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        try:
            async for piece in receive:
                await upload.write(piece)
        except GolemError as exc:
            failure = exc
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
