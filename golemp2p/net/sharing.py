"""What makes a file common property of those who want it: chunks served and fetched, fetchers named, files announced.

The owner of a file (the requestor) is asked for the chunks' hashes and knows who else asked; the DHT knows who holds
the file otherwise. Names of peers are hints: what they send is checked.
"""

from __future__ import annotations

import contextlib
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError, NotFoundError, PolicyError, RemoteError, RemoteProtocolError, UsageError
from golemp2p.net.chunks import HASH_BYTES, Bitmap, ChunkLists, PartialFile, chunk_count
from golemp2p.net.datawire import PROTOCOL, Progress, Wire, encode_header
from golemp2p.net.directfile import hash_direct
from golemp2p.net.port import Network
from golemp2p.net.swarm import OpenWire, Swarm
from golemp2p.storage.content import Content, ContentStore

log = structlog.get_logger(__name__)
_Key = tuple[str, str]  # algorithm and digest
T = TypeVar("T")


class Sharing:
    """Part of DataService; ``run`` (once) makes announcements."""

    def __init__(self, network: Network, store: ContentStore, open_wire: OpenWire) -> None:
        """``open_wire``: a stream for much data to a peer."""
        self._network, self._store, self._open_wire = network, store, open_wire
        self._lists = ChunkLists()
        self._partials: dict[_Key, list[PartialFile]] = {}
        self._swarms: dict[_Key, list[Swarm]] = {}
        self._fetching: dict[tuple[PeerId, str, str], trio.Lock] = {}
        self._fetchers: OrderedDict[_Key, OrderedDict[PeerId, float]] = OrderedDict()
        self.given_bytes = 0  # of chunks, to everybody
        self.made_announcements = 0
        self._announced: OrderedDict[str, None] = OrderedDict()
        self._announced_file = store.partial("announced")
        self._send, self._receive = trio.open_memory_channel[str](limits.MAX_ANNOUNCED)

    # --- serving ----------------------------------------------------------------------------------------------------
    async def serve(self, wire: Wire, header: list[Any] | None) -> None:
        """Answer questions about chunks until the peer ends the stream. What cannot be answered ends it with why."""
        while header is not None:
            match header:
                case ["get", str(alg), str(digest), int(offset), int(length)] if offset >= 0 and length > 0:
                    await self._give_range(wire, alg, digest, offset, length)
                case ["have", str(alg), str(digest)]:
                    await self._give_map(wire, alg, digest)
                case ["chunks", str(alg), str(digest)]:
                    await self._give_chunks(wire, alg, digest)
                case ["peers", str(alg), str(digest)]:
                    peers = self._note_fetcher((alg, digest), wire.stream.peer)
                    await wire.send(encode_header(["ok", peers]))
                case _:
                    raise RemoteProtocolError("a data request is none about chunks")
            header = await wire.next_header()

    async def _give_range(self, wire: Wire, alg: str, digest: str, offset: int, length: int) -> None:
        content = self._store.lookup(alg, digest)
        if content is not None:
            if offset + length > content.size_bytes:
                raise UsageError(f"{offset} + {length} is behind the end ({content.size_bytes})")
            path, size = content.path, content.size_bytes
        else:
            held = [partial for partial in self._partials.get((alg, digest), ()) if partial.holds(offset, length)]
            if not held:
                raise NotFoundError(f"bytes {offset} to {offset + length} of {alg} {digest} are not here")
            path, size = held[0].path, held[0].size_bytes
        await wire.send(encode_header(["ok", size]))
        await wire.send_file(path, offset, end=offset + length)
        self.given_bytes += length

    async def _give_map(self, wire: Wire, alg: str, digest: str) -> None:
        content = self._store.lookup(alg, digest)
        if content is not None:
            size, have = content.size_bytes, Bitmap(bytearray(b"\1" * chunk_count(content.size_bytes)))
        elif partials := self._partials.get((alg, digest)):
            best = max(partials, key=lambda partial: partial.done_bytes)
            size, have = best.size_bytes, best.have
            for swarm in self._swarms.get((alg, digest), ()):
                swarm.hint(wire.stream.peer)
        else:
            raise NotFoundError(f"nothing of {alg} {digest} is here")
        await wire.send(encode_header(["ok", size, have.pack()]))

    async def _give_chunks(self, wire: Wire, alg: str, digest: str) -> None:
        content = self._store.lookup(alg, digest)
        if content is None:
            raise NotFoundError(f"no file with {alg} {digest}")
        hashes = await self._lists.of(content.sha256, content.path)
        await wire.send(encode_header(["ok", content.size_bytes]))
        for start in range(0, len(hashes), limits.DATA_CHUNK_BYTES):
            await wire.send(hashes[start : start + limits.DATA_CHUNK_BYTES])

    def _note_fetcher(self, key: _Key, peer: PeerId) -> list[PeerId]:
        """Remember who asks; who else asked of late."""
        now = trio.current_time()
        if self._store.lookup(*key) is None:
            raise NotFoundError(f"no file with {key[0]} {key[1]}")
        fetchers = self._fetchers.setdefault(key, OrderedDict())
        self._fetchers.move_to_end(key)
        while len(self._fetchers) > limits.SHARE_KNOWN_FILES:
            self._fetchers.popitem(last=False)
        fetchers[peer] = now
        fetchers.move_to_end(peer)
        while len(fetchers) > limits.SHARE_KNOWN_FETCHERS:
            fetchers.popitem(last=False)
        recent = [other for other, at in fetchers.items() if other != peer and now - at < limits.SHARE_FETCHER_S]
        return recent[-limits.SHARE_TOLD_PEERS :]

    # --- fetching ---------------------------------------------------------------------------------------------------
    async def fetch(
        self, owner: PeerId, alg: str, digest: str, max_bytes: int, on_progress: Progress | None
    ) -> Content | None:
        """The file, from whoever has it; None when it is too small for that or the owner does not know how.

        Raises NotFoundError, PolicyError, RemoteProtocolError (the whole is wrong), NetworkError.
        """
        key = owner, alg, digest
        lock = self._fetching.setdefault(key, trio.Lock())
        try:
            async with lock:  # two fetches would write one partial file
                return self._store.lookup(alg, digest) or await self._fetch(*key, max_bytes, on_progress)
        finally:
            if not lock.locked():
                self._fetching.pop(key, None)

    async def _fetch(
        self, owner: PeerId, alg: str, digest: str, max_bytes: int, on_progress: Progress | None
    ) -> Content | None:
        found = await self._ask_chunks(owner, alg, digest)
        if found is None or found[0] < limits.SHARE_MIN_BYTES:
            return None
        size, hashes = found
        if size > max_bytes:
            raise PolicyError(f"the file has {size} bytes", hint=f"at most {max_bytes} were allowed")
        # By owner: whose list of hashes is wrong spoils its own agreement's fetch and no other.
        path = self._store.partial(f"share-{alg}-{digest}-{owner}")
        if not path.exists():
            self._store.room_for(size)
        partial = PartialFile(path, size, hashes)
        await trio.to_thread.run_sync(partial.open)
        swarm = Swarm(self._network.peer_id, self._open_wire, owner, alg, digest, partial, on_progress=on_progress)
        with self._listed(self._partials, (alg, digest), partial), self._listed(self._swarms, (alg, digest), swarm):
            self.announce(alg, digest)
            await swarm.run(self._finder(owner, alg, digest))
            log.info("shared fetch is complete", bytes=size, from_owner=swarm.owner_bytes, digest=digest)
            digests = await trio.to_thread.run_sync(hash_direct, path, tuple({alg, "sha256"}))
            if (actual := digests[alg]) != digest:
                self._store.discard(path)
                partial.forget_notes()
                raise RemoteProtocolError(
                    f"{owner} named chunks that make a file with {alg} {actual}, not {digest}", hint="it was deleted"
                )
            content = await self._store.adopt(path, digests=digests)
            partial.forget_notes()
            return content

    @staticmethod
    @contextmanager
    def _listed(lists: dict[_Key, list[T]], key: _Key, item: T) -> Iterator[None]:
        lists.setdefault(key, []).append(item)
        try:
            yield
        finally:
            lists[key].remove(item)
            if not lists[key]:
                del lists[key]

    async def _ask_chunks(self, owner: PeerId, alg: str, digest: str) -> tuple[int, bytes] | None:
        stream = await self._network.open_stream(owner, PROTOCOL)
        try:
            wire = Wire(stream)
            await wire.send(encode_header(["chunks", alg, digest]))
            try:
                answer = await wire.answer()
            except (RemoteProtocolError, RemoteError, NotFoundError) as exc:  # it may serve it under that name only
                log.info("the owner knows nothing of chunks", owner=owner, error=str(exc))
                return None
            match answer:
                case [int(size)] if 0 <= size <= limits.DATA_MAX_BYTES:
                    return size, await wire.exactly(chunk_count(size) * HASH_BYTES)
                case other:
                    raise RemoteProtocolError(f"a data answer says {str(other)[:100]} for chunks")
        finally:
            await stream.aclose()

    def _finder(self, owner: PeerId, alg: str, digest: str) -> Any:
        dht_at: float | None = None

        async def find() -> list[PeerId]:
            """The owner's word first: it knows at once who else began just now."""
            nonlocal dht_at
            found: list[PeerId] = []
            now = trio.current_time()
            try:
                found += await self._ask_peers(owner, alg, digest)
            except GolemError as exc:
                log.debug("the owner names no fetchers", owner=owner, error=str(exc))
            if dht_at is None:  # the first time we are waited for; the DHT may take long
                dht_at = now - limits.SHARE_DHT_EVERY_S
            elif not found and now - dht_at >= limits.SHARE_DHT_EVERY_S:
                dht_at = now
                found += await self._ask_dht(alg, digest)
            return found

        return find

    async def _ask_peers(self, owner: PeerId, alg: str, digest: str) -> list[PeerId]:
        with trio.move_on_after(limits.SHARE_FIND_S):
            stream = await self._network.open_stream(owner, PROTOCOL)
            try:
                wire = Wire(stream)
                await wire.send(encode_header(["peers", alg, digest]))
                match await wire.answer():
                    case [[*names]] if len(names) <= limits.SHARE_TOLD_PEERS:
                        return [PeerId(name) for name in names if isinstance(name, str) and len(name) <= 128]
                    case other:
                        raise RemoteProtocolError(f"a data answer says {str(other)[:100]} for peers")
            finally:
                await stream.aclose()
        return []

    async def _ask_dht(self, alg: str, digest: str) -> list[PeerId]:
        with trio.move_on_after(limits.SHARE_FIND_S):
            try:
                return list(await self._network.find_providers(_dht_key(alg, digest), limit=limits.SHARE_PEERS))
            except GolemError as exc:  # it may be switched off
                log.debug("the DHT names no holders", error=str(exc))
        return []

    # --- announcing -------------------------------------------------------------------------------------------------
    def announce(self, alg: str, digest: str) -> None:
        """Tell the network, soon and from time to time, that we hold this file. Never blocks, never raises."""
        key = _dht_key(alg, digest)
        if key in self._announced:
            return
        self._announced[key] = None
        while len(self._announced) > limits.MAX_ANNOUNCED:
            self._announced.popitem(last=False)
        with contextlib.suppress(OSError):  # for the next start; without it the others find us a little later
            self._announced_file.write_text("\n".join(self._announced))
        try:
            self._send.send_nowait(key)
        except trio.WouldBlock:
            log.info("too many announcements at once, this one comes with the next round", key=key)

    def announce_content(self, content: Content) -> None:
        """As :meth:`announce`, for a file of ours if it is worth it."""
        if content.size_bytes >= limits.SHARE_MIN_BYTES:
            self.announce("sha3-256", content.sha3_256)

    async def run(self) -> None:
        """Make the announcements, one after the other, until cancelled."""
        for key in self._announced_before():
            alg, _, digest = key.partition(":")
            if self._store.lookup(alg, digest) is not None:
                self.announce(alg, digest)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._again)
            async for key in self._receive:
                await self._announce_one(key)

    def _announced_before(self) -> list[str]:
        """What the node announced when it last ran, and what is well formed of it."""
        try:
            lines = self._announced_file.read_text().splitlines()[: limits.MAX_ANNOUNCED]
        except FileNotFoundError:
            return []
        return [line for line in lines if re.fullmatch("sha3-256:[0-9a-f]{64}", line)]

    async def _again(self) -> None:
        while True:
            await trio.sleep(limits.ANNOUNCE_EVERY_S)
            for key in list(self._announced):
                alg, _, digest = key.partition(":")
                if self._store.lookup(alg, digest) is None and (alg, digest) not in self._partials:
                    self._announced.pop(key, None)  # it was evicted
                else:
                    await self._announce_one(key)

    async def _announce_one(self, key: str) -> None:
        try:
            await self._network.provide(key)
            self.made_announcements += 1
        except GolemError as exc:
            log.debug("an announcement failed", key=key, error=str(exc))
        await trio.sleep(limits.ANNOUNCE_GAP_S)


def _dht_key(alg: str, digest: str) -> str:
    return f"{alg}:{digest}"
