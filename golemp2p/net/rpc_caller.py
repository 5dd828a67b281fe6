"""The calling half of RPC: our streams to peers, opened on demand, shared by all calls, replaced when they break."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import (
    ConflictError,
    DeadlineError,
    GolemError,
    GoneError,
    NetworkError,
    NotFoundError,
    PolicyError,
    RemoteError,
    RemoteProtocolError,
    UsageError,
)
from golemp2p.net.frames import MAX_ID, Cancel, Credit, Decoder, End, Failure, Frame, Item, Request, Response, encode
from golemp2p.net.port import ByteStream, Network
from golemp2p.net.writer import FrameWriter

log = structlog.get_logger(__name__)
READ_BYTES: Final = 64 * 1024
_FAMILIES: Final[dict[str, type[GolemError]]] = {
    family.code: family for family in (NotFoundError, GoneError, ConflictError, UsageError, PolicyError)
}
Fault = Callable[[PeerId, RemoteProtocolError], None]


def error_of(failure: Failure) -> GolemError:
    """The error that a remote handler raised, as the caller gets it."""
    family = _FAMILIES.get(failure.code)
    if family is not None:
        return family(failure.message, hint=failure.hint)
    return RemoteError(failure.message, code=failure.code, hint=failure.hint)


@dataclass
class _Pending:
    """One exchange. Without ``credit`` it is a call; with it, ``items`` holds at most that many."""

    credit: int = 0
    items: list[Any] = field(default_factory=list)
    allowed: int = 0  # items the peer may still send
    done: bool = False
    answer: Any = None
    error: GolemError | None = None
    wake: trio.Event = field(default_factory=trio.Event)

    def finish(self, *, answer: Any = None, error: GolemError | None = None) -> None:
        self.done, self.answer, self.error = True, answer, error
        self.wake.set()


class _Link:
    """One stream of ours and the exchanges on it."""

    def __init__(self, stream: ByteStream, protocol: str) -> None:
        self.stream, self.protocol = stream, protocol
        self.writer = FrameWriter(stream)
        self.pending: dict[int, _Pending] = {}
        self.broken: NetworkError | None = None
        self.used_at = trio.current_time()
        self._next_id = 0

    def new_id(self) -> int:
        while True:
            self._next_id = self._next_id % MAX_ID + 1
            if self._next_id not in self.pending:
                return self._next_id

    async def run(self) -> None:
        """Until the stream ends. Raises RemoteProtocolError; all exchanges fail with NetworkError in any case."""
        problem: GolemError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                try:
                    await self._read()
                except (NetworkError, RemoteProtocolError) as exc:
                    problem = exc
                nursery.cancel_scope.cancel()
        finally:
            self.fail(problem)
            await self.stream.reset()
        if isinstance(problem, RemoteProtocolError):
            raise problem

    def fail(self, problem: GolemError | None) -> None:
        if self.broken is None:
            reason = f": {problem.message}" if problem else ""
            self.broken = NetworkError(f"the {self.protocol} stream to {self.stream.peer} ended{reason}")
        for pending in list(self.pending.values()):
            pending.finish(error=NetworkError(self.broken.message))

    async def _write(self) -> None:
        with suppress(NetworkError):  # the reader sees the same and ends the link
            await self.writer.run()

    async def _read(self) -> None:
        decoder = Decoder()
        while data := await self.stream.read(READ_BYTES):
            for frame in decoder.feed(data):
                self._take(frame)

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, Request | Cancel | Credit):
            raise RemoteProtocolError(f"a server sent a {type(frame).__name__} frame")
        pending = self.pending.get(frame.id)
        if pending is None or pending.done:
            return  # cancelled a moment ago
        match frame:
            case Response(_, body) if not pending.credit:
                pending.finish(answer=body)
            case Failure():
                pending.finish(error=error_of(frame))
            case Item(_, body) if pending.allowed > 0:
                pending.allowed -= 1
                pending.items.append(body)
                pending.wake.set()
            case End() if pending.credit:
                pending.finish()
            case _:
                raise RemoteProtocolError(f"a {type(frame).__name__} frame that its request does not allow")

    @asynccontextmanager
    async def exchange(self, request: Request) -> AsyncIterator[_Pending]:
        """Send ``request``; leaving before it is done cancels it at the peer."""
        if self.broken is not None:
            raise NetworkError(self.broken.message)
        pending = _Pending(credit=request.credit, allowed=request.credit)
        self.pending[request.id] = pending
        sent = False
        try:
            await self.writer.send(encode(request))
            sent = True
            yield pending
        finally:
            del self.pending[request.id]
            self.used_at = trio.current_time()
            if sent and not pending.done and self.broken is None:
                with suppress(NetworkError):  # then it is cancelled anyway
                    self.writer.send_now(encode(Cancel(request.id)))


class Caller:
    def __init__(self, network: Network, fault: Fault) -> None:
        self._network, self._fault = network, fault
        self._links: dict[tuple[PeerId, str], _Link] = {}
        self._opening: dict[tuple[PeerId, str], trio.Lock] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                while True:
                    await trio.sleep(limits.RPC_IDLE_S / 4)
                    await self._close_idle()
            finally:
                self._nursery = None

    async def _close_idle(self) -> None:
        """A stream without a call for a while is closed: else it would keep a relayed connection alive for ever."""
        before = trio.current_time() - limits.RPC_IDLE_S
        for key, link in list(self._links.items()):
            if not link.pending and link.used_at < before:
                del self._links[key]  # the next call opens another
                await link.stream.reset()

    async def _link(self, peer: PeerId, protocol: str) -> _Link:
        key = (peer, protocol)
        link = self._links.get(key)
        if link is not None and link.broken is None:
            return link
        lock = self._opening.setdefault(key, trio.Lock())
        async with lock:  # one of the callers opens, the others wait for it
            link = self._links.get(key)
            if link is not None and link.broken is None:
                return link
            if self._nursery is None:
                raise UsageError("Rpc.run is not running", hint="await nursery.start(rpc.run) first")
            stream = await self._network.open_stream(peer, protocol, timeout_s=limits.RPC_OPEN_TIMEOUT_S)
            link = self._links[key] = _Link(stream, protocol)
            self._nursery.start_soon(self._run_link, key, link)
        if not lock.statistics().tasks_waiting:
            self._opening.pop(key, None)
        return link

    async def _run_link(self, key: tuple[PeerId, str], link: _Link) -> None:
        try:
            await link.run()
        except RemoteProtocolError as exc:
            self._fault(key[0], exc)
        finally:
            if self._links.get(key) is link:
                del self._links[key]

    async def call(
        self, peer: PeerId, protocol: str, method: str, body: Mapping[str, object], *, timeout_s: float
    ) -> Any:
        try:
            with trio.fail_after(timeout_s):
                link = await self._link(peer, protocol)
                request = Request(link.new_id(), method, dict(body), math.ceil(timeout_s * 1000))
                async with link.exchange(request) as pending:
                    await pending.wake.wait()
        except trio.TooSlowError as exc:
            raise DeadlineError(f"{method} was not answered by {peer} within {timeout_s:g} s") from exc
        if pending.error is not None:
            raise pending.error
        return pending.answer

    @asynccontextmanager
    async def stream(
        self, peer: PeerId, protocol: str, method: str, body: Mapping[str, object], *, timeout_s: float
    ) -> AsyncIterator[AsyncIterator[Any]]:
        try:
            with trio.fail_after(timeout_s):
                link = await self._link(peer, protocol)
        except trio.TooSlowError as exc:
            raise DeadlineError(f"{method} at {peer} was not reached within {timeout_s:g} s") from exc
        request = Request(link.new_id(), method, dict(body), math.ceil(timeout_s * 1000), limits.RPC_STREAM_CREDIT)
        async with link.exchange(request) as pending:
            yield _Items(link, request, pending, timeout_s)


class _Items:
    """The iterator of one server stream."""

    def __init__(self, link: _Link, request: Request, pending: _Pending, timeout_s: float) -> None:
        self._link, self._request, self._pending, self._timeout_s = link, request, pending, timeout_s
        self._taken = 0

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        pending = self._pending
        if not pending.items and not pending.done:
            pending.wake = trio.Event()
            with trio.move_on_after(self._timeout_s) as scope:
                await pending.wake.wait()
            if scope.cancelled_caught:
                raise DeadlineError(
                    f"{self._request.method} of {self._link.stream.peer} was silent for {self._timeout_s:g} s"
                )
        else:
            await trio.lowlevel.checkpoint()
        if pending.items:
            item = pending.items.pop(0)
            self._repay()
            return item
        if pending.error is not None:
            raise pending.error
        raise StopAsyncIteration

    def _repay(self) -> None:
        """Half of the credit at a time, so that a fast stream costs one credit frame per many items."""
        self._taken += 1
        if self._taken >= self._pending.credit // 2 and not self._pending.done and self._link.broken is None:
            self._pending.allowed += self._taken
            try:
                self._link.writer.send_now(encode(Credit(self._request.id, self._taken)))
            except NetworkError:
                return  # the reader ends the exchange
            self._taken = 0
