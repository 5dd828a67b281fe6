"""The serving half of RPC: requests of one peer on one stream, each handled in a task of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pydantic
import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError, NetworkError, RemoteError, RemoteProtocolError, UsageError
from golemp2p.net.frames import Cancel, Credit, Decoder, End, Failure, Frame, Item, Request, Response, encode
from golemp2p.net.port import ByteStream
from golemp2p.net.writer import FrameWriter

Method = Callable[[PeerId, dict[str, Any]], Awaitable[object]]
SendItem = Callable[[object], Awaitable[None]]
StreamMethod = Callable[[PeerId, dict[str, Any], SendItem], Awaitable[None]]
log = structlog.get_logger(__name__)
READ_BYTES = 64 * 1024


@dataclass
class _Running:
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    credit: int = 0
    more: trio.Event = field(default_factory=trio.Event)


class Server:
    """The methods of one protocol. ``active`` counts the requests that each peer has running, over all protocols."""

    def __init__(self, protocol: str, active: Counter[PeerId]) -> None:
        self._protocol, self._active = protocol, active
        self._methods: dict[str, Method] = {}
        self._streams: dict[str, StreamMethod] = {}

    def add(self, methods: Mapping[str, Method], streams: Mapping[str, StreamMethod]) -> None:
        self._methods.update(methods)
        self._streams.update(streams)

    async def run(self, stream: ByteStream) -> None:
        """Until the peer closes the stream, which cancels what it still had running. Raises RemoteProtocolError."""
        connection = _Connection(self, stream)
        problem: GolemError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.write)
            try:
                await connection.read(nursery)
            except (NetworkError, RemoteProtocolError) as exc:
                problem = exc
            nursery.cancel_scope.cancel()
        if isinstance(problem, RemoteProtocolError):
            raise problem


class _Connection:
    def __init__(self, server: Server, stream: ByteStream) -> None:
        self._server, self._stream, self._peer = server, stream, stream.peer
        self._writer = FrameWriter(stream)
        self._running: dict[int, _Running] = {}

    async def write(self) -> None:
        with suppress(NetworkError):  # the reader sees the same and ends the connection
            await self._writer.run()

    async def read(self, nursery: trio.Nursery) -> None:
        decoder = Decoder()
        while data := await self._stream.read(READ_BYTES):
            for frame in decoder.feed(data):
                self._take(frame, nursery)
        if decoder.pending_bytes:
            raise RemoteProtocolError(f"the stream ended within a frame ({decoder.pending_bytes} bytes of it)")

    def _take(self, frame: Frame, nursery: trio.Nursery) -> None:
        match frame:
            case Request(id_):
                if id_ in self._running:
                    raise RemoteProtocolError(f"RPC id {id_} is used twice")
                if self._server._active[self._peer] >= limits.RPC_MAX_CONCURRENT:
                    self._answer_now(
                        Failure(
                            id_, "busy", "too many requests at the same time", f"at most {limits.RPC_MAX_CONCURRENT}"
                        )
                    )
                    return
                self._running[id_] = running = _Running(credit=frame.credit)
                self._server._active[self._peer] += 1
                nursery.start_soon(self._handle, frame, running)
            case Cancel(id_):
                if id_ in self._running:  # else it has just been answered
                    self._running[id_].scope.cancel()
            case Credit(id_, more):
                if id_ in self._running:
                    running = self._running[id_]
                    running.credit += more
                    if running.credit > limits.RPC_STREAM_CREDIT:
                        raise RemoteProtocolError(f"more than {limits.RPC_STREAM_CREDIT} credit on one RPC stream")
                    running.more.set()
            case _:
                raise RemoteProtocolError(f"a caller sent a {type(frame).__name__} frame")

    def _answer_now(self, frame: Failure) -> None:
        with suppress(NetworkError):  # the reader ends the connection
            self._writer.send_now(encode(frame))

    async def _handle(self, request: Request, running: _Running) -> None:
        try:
            with running.scope:
                answer = await self._answer(request, running)
                await self._writer.send(answer)
        except NetworkError:
            pass  # nobody is left to hear the answer
        finally:
            del self._running[request.id]
            self._server._active[self._peer] -= 1
            if not self._server._active[self._peer]:
                del self._server._active[self._peer]

    async def _answer(self, request: Request, running: _Running) -> bytes:
        """The last frame of the exchange, encoded. Never raises but Cancelled."""
        id_, method = request.id, request.method
        try:
            if request.credit:
                await self._stream_items(request, running)
                return encode(End(id_))
            handler = self._server._methods.get(method)
            if handler is None:
                return encode(Failure(id_, "unknown_method", f"{self._server._protocol} has no method {method!r}"))
            with trio.fail_after(request.timeout_ms / 1000):
                result = await handler(self._peer, request.body)
            try:
                return encode(Response(id_, result))
            except UsageError as exc:
                log.exception("rpc answer cannot be sent", method=method, error=str(exc))
                return encode(Failure(id_, "internal", "the answer cannot be sent"))
        except GolemError as exc:
            return encode(Failure(id_, exc.code, exc.message, exc.hint))
        except pydantic.ValidationError as exc:
            return encode(Failure(id_, "remote_protocol", _what_is_wrong(exc)))
        except trio.TooSlowError:
            return encode(Failure(id_, "deadline", f"{method} was not done within {request.timeout_ms / 1000:g} s"))
        except Exception as exc:  # a handler's mistake is told to nobody but our log
            log.exception("rpc handler failed", method=method, peer=self._peer, error=str(exc))
            return encode(Failure(id_, "internal", "internal error at the peer"))

    async def _stream_items(self, request: Request, running: _Running) -> None:
        handler = self._server._streams.get(request.method)
        if handler is None:
            raise RemoteError(
                f"{self._server._protocol} has no stream method {request.method!r}", code="unknown_method"
            )

        async def send_item(body: object) -> None:
            frame = encode(Item(request.id, body))
            while running.credit <= 0:
                running.more = trio.Event()
                await running.more.wait()
            running.credit -= 1
            await self._writer.send(frame)

        await handler(self._peer, request.body, send_item)


def _what_is_wrong(exc: pydantic.ValidationError) -> str:
    """The first error with its field, without the values (they may be large or secret)."""
    first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "body"
    return f"field {where}: {first['msg']}"
