"""The blocking loops of a bulk lane: files out of and into a TLS socket, in worker threads.

Disk and hashes work on blocks of 1 MiB in threads of their own: TLS, hashing and writing all let go of the
interpreter's lock.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from golemp2p import limits
from golemp2p.net.directfile import DirectFile, aligned_buffer
from golemp2p.net.lanepipe import TlsPipe
from golemp2p.storage.content import ALGORITHMS


def send_file(
    connection: TlsPipe, path: Path, offset: int, end: int, buffer: memoryview, report: Callable[[int], None]
) -> int:
    """Send from ``offset`` to ``end``; how far it came: less when the file ends before, or the peer speaks meanwhile.

    Raises OSError of the socket; FileError of the file.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise FileError(exc) from exc
    try:
        while offset < end and not connection.speaks():
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


def receive_exactly(connection: TlsPipe, size: int) -> bytes:
    """Less than ``size`` when the peer ends. Raises OSError."""
    data = bytearray(size)
    got = fill(connection, memoryview(data))
    return bytes(data[:got])


def fill(connection: TlsPipe, view: memoryview) -> int:
    """How much of ``view`` is filled; less than all when the peer ends. Raises OSError."""
    done = 0
    while done < len(view):
        got = connection.recv_into(view[done:])
        if not got:
            break
        done += got
    return done


def receive_chunk(
    connection: TlsPipe, head: bytes, buffer: memoryview, keep: Callable[[memoryview], bool]
) -> bool | None:
    """Fill ``buffer``, which begins with ``head``, and have it kept; None when the peer ends before.

    Raises OSError of the socket, FileError of ``keep``.
    """
    buffer[: len(head)] = head
    if fill(connection, buffer[len(head) :]) < len(buffer) - len(head):
        return None
    try:
        return keep(buffer)
    except OSError as exc:
        raise FileError(exc) from exc


class FileError(Exception):
    """An OSError of the file, to be told from those of the socket."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class _Block:
    """A buffer on its way through the threads that want it."""

    def __init__(self) -> None:
        self.memory = aligned_buffer()
        self.size_bytes = self.readers = 0


class Receiver:
    """The threads of what comes from ``offset`` to ``total``: to read, to write, to hash by each algorithm.

    All run, each in its own thread, and end together. A slow one holds the others back: LANE_BUFFERS is all there is.
    """

    def __init__(
        self,
        connection: TlsPipe,
        path: Path,
        offset: int,
        total: int,
        algorithms: Sequence[str],
        kill: Callable[[], None],
    ) -> None:
        """``kill`` ends the reading from another thread."""
        self._connection, self._path, self._kill = connection, path, kill
        self._offset, self._total = offset, total
        self._lock = threading.Lock()
        self._free: queue.SimpleQueue[_Block] = queue.SimpleQueue()
        for _ in range(limits.LANE_BUFFERS):
            self._free.put(_Block())
        self._to_write = _Lane()
        self._to_hash = {algorithm: _Lane() for algorithm in algorithms}
        self._all = [self._to_write, *self._to_hash.values()]
        self.done_bytes = offset  # on disk
        self.digests: dict[str, str] = {}  # of a whole file, in hex

    def read(self) -> None:
        """Returns when all has come or the peer has ended before. Raises OSError of the socket."""
        position = self._offset
        try:
            while position < self._total:
                block, got = self._free.get(), 0
                # Blocks end where blocks of the file end: only the first and the last one are not aligned.
                wanted = min(limits.LANE_BLOCK_BYTES - position % limits.LANE_BLOCK_BYTES, self._total - position)
                try:
                    while got < wanted:
                        size = self._connection.recv_into(block.memory[got:wanted])
                        if not size:
                            return
                        got += size
                finally:
                    block.size_bytes, block.readers = got, len(self._all)  # what came stays
                    for lane in self._all:
                        lane.queue.put(block)
                position += got
        finally:
            self.no_more()

    def no_more(self) -> None:
        """The others end, also when :meth:`read` never ran."""
        for lane in self._all:
            lane.queue.put(None)

    def write(self) -> None:
        """Raises FileError."""
        with self._failing(self._to_write), DirectFile(self._path, self._offset) as file:
            while (block := self._to_write.next()) is not None:
                file.write(block.memory[: block.size_bytes])
                self._done_with(block)
                self.done_bytes = file.position

    def hash_by(self, algorithm: str) -> None:
        """Also what was there before. Raises FileError."""
        lane, hasher, position = self._to_hash[algorithm], hashlib.new(ALGORITHMS[algorithm]), 0
        with self._failing(lane):
            if self._offset:
                with self._path.open("rb", buffering=0) as file:
                    while position < self._offset:
                        piece = file.read(min(limits.LANE_BLOCK_BYTES, self._offset - position))
                        if not piece:
                            raise OSError(errno.EIO, "what arrived before is not there any more")
                        hasher.update(piece)
                        position += len(piece)
            while (block := lane.next()) is not None:
                hasher.update(block.memory[: block.size_bytes])
                position += block.size_bytes
                self._done_with(block)
        if position == self._total:
            self.digests[algorithm] = hasher.hexdigest()

    @contextmanager
    def _failing(self, lane: _Lane) -> Iterator[None]:
        """Who fails ends the reading, and still takes its blocks off the others' way."""
        try:
            yield
        except OSError as exc:
            self._kill()
            if lane.current is not None:
                self._done_with(lane.current)
            while not lane.ended and (block := lane.next()) is not None:
                self._done_with(block)
            raise FileError(exc) from exc

    def _done_with(self, block: _Block) -> None:
        with self._lock:
            block.readers -= 1
            last = not block.readers
        if last:
            self._free.put(block)


class _Lane:
    """What one of the threads is still to do."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[_Block | None] = queue.SimpleQueue()
        self.current: _Block | None = None
        self.ended = False

    def next(self) -> _Block | None:
        self.current = self.queue.get()
        self.ended = self.current is None
        return self.current
