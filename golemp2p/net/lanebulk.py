"""The blocking loops of a bulk lane: files out of and into a TLS socket, in worker threads.

A TLS record has 16 KiB, and Python sends and receives one per call; disk and hash work on blocks of 1 MiB meanwhile,
in threads of their own, for TLS, hashing and writing all let go of the interpreter's lock.
"""

from __future__ import annotations

import os
import queue
import select
import ssl
from collections.abc import Callable
from pathlib import Path

from golemp2p import limits
from golemp2p.net.lanehash import Written

_Block = tuple[memoryview, int]


def speaks(connection: ssl.SSLSocket) -> bool:
    """Whether the peer has said something (or left) that was not read yet."""
    if connection.pending():
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def send_file(connection: ssl.SSLSocket, path: Path, offset: int, end: int, report: Callable[[int], None]) -> int:
    """Send from ``offset`` to ``end``; how far it came: less when the file ends before, or the peer speaks meanwhile.

    Raises OSError of the socket; FileError of the file.
    """
    buffer = memoryview(bytearray(min(limits.LANE_BLOCK_BYTES, max(end - offset, 1))))
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise FileError(exc) from exc
    try:
        while offset < end and not speaks(connection):
            try:
                size = os.preadv(file, [buffer[: end - offset]], offset)
            except OSError as exc:
                raise FileError(exc) from exc
            if not size:
                break
            connection.sendall(buffer[:size])
            offset += size
            report(offset)
    finally:
        os.close(file)
    return offset


def receive_exactly(connection: ssl.SSLSocket, size: int) -> bytes:
    """Less than ``size`` when the peer ends. Raises OSError."""
    data = bytearray(size)
    return bytes(data) if (got := _fill(connection, memoryview(data))) == size else bytes(data[:got])


def _fill(connection: ssl.SSLSocket, view: memoryview) -> int:
    done = 0
    while done < len(view):
        got = connection.recv_into(view[done:])
        if not got:
            break
        done += got
    return done


class FileError(Exception):
    """An OSError of the file, to be told from those of the socket."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class Receiver:
    """Two threads for the bytes from ``offset`` to ``total``: :meth:`read` and :meth:`write`; they end together."""

    def __init__(
        self, connection: ssl.SSLSocket, path: Path, offset: int, total: int, written: Written, kill: Callable[[], None]
    ) -> None:
        """``kill`` ends the reading from another thread."""
        self._connection, self._path, self._kill = connection, path, kill
        self._offset, self._total, self._written = offset, total, written
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._filled: queue.SimpleQueue[_Block | None] = queue.SimpleQueue()
        for _ in range(limits.LANE_BUFFERS):
            self._free.put(memoryview(bytearray(min(limits.LANE_BLOCK_BYTES, max(total - offset, 1)))))
        self._all_said = False
        self.done_bytes = offset  # on disk

    def read(self) -> None:
        """Returns when all has come or the peer has ended before. Raises OSError of the socket."""
        left = self._total - self._offset
        try:
            while left:
                buffer, got = self._free.get(), 0
                wanted = min(len(buffer), left)
                try:
                    while got < wanted:
                        size = self._connection.recv_into(buffer[got:wanted])
                        if not size:
                            return
                        got += size
                finally:
                    self._filled.put((buffer, got))  # what came stays
                left -= got
        finally:
            self.no_more()

    def no_more(self) -> None:
        """The writer ends, also when :meth:`read` never ran."""
        self._filled.put(None)

    def write(self) -> None:
        """Raises FileError. Wakes those who follow."""
        try:
            self._write()
        except OSError as exc:
            self._written.end(whole=False)
            self._kill()  # nobody keeps what else would come
            self._discard()
            raise FileError(exc) from exc
        self._written.end(whole=self.done_bytes == self._total)

    def _write(self) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            while (block := self._next()) is not None:
                buffer, size = block
                try:
                    done = 0
                    while done < size:
                        done += os.pwrite(file, buffer[done:size], self.done_bytes + done)
                finally:
                    self._free.put(buffer)
                self.done_bytes += size
                self._written.advance(self.done_bytes)
        finally:
            os.close(file)

    def _next(self) -> _Block | None:
        block = self._filled.get()
        self._all_said = block is None
        return block

    def _discard(self) -> None:
        while not self._all_said and (block := self._next()) is not None:
            self._free.put(block[0])
