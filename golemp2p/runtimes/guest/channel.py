"""One request to the guest agent: its bounded queue of answers, its credits, and a stream over it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import trio

from golemp2p import limits
from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.runtimes.guest import protocol
from golemp2p.runtimes.guest.protocol import Ask, Frame, GuestProtocolError, Refusal, Tell

_T = TypeVar("_T")

_DATA: Final = frozenset({Tell.STDOUT, Tell.STDERR, Tell.DATA})
_CONTROL_FRAMES: Final = 4  # OK, END, EXITED and an ERROR are all that one request ever gets
_MAX_CREDIT_BYTES: Final = 2**31


class SessionPort(Protocol):
    """What a channel needs of its session."""

    @property
    def is_lost(self) -> bool: ...

    def failure(self) -> RuntimeFailureError: ...

    def lose(self, reason: str) -> None: ...

    async def send(self, frame: bytes) -> None: ...

    def abandon(self, channel: Channel) -> None: ...


class Channel:
    """``window_bytes`` is what the agent may send ahead of us; a data frame costs protocol.COST_MIN_BYTES at least."""

    def __init__(self, session: SessionPort, channel_id: int, window_bytes: int) -> None:
        self.id = channel_id
        self.window_bytes = window_bytes
        self.credit_bytes = 0  # what we may send
        self.ended = False  # the agent knows nothing of it any more
        self.refused = False  # an ERROR has come
        self._session = session
        self._allowed_bytes = window_bytes
        self._owed_bytes = 0
        self._inbox: deque[Frame] = deque()
        self._control_frames = 0
        self._news = trio.Event()

    def deliver(self, frame: Frame) -> None:
        """From the reader. Raises GuestProtocolError when the agent sends more than it may."""
        if frame.kind is Tell.CREDIT:
            self.credit_bytes = min(self.credit_bytes + protocol.Fields(frame.body).u32(), _MAX_CREDIT_BYTES)
        elif frame.kind in _DATA:
            self._allowed_bytes -= _cost(frame)
            if self._allowed_bytes < 0:
                raise GuestProtocolError("the guest agent sends faster than it may")
            self._inbox.append(frame)
        else:
            self._control_frames += 1
            if self._control_frames > _CONTROL_FRAMES:
                raise GuestProtocolError(f"the guest agent sent too many answers ({frame.kind.name})")
            self.refused = self.refused or frame.kind is Tell.ERROR
            self._inbox.append(frame)
        self.wake()

    def wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def get(self) -> Frame:
        """The next frame. Raises RuntimeFailureError when the session is lost and all that came is taken."""
        while not self._inbox:
            if self._session.is_lost:
                raise self._session.failure()
            await self._news.wait()
        return self._inbox.popleft()

    async def answer(self, timeout_s: float = limits.GUEST_ANSWER_S) -> bytes | Refusal:
        """The OK's body or the ERROR. Raises RuntimeFailureError."""
        with trio.move_on_after(timeout_s):
            frame = await self.get()
            if frame.kind is Tell.OK:
                return frame.body
            if frame.kind is Tell.ERROR:
                self.ended = True
                return self.parse(protocol.read_refusal, frame.body)
            self._session.lose(f"the guest agent answered a request with {frame.kind.name}")
            raise self._session.failure()
        raise RuntimeFailureError(f"the guest did not answer within {timeout_s:g} s")

    def parse(self, read: Callable[[bytes], _T], body: bytes) -> _T:
        """``read(body)``; a body that is none ends the session. Raises RuntimeFailureError."""
        try:
            return read(body)
        except GuestProtocolError as exc:
            self._session.lose(exc.message)
            raise self._session.failure() from exc

    async def consumed(self, frame: Frame) -> None:
        """The frame's data is out of our hands: the agent may send as much again. Other frames cost nothing."""
        if frame.kind not in _DATA:
            return
        self._owed_bytes += _cost(frame)
        if self._owed_bytes * 4 >= self.window_bytes:
            owed, self._owed_bytes = self._owed_bytes, 0
            self._allowed_bytes += owed
            await self._session.send(protocol.frame(Ask.CREDIT, self.id, protocol.u32(owed)))

    async def send_data(self, data: memoryview | bytes) -> None:
        """All of ``data`` as credit allows. Raises RuntimeFailureError; stops early when the agent refused."""
        at = 0
        while at < len(data) and not self.refused:
            if not self.credit_bytes:
                if self._session.is_lost:
                    raise self._session.failure()
                await self._news.wait()
                continue
            size = min(self.credit_bytes, protocol.BODY_MAX_BYTES, len(data) - at)
            self.credit_bytes -= size
            await self._session.send(protocol.frame(Ask.DATA, self.id, bytes(data[at : at + size])))
            at += size


def _cost(frame: Frame) -> int:
    return max(len(frame.body), protocol.COST_MIN_BYTES)


class ChannelStream(trio.abc.HalfCloseableStream):
    """A connection into the guest. Errors are trio's, as with any stream."""

    def __init__(self, session: SessionPort, channel: Channel) -> None:
        self._session = session
        self._channel = channel
        self._sending = trio.Lock()
        self._rest = b""
        self._read_over = False
        self._write_over = False
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed or self._write_over:
            raise trio.ClosedResourceError
        async with self._sending:
            try:
                self._check()
                await self._channel.send_data(memoryview(data))
                self._check()
            except RuntimeFailureError as exc:
                raise trio.BrokenResourceError from exc

    async def wait_send_all_might_not_block(self) -> None:
        async with self._sending:
            self._check()
            await trio.lowlevel.checkpoint()

    def _check(self) -> None:
        if self._channel.refused or self._session.is_lost:
            raise trio.BrokenResourceError

    async def send_eof(self) -> None:
        async with self._sending:
            if not self._write_over and not self._closed:
                self._write_over = True
                try:
                    await self._session.send(protocol.frame(Ask.END, self._channel.id))
                except RuntimeFailureError as exc:
                    raise trio.BrokenResourceError from exc

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        if not self._rest and not self._read_over:
            await self._receive()
        size = len(self._rest) if max_bytes is None else max_bytes
        chunk, self._rest = self._rest[:size], self._rest[size:]
        return chunk

    async def _receive(self) -> None:
        try:
            frame = await self._channel.get()
            if frame.kind is Tell.DATA:
                self._rest = frame.body
                await self._channel.consumed(frame)
            elif frame.kind is Tell.END:
                self._read_over = True
            else:
                self._channel.ended = True
                raise trio.BrokenResourceError(self._channel.parse(protocol.read_refusal, frame.body).message)
        except RuntimeFailureError as exc:
            raise trio.BrokenResourceError from exc

    async def aclose(self) -> None:
        self._closed = True
        self._session.abandon(self._channel)
        await trio.lowlevel.checkpoint()
