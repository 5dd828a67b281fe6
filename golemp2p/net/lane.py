"""A bulk lane: a TLS socket to an authenticated peer, used from worker threads, as a stream of the data protocol.

One thing at a time: it sends or it receives. It has no half close, which the data protocol does without, because every
length is known beforehand. A cancelled transfer shuts the socket down, which wakes the threads that wait for it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import DeadlineError, GolemError, InternalError, NetworkError, PolicyError
from golemp2p.net import lanebulk
from golemp2p.net.directfile import aligned_buffer
from golemp2p.net.lanepipe import TlsPipe
from golemp2p.net.lanethreads import run_blocking

log = structlog.get_logger(__name__)
Progress = Callable[[int, int], None]
T = TypeVar("T")
RECORD_BYTES: Final = 16 * 1024  # a TLS record


class LaneStream:
    """A ByteStream with quick ways for files. Made by golemp2p.net.lanes."""

    def __init__(
        self, connection: TlsPipe, peer: PeerId, threads: trio.CapacityLimiter, on_close: Callable[[], None]
    ) -> None:
        """``connection`` has passed its handshake; its timeout is what one record may take."""
        self._connection, self._peer, self._threads, self._on_close = connection, peer, threads, on_close
        self._busy = self._dead = self._closed = False
        self._buffer: memoryview | None = None
        connection.settimeout(limits.DATA_STALL_TIMEOUT_S)

    @property
    def peer(self) -> PeerId:
        return self._peer

    # --- as any stream ----------------------------------------------------------------------------------------------
    async def read(self, max_bytes: int) -> bytes:
        return await self._run(lambda: self._connection.recv(min(max_bytes, RECORD_BYTES)))

    async def read_exactly(self, size: int) -> bytes:
        """Less than ``size`` when the peer ends."""
        return await self._run(lambda: lanebulk.receive_exactly(self._connection, size))

    async def write(self, data: bytes) -> None:
        await self._run(lambda: self._connection.sendall(data))

    def be_patient(self, timeout_s: float) -> None:
        """From now on the peer may take so long for its next word."""
        self._connection.settimeout(timeout_s)

    async def close_write(self) -> None:
        """Nothing: the peer knows how much there is to come."""

    async def reset(self) -> None:
        if not self._closed:
            self._closed = True
            self._kill()
            if not self._busy:  # else its threads have it; they end now, and nothing else is sent
                self._connection.close()
            self._on_close()

    async def aclose(self) -> None:
        """What we sent last arrives, though the peer may still be sending."""
        if self._closed:
            return
        if self._dead or self._busy:
            await self.reset()
            return
        self._closed = True
        with trio.CancelScope(shield=True):  # bounded by the socket's timeout
            await trio.to_thread.run_sync(self._connection.linger, limits.LANE_LINGER_S, limiter=self._threads)
        self._on_close()

    async def receive_chunk(self, head: bytes, size: int, keep: Callable[[memoryview], bool]) -> bool:
        """``size`` bytes, of which ``head`` is here already, into a buffer that ``keep`` gets, in the same thread."""
        kept = await self._run(
            lambda: lanebulk.receive_chunk(self._connection, head, self._scratch()[:size], keep), "what arrives"
        )
        if kept is None:
            raise NetworkError(f"{self._peer} ended a data stream early")
        return kept

    def _scratch(self) -> memoryview:
        """Memory for one block, which the lane keeps: new memory is dear."""
        if self._buffer is None:
            self._buffer = aligned_buffer()
        return self._buffer

    # --- files ------------------------------------------------------------------------------------------------------
    async def send_file(self, path: Path, offset: int, end: int, on_progress: Callable[[int], None]) -> int:
        """How far it came: less than ``end`` when the file is shorter or the peer says something before."""
        reached = offset

        def report(done: int) -> None:
            nonlocal reached
            reached = done

        return await _reporting(
            lambda: on_progress(reached),
            lambda: self._run(lambda: lanebulk.send_file(self._connection, path, offset, end, self._scratch(), report)),
        )

    async def receive_file(
        self,
        path: Path,
        offset: int,
        total: int,
        on_progress: Progress | None = None,
        *,
        algorithms: Sequence[str],
        head: bytes = b"",
    ) -> dict[str, str]:
        """As Wire.receive_file: appends to ``path`` from ``offset``, ``head`` first; the whole file's digests."""
        await trio.to_thread.run_sync(_prepare, path, offset, head)
        offset += len(head)
        receiver = lanebulk.Receiver(self._connection, path, offset, total, algorithms, self._kill)
        await _reporting(
            lambda: on_progress and on_progress(receiver.done_bytes, total),
            lambda: self._receive(receiver, algorithms),
        )
        if receiver.done_bytes < total:
            raise NetworkError(f"{self._peer} ended the transfer after {receiver.done_bytes} of {total} bytes")
        return receiver.digests

    async def _receive(self, receiver: lanebulk.Receiver, algorithms: Sequence[str]) -> None:
        """One thread reads, one writes, others hash. They end by themselves when the reading ends, never before."""
        unwritten: OSError | None = None
        broken: GolemError | None = None

        async def to_its_end(work: Callable[..., None], *arguments: str) -> None:
            nonlocal unwritten
            with trio.CancelScope(shield=True):
                try:
                    await trio.to_thread.run_sync(work, *arguments, limiter=self._threads)
                except lanebulk.FileError as exc:
                    unwritten = unwritten or exc.error

        async with trio.open_nursery() as nursery:
            nursery.start_soon(to_its_end, receiver.write)
            for algorithm in algorithms:
                nursery.start_soon(to_its_end, receiver.hash_by, algorithm)
            try:
                await self._run(receiver.read)
            except GolemError as exc:
                broken = exc  # a nursery would wrap it
            finally:
                receiver.no_more()
        if unwritten is not None:
            raise PolicyError(f"what arrives cannot be written: {unwritten.strerror}", hint="is the disk full?")
        if broken is not None:
            raise broken

    # --- threads ----------------------------------------------------------------------------------------------------
    async def _run(self, work: Callable[[], T], what: str = "a file to be sent") -> T:
        """``work`` in a thread, woken by a dead socket when this is cancelled. Raises NetworkError, PolicyError."""
        if self._busy:
            raise InternalError("two tasks use one bulk lane at a time")
        if self._dead or self._closed:
            raise NetworkError(f"the lane to {self._peer} is closed")
        self._busy = True
        try:
            return await run_blocking(work, self._kill, self._threads)
        except lanebulk.FileError as exc:
            raise PolicyError(f"{what} cannot be read or written: {exc.error.strerror}") from exc
        except TimeoutError as exc:
            self._kill()
            raise DeadlineError(
                f"nothing moved on the lane to {self._peer} for {limits.DATA_STALL_TIMEOUT_S:.0f} s"
            ) from exc
        except (OSError, ValueError) as exc:  # ValueError: it was closed meanwhile
            self._kill()  # a TLS connection that failed half way is of no more use
            raise NetworkError(f"the lane to {self._peer} broke: {exc}") from exc
        finally:
            self._busy = False
            self._close_if_over()

    def _close_if_over(self) -> None:
        if self._closed:
            self._connection.close()

    def _kill(self) -> None:
        """Threads that wait for the socket wake up with an error. From any thread."""
        self._dead = True
        self._connection.shutdown()


def _prepare(path: Path, offset: int, head: bytes) -> None:
    """The file has ``offset`` bytes, then ``head``. Raises PolicyError."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, offset)
            if os.pwrite(file, head, offset) != len(head):  # less than a record; only a full disk takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)
    except OSError as exc:
        raise PolicyError(f"what arrives cannot be written: {exc.strerror}", hint="is the disk full?") from exc


async def _reporting(report: Callable[[], object], action: Callable[[], Awaitable[T]]) -> T:
    """Call ``report`` now and then during ``action``, and when it has ended well."""
    results, failure = list[T](), None

    async def again() -> None:
        while True:
            await trio.sleep(limits.LANE_PROGRESS_S)
            report()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(again)
        try:
            results.append(await action())
        except GolemError as exc:
            failure = exc  # a nursery would wrap it
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    report()
    return results[0]
