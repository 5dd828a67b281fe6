"""Bulk data: files by hash, and files into slots, on plain streams (protocols/data.md).

A stream carries one transfer: a header, an answer, raw bytes, for a put a last answer; or several small questions
about chunks in a row. What arrived stays when a transfer breaks, and the next one goes on from there; the hash of the
whole file decides at the end.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import (
    ConflictError,
    DeadlineError,
    GolemError,
    NetworkError,
    NotFoundError,
    PolicyError,
    RemoteProtocolError,
    UsageError,
)
from golemp2p.net import named
from golemp2p.net.datawire import PROTOCOL, Progress, Wire, encode_header
from golemp2p.net.lane import LaneStream
from golemp2p.net.lanes import Lanes
from golemp2p.net.lanewire import NoLaneError, grant, upgrade
from golemp2p.net.named import NamedFiles
from golemp2p.net.port import ByteStream, Network
from golemp2p.net.sending import TAG_CHARS, Push
from golemp2p.net.sharing import Sharing
from golemp2p.storage.content import ALWAYS, Content, ContentStore, check_digest, size_of

log = structlog.get_logger(__name__)
_ATTEMPTS: Final = 3
T = TypeVar("T")


class DataService:
    """Serves the store's files to whoever knows their hash, fills slots, and fetches and pushes."""

    def __init__(
        self, network: Network, store: ContentStore, named: NamedFiles | None = None, lanes: Lanes | None = None
    ) -> None:
        """``named``: what programs of this node serve; ``lanes``: for large files, where peers reach each other."""
        self._network, self._store, self._named, self._lanes = network, store, named, lanes
        self._active: Counter[PeerId] = Counter()
        self._busy_slots: set[str] = set()
        self._fetching: dict[Path, trio.Lock] = {}
        self._waiting: Counter[Path] = Counter()  # who fetches, and who waits for that
        self.sharing = Sharing(network, store, self._open)
        self._unnamed_send, self._unnamed = trio.open_memory_channel[Content](limits.LANE_UNNAMED_FILES)

    def serve(self) -> None:
        self._network.set_stream_handler(PROTOCOL, self._handle)

    async def run(self) -> None:
        """What is done beside transfers, until cancelled: announcements, and hashes that nobody waits for."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.sharing.run)
            async for content in self._unnamed:
                try:
                    await self._store.named(content)
                except OSError as exc:  # it was removed meanwhile, or the disk is full: nobody asked for it
                    log.info("data_not_named", sha256=content.sha256, error=exc.strerror)

    def _name_later(self, content: Content) -> Content:
        """It is to be found by its sha3-256, too, some time."""
        if not content.sha3_256:
            with suppress(trio.WouldBlock):  # then it is not, which costs somebody a transfer
                self._unnamed_send.send_nowait(content)
        return content

    # --- lanes ------------------------------------------------------------------------------------------------------
    async def _open(self, peer: PeerId, alg: str = "", digest: str = "") -> Wire:
        """A stream for much data: a lane when there is a way and the named file is worth one."""
        wire = Wire(await self._network.open_stream(peer, PROTOCOL))
        if self._lanes is None or not self._lanes.worth_trying(peer):
            return wire
        try:
            return await upgrade(wire, self._lanes, alg, digest)
        except NoLaneError as exc:
            self._lanes.remember_unreachable(peer)
            log.info("peer_knows_no_lanes", peer=peer, error=str(exc))
            await wire.stream.aclose()
            return Wire(await self._network.open_stream(peer, PROTOCOL))
        except BaseException:  # cancellation too: nobody else would close the stream
            await wire.stream.aclose()
            raise

    async def _serve_lane(self, lane: LaneStream) -> None:
        """As the adapter serves its streams: what goes wrong costs this lane only."""
        try:
            await self._handle(lane)
        except GolemError as exc:
            log.info("lane_broke", peer=lane.peer, error=str(exc))
        except Exception as exc:  # broad: our mistake with one peer must not end the node
            log.exception("lane_failed", peer=lane.peer, error=str(exc))
        finally:
            await lane.aclose()

    # --- serving ----------------------------------------------------------------------------------------------------
    async def _handle(self, stream: ByteStream) -> None:
        wire, peer, counted = Wire(stream), stream.peer, False
        try:
            header: list[Any] | None = await wire.header()
            match header:
                case ["lane", bytes(cert), str(alg), str(digest)]:
                    header = await grant(wire, self._lanes, cert, self._size_of(alg, digest), self._serve_lane)
            if header is not None and self._active[peer] >= limits.DATA_MAX_TRANSFERS_PER_PEER:
                raise PolicyError(f"more than {limits.DATA_MAX_TRANSFERS_PER_PEER} transfers at a time")
            self._active[peer] += 1
            counted = True
            match header:
                case None:
                    pass
                case ["get", _, _, _, _] | ["have" | "peers" | "chunks", *_]:
                    await self.sharing.serve(wire, header)
                case ["get", named.BY_NAME, str(name), int(offset)] if offset >= 0:
                    await named.give(wire, self._named, name, offset)
                case ["put", str(name), int(total), str(sha256)] if total >= 0 and self._is_named(name, peer):
                    assert self._named is not None
                    await named.take_upload(wire, self._named, name, total, check_digest("sha256", sha256))
                case ["get", str(alg), str(digest), int(offset)] if offset >= 0:
                    await self._give(wire, alg, digest, offset)
                case ["put", str(slot_id), int(total), str(sha256)] if total >= 0:
                    await self._take(wire, slot_id, total, check_digest("sha256", sha256))
                case ["fill", str(slot_id), int(total), str(tag)] if total >= 0 and len(tag) == TAG_CHARS:
                    await self._take(wire, slot_id, total, None, tag)
                case _:
                    raise RemoteProtocolError("a data request is neither get nor put")
        except NetworkError as exc:
            log.info("data transfer broke", peer=peer, error=str(exc))
        except GolemError as exc:
            log.info("data transfer refused", peer=peer, error=str(exc))
            await wire.send(encode_header(["error", exc.code, exc.message[:1000], exc.hint[:500]]))
        finally:
            self._active[peer] -= counted
            if not self._active[peer]:
                del self._active[peer]

    def _is_named(self, name: str, peer: PeerId) -> bool:
        return self._named is not None and self._named.has(name, peer)

    def _size_of(self, alg: str, digest: str) -> int | None:
        """Raises NotFoundError."""
        if not alg:
            return None
        content = self._store.lookup(alg, digest)
        if content is None:
            raise NotFoundError(f"no file with {alg} {digest}")
        return content.size_bytes

    async def _give(self, wire: Wire, alg: str, digest: str, offset: int) -> None:
        content = self._store.lookup(alg, digest)
        if content is None:
            raise NotFoundError(f"no file with {alg} {digest}")
        if offset > content.size_bytes:
            raise UsageError(f"offset {offset} is behind the end ({content.size_bytes})")
        await wire.send(encode_header(["ok", content.size_bytes]))
        await wire.send_file(content.path, offset)
        await wire.stream.close_write()
        await wire.some(1)  # the peer closes when it has read all; our own closing would cut the rest off

    async def _take(self, wire: Wire, slot_id: str, total: int, sha256: str | None, tag: str = "") -> None:
        """A put, or without ``sha256`` a fill: its hash comes at the end, and ``tag`` tells what to go on with."""
        if sha256 is None and self._is_named(slot_id, wire.stream.peer):
            await wire.send(encode_header(["ok", None, ""]))  # what a program takes goes there by a put
            return
        slot = self._store.slot(slot_id)
        if slot.peer is not None and slot.peer != wire.stream.peer:
            raise NotFoundError(f"slot {slot_id!r} is not known")  # not even that it exists
        if slot.content is not None:
            if sha256 is None:
                await wire.send(encode_header(["ok", total, slot.content.sha256]))
                sha256 = await _announced_sum(wire)
            elif sha256 == slot.content.sha256:
                await wire.send(encode_header(["ok", total]))
            if slot.content.sha256 != sha256:
                raise ConflictError(f"slot {slot_id} holds another file already")
            content = await self._store.named(slot.content)
            await wire.send(encode_header(["ok", content.sha256 if tag else content.sha3_256]))
            return
        if total > slot.max_bytes:
            raise PolicyError(f"{total} bytes do not fit slot {slot_id}", hint=f"at most {slot.max_bytes}")
        if slot_id in self._busy_slots:
            raise ConflictError(f"slot {slot_id} is being filled")
        self._busy_slots.add(slot_id)
        try:
            content = await self._fill_slot(wire, slot_id, total, sha256, tag)
        finally:
            self._busy_slots.discard(slot_id)
        self._name_later(content)
        await wire.send(encode_header(["ok", content.sha3_256 if sha256 else content.sha256]))

    async def _fill_slot(self, wire: Wire, slot_id: str, total: int, sha256: str | None, tag: str) -> Content:
        partial, note = self._store.slot_partial(slot_id), self._store.partial(f"slot-{slot_id}.sha256")
        resumable = partial.exists() and note.exists() and note.read_text() == (sha256 or tag)
        offset = min(partial.stat().st_size, total) if resumable else 0
        self._store.room_for(total - offset)
        note.write_text(sha256 or tag)
        await wire.send(encode_header(["ok", offset] if sha256 else ["ok", offset, ""]))
        algorithms = ALWAYS if sha256 else ("sha256",)
        digests = await wire.receive_file(partial, offset, total, algorithms=algorithms)
        expected = sha256 or await _announced_sum(wire) or (digests["sha256"] if not offset else "")
        if digests["sha256"] != expected:
            partial.unlink()
            raise RemoteProtocolError(f"the file has sha256 {digests['sha256']}, not {expected}")
        content = await self._store.finish(slot_id, digests=digests)
        note.unlink(missing_ok=True)
        return content

    # --- calling ----------------------------------------------------------------------------------------------------
    async def fetch(
        self,
        peer: PeerId,
        alg: str,
        digest: str,
        destination: Path | None = None,
        *,
        max_bytes: int,
        timeout_s: float,
        on_progress: Progress | None = None,
        shared: bool = False,
    ) -> Content:
        """The file with that hash, from ``peer`` unless the store has it; also copied to ``destination``.

        With ``shared`` chunks of a large file come from others too, and are given to others while it arrives; and it
        is announced. Goes on where an earlier attempt broke.

        Raises NotFoundError (the peer has no such file), PolicyError (larger
        than ``max_bytes``), RemoteProtocolError (the content has another hash; it is deleted), DeadlineError,
        NetworkError.
        """
        digest = check_digest(alg, digest)
        try:
            with trio.fail_after(timeout_s):
                content = self._store.lookup(alg, digest)
                if content is None and shared:
                    content = await self.sharing.fetch(peer, alg, digest, max_bytes, on_progress)
                if content is None:
                    content = await self._fetch_alone(peer, alg, digest, max_bytes, on_progress)
                if destination is not None:
                    await trio.to_thread.run_sync(shutil.copyfile, content.path, destination)
                return content
        except trio.TooSlowError as exc:
            raise DeadlineError(f"{alg} {digest} did not come from {peer} within {timeout_s:g} s") from exc

    async def _fetch_alone(
        self, peer: PeerId, alg: str, digest: str, max_bytes: int, on_progress: Progress | None
    ) -> Content:
        """One at a time of a file from a peer, for a transfer trusts what it has written; the next one finds the file.

        By peer: two peers may send the same file at once, and neither may spoil what the other sent.
        """
        partial = self._store.partial(f"get-{alg}-{digest}-{peer}")
        self._waiting[partial] += 1
        try:
            async with self._fetching.setdefault(partial, trio.Lock()):
                content = self._store.lookup(alg, digest)
                if content is not None:
                    return content
                return await self._retry(lambda: self._fetch(peer, alg, digest, partial, max_bytes, on_progress))
        finally:
            self._waiting[partial] -= 1
            if not self._waiting[partial]:
                del self._waiting[partial], self._fetching[partial]

    async def _fetch(
        self, peer: PeerId, alg: str, digest: str, partial: Path, max_bytes: int, on_progress: Progress | None
    ) -> Content:
        offset = size_of(partial) or 0
        algorithms = tuple({alg, "sha256"})  # by the other ones later: sha3-256 takes four times as long
        try:
            digests = await self._receive(peer, alg, digest, partial, max_bytes, on_progress, algorithms)
        except NotFoundError:
            if alg != "sha3-256":
                raise
            # A program that gftp publishes for may serve it under that name.
            digests = await self._receive(peer, named.BY_NAME, digest, partial, max_bytes, on_progress, algorithms)
        if digests[alg] != digest:
            self._store.discard(partial)
            if offset:  # perhaps it was the earlier part, of another peer, that is wrong
                return await self._fetch(peer, alg, digest, partial, max_bytes, on_progress)
            raise RemoteProtocolError(
                f"{peer} sent a file with {alg} {digests[alg]}, not {digest}", hint="it was deleted"
            )
        return self._name_later(await self._store.adopt(partial, digests=digests))

    async def _receive(
        self,
        peer: PeerId,
        alg: str,
        name: str,
        path: Path,
        max_bytes: int,
        on_progress: Progress | None,
        algorithms: Sequence[str] = (),
    ) -> dict[str, str]:
        """One attempt at the rest of ``path``; the whole file's digests."""
        offset = size_of(path) or 0
        by_name = alg == named.BY_NAME
        wire = Wire(await self._network.open_stream(peer, PROTOCOL)) if by_name else await self._open(peer, alg, name)
        try:
            await wire.send(encode_header(["get", alg, name, offset]))
            match await wire.answer():
                case [int(total)] if total >= offset:
                    pass
                case other:
                    raise RemoteProtocolError(f"a data answer says {str(other)[:100]} for a get from {offset}")
            if total > max_bytes:
                raise PolicyError(f"the file has {total} bytes", hint=f"at most {max_bytes} were allowed")
            self._store.room_for(total - offset)
            if by_name:
                return await named.take_blocks(wire, path, offset, total, on_progress, algorithms=algorithms)
            return await wire.receive_file(path, offset, total, on_progress, algorithms=algorithms)
        finally:
            await wire.stream.aclose()

    async def fetch_named(
        self,
        peer: PeerId,
        name: str,
        destination: Path,
        *,
        max_bytes: int,
        timeout_s: float,
        on_progress: Progress | None = None,
    ) -> None:
        """What a program at ``peer`` serves as ``name``, into ``destination``. Nothing vouches for the content.

        Raises NotFoundError, RemoteError (what the program says), PolicyError (too large), DeadlineError, NetworkError.
        """

        try:
            with trio.fail_after(timeout_s):
                await self._retry(lambda: self._receive(peer, named.BY_NAME, name, destination, max_bytes, on_progress))
        except trio.TooSlowError as exc:
            raise DeadlineError(f"{name} did not come from {peer} within {timeout_s:g} s") from exc

    async def push(
        self, peer: PeerId, slot: str, source: Path, *, timeout_s: float, on_progress: Progress | None = None
    ) -> str:
        """Fill a slot at ``peer``; the file's sha256 in hex. Goes on where an earlier attempt broke.

        Raises NotFoundError (no such slot, no such file), PolicyError (too large), ConflictError (slot in use or
        filled), RemoteProtocolError (the peer confirms another hash), DeadlineError, NetworkError.
        """
        if size_of(source) is None:
            raise NotFoundError(f"{source} is no file")
        pushing = Push(peer, slot, source, on_progress)
        try:
            with trio.fail_after(timeout_s):
                return await self._retry(lambda: self._push(pushing))
        except trio.TooSlowError as exc:
            raise DeadlineError(f"{source.name} was not taken by {peer} within {timeout_s:g} s") from exc

    async def _push(self, pushing: Push) -> str:
        large = (size_of(pushing.source) or 0) >= limits.LANE_MIN_BYTES
        if large and self._lanes is not None and self._lanes.worth_trying(pushing.peer):
            wire = await self._open(pushing.peer)
            try:
                if wire.lane is not None and (done := await pushing.by_lane(wire, wire.lane)) is not None:
                    return done
            finally:
                await wire.stream.aclose()
        stream = await self._network.open_stream(pushing.peer, PROTOCOL)
        try:
            return await pushing.by_stream(Wire(stream))
        finally:
            await stream.aclose()

    @staticmethod
    async def _retry(action: Callable[[], Awaitable[T]]) -> T:
        """Again after a broken connection; each time it goes on from what is there."""
        attempt = 1
        while True:
            try:
                return await action()
            except NetworkError as exc:
                if attempt == _ATTEMPTS:
                    raise
                log.info("data transfer broke, going on", attempt=attempt, error=str(exc))
                await trio.sleep(0.2 * attempt)
                attempt += 1


async def _announced_sum(wire: Wire) -> str:
    """The sender's word; "" when it does not know, because all of the file came by this lane."""
    match await wire.header():
        case ["sum", str(sha256)]:
            return check_digest("sha256", sha256) if sha256 else ""
    raise RemoteProtocolError("a fill does not end with its sum")
