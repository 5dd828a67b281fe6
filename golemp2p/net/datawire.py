"""The framing of ``/golemp2p/data/1`` (protocols/data.md): headers and raw bytes on one stream, every wait bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
import trio

from golemp2p import limits
from golemp2p.errors import DeadlineError, NetworkError, PolicyError, RemoteProtocolError, UsageError
from golemp2p.net.filewriter import writing
from golemp2p.net.frames import Failure
from golemp2p.net.lane import RECORD_BYTES, LaneStream
from golemp2p.net.port import ByteStream
from golemp2p.net.rpc_caller import error_of
from golemp2p.storage.content import size_of

PROTOCOL: Final = "/golemp2p/data/1"
MAX_HEADER_BYTES: Final = 4096
# One hop to a worker thread for about a MiB. A Noise packet takes 65,507 bytes of a stream beside Yamux's header: with
# 64 KiB at a time every second packet would carry 29 bytes.
_PIECE_BYTES: Final = 4 * limits.DATA_PACKET_BYTES
_FILE_BLOCK_BYTES: Final = 4 * _PIECE_BYTES
Progress = Callable[[int, int], None]  # (bytes done, bytes in all); must not block


def encode_header(fields: list[Any]) -> bytes:
    payload = bytes(msgpack.packb(fields))
    if len(payload) > MAX_HEADER_BYTES:
        raise UsageError(f"a data header of {len(payload)} bytes")
    return len(payload).to_bytes(2, "big") + payload


class Wire:
    """A stream with a buffer for what came with a header, and a deadline on every wait."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def some(self, max_bytes: int) -> bytes:
        if not self._buffer and self.lane is not None:
            self._buffer = await self.lane.read(RECORD_BYTES)  # a thread's work each time: not byte by byte
        if self._buffer or self.lane is not None:
            piece, self._buffer = self._buffer[:max_bytes], self._buffer[max_bytes:]
            return piece
        try:
            with trio.fail_after(limits.DATA_STALL_TIMEOUT_S):
                return await self.stream.read(max_bytes)
        except trio.TooSlowError as exc:
            raise DeadlineError(f"{self.stream.peer} sent nothing for {limits.DATA_STALL_TIMEOUT_S:.0f} s") from exc

    @property
    def lane(self) -> LaneStream | None:
        return self.stream if isinstance(self.stream, LaneStream) else None

    async def exactly(self, size: int) -> bytes:
        if self.lane is not None:
            return await self._exactly_by_lane(self.lane, size)
        data = bytearray()
        while len(data) < size:
            piece = await self.some(size - len(data))
            if not piece:
                raise NetworkError(f"{self.stream.peer} ended a data stream early")
            data += piece
        return bytes(data)

    async def _exactly_by_lane(self, lane: LaneStream, size: int) -> bytes:
        """Each time to a thread: so a header comes with what follows it, and a chunk in one go."""
        while len(self._buffer) < size:
            missing = size - len(self._buffer)
            more = await (lane.read_exactly(missing) if missing >= RECORD_BYTES else lane.read(RECORD_BYTES))
            if not more:
                raise NetworkError(f"{lane.peer} ended a data stream early")
            self._buffer += more
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    async def chunk(self, size: int, keep: Callable[[memoryview], bool]) -> bool:
        """What ``keep``, a blocking function, says of the next ``size`` bytes. Raises its OSErrors as PolicyError."""
        if self.lane is not None and size <= limits.LANE_BLOCK_BYTES:
            head, self._buffer = self._buffer[:size], self._buffer[size:]
            return await self.lane.receive_chunk(head, size, keep)
        data = await self.exactly(size)
        try:
            return await trio.to_thread.run_sync(keep, memoryview(data))
        except OSError as exc:
            raise PolicyError(f"a chunk cannot be written: {exc.strerror}", hint="is the disk full?") from exc

    async def next_header(self) -> list[Any] | None:
        """As :meth:`header`, or None when the peer has nothing more to say."""
        first = await self.some(1)
        if not first:
            return None
        self._buffer = first + self._buffer
        return await self.header()

    async def header(self) -> list[Any]:
        size = int.from_bytes(await self.exactly(2), "big")
        if not 0 < size <= MAX_HEADER_BYTES:
            raise RemoteProtocolError(f"a data header of {size} bytes")
        try:
            fields = msgpack.unpackb(await self.exactly(size))
        except (ValueError, msgpack.UnpackException, RecursionError) as exc:
            raise RemoteProtocolError("a data header is not msgpack") from exc
        if not isinstance(fields, list):
            raise RemoteProtocolError("a data header is not a list")
        return fields

    async def answer(self, *, patient: bool = False) -> list[Any]:
        """What follows "ok". Raises the peer's error. ``patient``: it may take as long as our sending takes."""
        if patient:
            self._buffer += await self.stream.read(1 if self.lane is None else RECORD_BYTES)
        match await self.header():
            case ["ok", *rest]:
                return rest
            case ["error", str(code), str(message), str(hint)]:
                raise error_of(Failure(0, code, message, hint))
        raise RemoteProtocolError("a data answer is neither ok nor error")

    async def send(self, data: bytes) -> None:
        try:
            with trio.fail_after(limits.DATA_STALL_TIMEOUT_S):
                await self.stream.write(data)
        except trio.TooSlowError as exc:
            raise DeadlineError(f"{self.stream.peer} took nothing for {limits.DATA_STALL_TIMEOUT_S:.0f} s") from exc

    async def send_file(
        self, path: Path, offset: int, on_progress: Progress | None = None, *, end: int | None = None
    ) -> None:
        """From ``offset`` to ``end``, or to the end of the file."""
        total = size_of(path) or 0
        end = total if end is None else min(end, total)
        if self.lane is not None:
            reached = await self.lane.send_file(
                path, offset, end, lambda done: on_progress and on_progress(done, total)
            )
            if reached < end:
                raise NetworkError(f"{self.stream.peer} did not wait for the end of a file")
            return
        async with await trio.open_file(path, "rb") as file:
            await file.seek(offset)
            while offset < end and (block := await file.read(min(_FILE_BLOCK_BYTES, end - offset))):
                await self.send_bulk(block)
                offset += len(block)
                if on_progress is not None:
                    on_progress(offset, total)

    async def send_bulk(self, data: bytes) -> None:
        """As :meth:`send`, for much: in pieces that each have the time of one."""
        for start in range(0, len(data), _PIECE_BYTES):
            await self.send(data[start : start + _PIECE_BYTES])

    async def receive_file(
        self,
        path: Path,
        offset: int,
        total: int,
        on_progress: Progress | None = None,
        *,
        algorithms: Sequence[str] = (),
    ) -> dict[str, str]:
        """Append to ``path`` from ``offset`` until it has ``total`` bytes. What came stays, whatever happens.

        The file's digests by ``algorithms``.
        """
        if self.lane is not None:
            head, self._buffer = self._buffer[: total - offset], self._buffer[total - offset :]
            return await self.lane.receive_file(path, offset, total, on_progress, algorithms=algorithms, head=head)
        async with writing(path, offset, algorithms) as writer:
            while offset < total:
                piece = await self.some(min(total - offset, _PIECE_BYTES))
                if not piece:
                    raise NetworkError(f"{self.stream.peer} ended the transfer after {offset} of {total} bytes")
                await writer.write(piece)
                offset += len(piece)
                if on_progress is not None:
                    on_progress(offset, total)
        return writer.digests
