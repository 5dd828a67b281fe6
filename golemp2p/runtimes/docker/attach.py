"""The engine's attach connection as a byte stream: its output comes in frames of 8 bytes of header and data.

Header: type (1 stdout, 2 stderr), three zero bytes, length big-endian (Docker Engine API, "Attach to a container").
"""

from __future__ import annotations

import socket
from typing import Final

import structlog
import trio

log = structlog.get_logger(__name__)

_HEADER_BYTES: Final = 8
_READ_BYTES: Final = 128 * 1024
_STDERR: Final = 2


class AttachedStream(trio.abc.Stream):
    """What the container's main process reads and writes on stdin and stdout; its stderr is logged."""

    def __init__(self, connection: socket.socket, container: str) -> None:
        connection.setblocking(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        self._container = container
        self._buffer = bytearray()
        self._left = 0  # of the frame that we are in
        self._kind = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Of stdout; b"" at the end. A cut header is the end, too."""
        while True:
            while not self._left:
                if len(self._buffer) >= _HEADER_BYTES:
                    self._kind = self._buffer[0]
                    self._left = int.from_bytes(self._buffer[4:8], "big")
                    del self._buffer[:_HEADER_BYTES]
                elif not await self._more():
                    return b""
            if not self._buffer and not await self._more():
                return b""
            wanted = min(self._left, max_bytes or self._left, len(self._buffer))
            data = bytes(memoryview(self._buffer)[:wanted])
            del self._buffer[:wanted]
            self._left -= wanted
            if self._kind != _STDERR:
                return data
            log.debug("agent_stderr", container=self._container[:12], text=data[:500].decode(errors="replace"))

    async def _more(self) -> bool:
        data = await self._stream.receive_some(_READ_BYTES)
        self._buffer += data
        return bool(data)

    async def aclose(self) -> None:
        await self._stream.aclose()
