"""What Hypercorn's sockets need to be fit for files, and for clients that stop reading. Nothing else patches Hypercorn.

* It agrees to permessage-deflate whenever a client offers it, and golem-js does: deflating both ways took the larger
  part of a file's time. There is no setting, so its handshake is told that nothing was offered.
* wsproto unmasks in Python, which was the largest part of what was left (14 % of the node's time); now C does it.
* It writes the head and the body of an answer apart: two system calls, two packets and two wake-ups of the client where
  one does, a quarter of a cheap answer's time. What has a length goes out in one write.
* It shields each write to a socket from cancellation without end: one client that was stopped while we wrote to it kept
  the whole node from ending. Now a write has REST_WRITE_STALL_S, and at the end of the server REST_SHUTDOWN_GRACE_S.
"""

from __future__ import annotations

from typing import Any, Final

import h11
import trio
import wsproto.frame_protocol
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol import ws_stream
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from websockets import frames as websocket_frames

from golemp2p import limits


class Writes:
    """Of one server; its config carries it to the connections."""

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._over_at = float("inf")

    async def write(self, stream: Any, data: bytes) -> bool:
        """False when the client took too long. Raises what ``send_all`` raises."""
        deadline = min(trio.current_time() + limits.REST_WRITE_STALL_S, self._over_at)
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            self._scopes.add(scope)
            try:
                await stream.send_all(data)
            finally:
                self._scopes.discard(scope)
        return not scope.cancelled_caught

    async def end_with_server(self) -> None:
        """A task beside the server's: when it is cancelled, writes have a grace."""
        try:
            await trio.sleep_forever()
        finally:
            self._over_at = trio.current_time() + limits.REST_SHUTDOWN_GRACE_S
            for scope in self._scopes:
                scope.deadline = min(scope.deadline, self._over_at)


_plain_send: Final = TCPServer.protocol_send


async def _protocol_send(self: Any, event: Any) -> None:
    writes = getattr(self.config, "golemp2p_writes", None)
    if not isinstance(event, RawData) or writes is None:
        await _plain_send(self, event)
        return
    try:
        async with self.send_lock:
            if await writes.write(self.stream, event.data):
                return
        await trio.aclose_forcefully(self.stream)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    await self.protocol.handle(Closed())


async def _send_h11_event(self: Any, event: Any) -> None:
    """As Hypercorn's, but that a head whose body has a length waits for what follows it at once."""
    try:
        data = self.connection.send(event) or b""
    except h11.LocalProtocolError:
        if self.connection.their_state != h11.ERROR:
            raise
        return
    data = self.__dict__.pop("golemp2p_head", b"") + data
    if isinstance(event, h11.Response) and any(name == b"content-length" for name, _ in event.headers):
        self.golemp2p_head = data
    elif data:
        await self.send(RawData(data=data))


class _PlainHandshake(ws_stream.Handshake):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.extensions = None


class _Masker:
    """As wsproto's own: a mask that goes on where it stopped."""

    def __init__(self, masking_key: bytes | bytearray) -> None:
        self._key = bytes(masking_key)

    def process(self, data: bytearray) -> bytearray:
        turn = len(data) % 4
        masked = websocket_frames.apply_mask(bytes(data), self._key)  # type: ignore[attr-defined] # in C where it is built
        self._key = self._key[turn:] + self._key[:turn]
        return bytearray(masked)


def prepare(config: Config) -> Writes:
    """Patch, once per process, and give ``config``'s server its writes; run ``end_with_server`` beside it."""
    ws_stream.Handshake = _PlainHandshake  # type: ignore[misc] # the patch
    wsproto.frame_protocol.XorMaskerSimple = _Masker  # type: ignore[misc, assignment] # the patch
    TCPServer.protocol_send = _protocol_send  # type: ignore[method-assign] # the patch
    H11Protocol._send_h11_event = _send_h11_event  # type: ignore[method-assign] # the patch
    writes = Writes()
    config.golemp2p_writes = writes  # type: ignore[attr-defined] # the way to the connections
    return writes
