"""Two ends of a flow-controlled byte stream in memory."""

from __future__ import annotations

from collections.abc import Callable

import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import NetworkError


class _Pipe:
    """One direction: at most ``capacity`` bytes are on the way."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.buffer = bytearray()
        self.ended = self.broken = False
        self._changed = trio.Event()

    def change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait(self) -> None:
        await self._changed.wait()


class MemoryStream:
    def __init__(self, peer: PeerId, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._peer, self._in, self._out = peer, incoming, outgoing
        self.on_end: Callable[[], object] = lambda: None

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def read(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._in.buffer:
            if self._in.broken:
                raise self._broken()
            if self._in.ended:
                return b""
            await self._in.wait()
        data = bytes(self._in.buffer[:max_bytes])
        del self._in.buffer[: len(data)]
        self._in.change()
        return data

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        sent = 0
        while sent < len(data):
            if self._out.broken or self._out.ended:
                raise self._broken()
            room = self._out.capacity - len(self._out.buffer)
            if room <= 0:
                await self._out.wait()
                continue
            self._out.buffer += data[sent : sent + room]
            sent += min(room, len(data) - sent)
            self._out.change()
        if self._out.broken:
            raise self._broken()

    async def close_write(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._out.broken:
            raise self._broken()
        self._out.ended = True
        self._out.change()

    async def aclose(self) -> None:
        self._out.ended = True
        self._out.change()
        if not self._in.ended:  # the peer may read what we sent but has nobody to write to
            self._in.broken = True
            self._in.buffer.clear()
            self._in.change()
        self.on_end()

    async def reset(self) -> None:
        self.break_()

    def break_(self) -> None:
        """Both directions, at once; what is under way is lost."""
        for pipe in (self._in, self._out):
            if not (pipe.ended and not pipe.buffer):
                pipe.broken = True
            pipe.buffer.clear()
            pipe.change()
        self.on_end()

    def _broken(self) -> NetworkError:
        return NetworkError(f"the stream to {self._peer} broke", hint="the peer closed it or its connection was lost")


def stream_pair(one: PeerId, other: PeerId) -> tuple[MemoryStream, MemoryStream]:
    """(the end of ``one``, the end of ``other``)."""
    there, back = _Pipe(limits.STREAM_WINDOW_BYTES // 4), _Pipe(limits.STREAM_WINDOW_BYTES // 4)
    return MemoryStream(other, back, there), MemoryStream(one, there, back)
