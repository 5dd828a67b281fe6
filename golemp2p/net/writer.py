"""The one task that writes to a stream, behind a queue bounded in bytes.

A write that is cancelled half way leaves half a frame on the wire, so callers queue whole frames and only this task
writes; what is queued together goes out in one write.
"""

from __future__ import annotations

from collections import deque

import trio

from golemp2p import limits
from golemp2p.errors import NetworkError
from golemp2p.net.port import ByteStream

_BATCH_BYTES = 64 * 1024


class FrameWriter:
    def __init__(self, stream: ByteStream, *, max_bytes: int = limits.RPC_QUEUED_BYTES) -> None:
        self._stream, self._max_bytes = stream, max_bytes
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._work, self._room = trio.Event(), trio.Event()
        self._broken = False

    async def send(self, frame: bytes) -> None:
        """Wait for room, then queue. Cancellation before that queues nothing. Raises NetworkError when broken."""
        while self._queued_bytes >= self._max_bytes and not self._broken:
            await self._room.wait()
        self.send_now(frame)

    def send_now(self, frame: bytes) -> None:
        """For small control frames, of which each call makes at most a few."""
        if self._broken:
            raise NetworkError(f"the stream to {self._stream.peer} broke")
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        self._work.set()

    async def run(self) -> None:
        """Write until cancelled. Raises NetworkError when the stream breaks."""
        try:
            while True:
                if not self._queue:
                    self._work = trio.Event()
                    await self._work.wait()
                batch, size = [], 0
                while self._queue and size < _BATCH_BYTES:
                    frame = self._queue.popleft()
                    batch.append(frame)
                    size += len(frame)
                await self._stream.write(b"".join(batch))
                self._queued_bytes -= size
                self._room.set()
                self._room = trio.Event()
        finally:
            self._broken = True
            self._room.set()
