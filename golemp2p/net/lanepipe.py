"""TLS over a blocking socket, in large steps. For one thread at a time.

Python's SSLSocket makes three system calls for each record of 16 KiB. Here TLS works on buffers in memory and the
socket gets and gives 256 KiB at a time: 0.9 s of CPU per GB instead of 1.15 s, of both ends together.
"""

from __future__ import annotations

import mmap
import select
import socket
import ssl
import time
from contextlib import suppress

from golemp2p import limits


class TlsPipe:
    """Owns ``plain``. All methods raise OSError: ssl.SSLError, TimeoutError (nothing moved) or of the socket."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, *, server: bool) -> None:
        self._plain = plain
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=server)
        self._buffer = memoryview(mmap.mmap(-1, limits.LANE_SOCKET_BYTES))

    def handshake(self, timeout_s: float) -> None:
        ends = time.monotonic() + timeout_s
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
            except ssl.SSLError:
                with suppress(OSError):  # the peer is told why, if it is there
                    self._flush()
                raise
            else:
                self._flush()
                return
            self._plain.settimeout(max(ends - time.monotonic(), 0.001))
            if not self._fill():
                raise ConnectionError("the peer ended the handshake")

    def peer_certificate(self) -> bytes | None:
        return self._tls.getpeercert(binary_form=True)

    def settimeout(self, timeout_s: float) -> None:
        """For every move of the socket."""
        self._plain.settimeout(timeout_s)

    def recv_into(self, view: memoryview) -> int:
        """At most a record; 0 when the peer has ended, in order or not: every length is known here."""
        while True:
            try:
                return self._tls.read(len(view), view)  # type: ignore[return-value] # typeshed: bytes, also with a buffer
            except ssl.SSLWantReadError:
                if not self._fill():
                    return 0
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def recv(self, max_bytes: int) -> bytes:
        data = bytearray(max_bytes)
        return bytes(data[: self.recv_into(memoryview(data))])

    def sendall(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            step, rest = rest[: limits.LANE_SOCKET_BYTES], rest[limits.LANE_SOCKET_BYTES :]
            while step:
                step = step[self._tls.write(step) :]
            self._flush()

    def speaks(self) -> bool:
        """Whether the peer has said something (or left) that was not read yet."""
        if self._tls.pending() or self._received.pending:
            return True
        poll = select.poll()
        poll.register(self._plain.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def shutdown(self) -> None:
        """Whoever works on the socket fails now. From any thread, any time before :meth:`close`."""
        with suppress(OSError):  # it was not connected any more
            self._plain.shutdown(socket.SHUT_RDWR)

    def linger(self, timeout_s: float) -> None:
        """Say that nothing more comes, wait for the peer to do so, and close. Never raises."""
        try:
            self._plain.shutdown(socket.SHUT_WR)
            ends = time.monotonic() + timeout_s
            while (left := ends - time.monotonic()) > 0:
                self._plain.settimeout(left)
                if not self._plain.recv_into(self._buffer):  # nobody reads them any more
                    break
        except OSError:
            pass  # it is gone already
        finally:
            self.close()

    def close(self) -> None:
        self._plain.close()

    def _fill(self) -> bool:
        size = self._plain.recv_into(self._buffer)
        self._received.write(self._buffer[:size])
        return bool(size)

    def _flush(self) -> None:
        while self._to_send.pending:
            self._plain.sendall(self._to_send.read())
