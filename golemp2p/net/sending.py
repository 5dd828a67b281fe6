"""The sending half of a put or a fill: the file goes out while it is hashed; the peer may say no before it has all."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import ConflictError, DeadlineError, GolemError, NetworkError, RemoteProtocolError, UsageError
from golemp2p.net.datawire import Progress, Wire, encode_header
from golemp2p.net.lane import LaneStream
from golemp2p.net.lanehash import Written, follow
from golemp2p.storage.content import hash_file, size_of

_LAST_WORD_S: Final = 1.0
TAG_CHARS: Final = 64
_SAMPLES: Final = 64  # of a file, for its tag
_SAMPLE_BYTES: Final = 16 * 1024


class Push:
    """One file on its way into a slot; what a second attempt needs not to find out again."""

    def __init__(self, peer: PeerId, slot: str, source: Path, on_progress: Progress | None) -> None:
        self.peer, self.source = peer, source
        self._slot, self._on_progress = slot, on_progress
        self._sha256 = ""

    async def by_stream(self, wire: Wire) -> str:
        """By ``put``; the file's sha256. Raises as DataService.push."""
        if not self._sha256:
            self._sha256 = (await trio.to_thread.run_sync(hash_file, self.source, ("sha256",)))["sha256"]
        total = size_of(self.source) or 0
        await wire.send(encode_header(["put", self._slot, total, self._sha256]))
        match await wire.answer():
            case [int(offset)] if 0 <= offset <= total:
                pass
            case other:
                raise RemoteProtocolError(f"a data answer says {other!r} for a put of {total} bytes")
        digest, answer = await send_and_hash(wire, self.source, offset, self._on_progress)
        match answer:
            case [str(confirmed)] if re.fullmatch("[0-9a-f]{64}", confirmed):
                pass
            case other:
                raise RemoteProtocolError(f"a data answer says {other!r} after a put")
        if confirmed != digest:
            raise RemoteProtocolError(f"{self.peer} took a file with sha3-256 {confirmed}, not {digest}")
        return self._sha256

    async def by_lane(self, wire: Wire, lane: LaneStream) -> str | None:
        """By ``fill``, which hashes on the way; None when the peer wants this one by ``put``. Raises as by_stream."""
        total = size_of(self.source) or 0
        tag = await trio.to_thread.run_sync(tag_of, self.source, total)
        await wire.send(encode_header(["fill", self._slot, total, tag]))
        match await wire.answer():
            case [None, ""]:
                return None
            case [int(offset), str(there)] if 0 <= offset <= total:
                pass
            case other:
                raise RemoteProtocolError(f"a data answer says {str(other)[:100]} for a fill of {total} bytes")
        reached = offset
        if there:
            await self._hash_source(Written(total, ended=True))
            if there != self._sha256:
                raise ConflictError(f"slot {self._slot} of {self.peer} holds another file already")
        else:
            reached = await self._send(lane, offset, total)
        if reached == total:
            await wire.send(encode_header(["sum", self._sha256]))
            lane.be_patient(limits.DATA_LAST_ANSWER_S)
        match await wire.answer(patient=True):
            case [str(confirmed)] if reached == total and re.fullmatch("[0-9a-f]{64}", confirmed):
                pass
            case other:
                raise RemoteProtocolError(f"a data answer says {str(other)[:100]} after a fill")
        if self._sha256 not in ("", confirmed):
            raise RemoteProtocolError(f"{self.peer} took a file with sha256 {confirmed}, not {self._sha256}")
        return confirmed

    async def _send(self, lane: LaneStream, offset: int, total: int) -> int:
        """How far it came. Hashed meanwhile if a part is there from before.

        What goes out in one piece needs no hash of ours: TLS vouches for every record, and the receiver hashes what it
        has stored. What another attempt brought may be of another file, and only a hash tells.
        """
        written, failure, reached = Written(total), None, offset
        unchanged = await trio.to_thread.run_sync(_state_of, self.source)
        async with trio.open_nursery() as nursery:
            if offset and not self._sha256:
                nursery.start_soon(self._hash_source, written)
            try:
                reached = await lane.send_file(self.source, offset, total, self._tell(total))
            except GolemError as exc:
                failure = exc
            finally:
                written.end(whole=failure is None and reached == total)
        if failure is not None:
            raise failure
        if await trio.to_thread.run_sync(_state_of, self.source) != unchanged:
            raise UsageError(f"{self.source.name} changed while it was sent", hint="send it again")
        return reached

    async def _hash_source(self, written: Written) -> None:
        with trio.CancelScope(shield=True):  # it ends when ``written`` does
            found = await trio.to_thread.run_sync(follow, self.source, "sha256", written)
        self._sha256 = found or ""

    def _tell(self, total: int) -> Callable[[int], None]:
        return lambda done: self._on_progress and self._on_progress(done, total)


def _state_of(path: Path) -> tuple[int, int, int]:
    """What changes when a file does. Blocking."""
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def tag_of(path: Path, size_bytes: int) -> str:
    """What tells whether a partial file is probably of the same content: a hash of samples. Blocking."""
    hasher = hashlib.sha256(size_bytes.to_bytes(8, "big"))
    with path.open("rb") as file:
        for index in range(_SAMPLES):
            hasher.update(os.pread(file.fileno(), _SAMPLE_BYTES, index * size_bytes // _SAMPLES))
    return hasher.hexdigest()


async def send_and_hash(wire: Wire, source: Path, offset: int, on_progress: Progress | None) -> tuple[str, list[Any]]:
    """Send the file while it is hashed; its sha3-256 and the peer's last answer.

    A peer that gives up says why before it has all, and reads no more.
    """
    digest, answer = "", list[Any]()
    failure: GolemError | None = None

    async def hash_it() -> None:
        nonlocal digest
        digest = (await trio.to_thread.run_sync(hash_file, source, ("sha3-256",), abandon_on_cancel=True))["sha3-256"]

    async def listen() -> None:
        nonlocal answer, failure
        try:
            answer = await wire.answer(patient=True)
        except GolemError as exc:
            failure = exc
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hash_it)
        nursery.start_soon(listen)
        try:
            await wire.send_file(source, offset, on_progress)
            nursery.cancel_scope.deadline = trio.current_time() + limits.DATA_LAST_ANSWER_S
        except NetworkError as exc:
            with trio.move_on_after(_LAST_WORD_S):  # it may have said why before it closed
                await trio.sleep_forever()
            failure = failure or exc
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if nursery.cancel_scope.cancelled_caught:
        raise DeadlineError(f"{wire.stream.peer} did not confirm the file within {limits.DATA_LAST_ANSWER_S:.0f} s")
    return digest, answer
