"""One file from several peers at once: its owner, who names the chunks' hashes, and whoever else has or fetches it.

The owner (the requestor of an agreement) has a thin line to many; so everybody takes another share of the chunks from
it and the rest from each other. A chunk belongs to the fetcher that a hash of both chooses: those who start at the
same moment divide the file without talking. A peer's chunk that does not fit its hash costs the peer its place; the
owner answers in the end for whatever nobody else brings.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import DeadlineError, GolemError, NetworkError, PolicyError, RemoteProtocolError
from golemp2p.net.chunks import CHUNK_BYTES, Bitmap, PartialFile, chunk_count
from golemp2p.net.datawire import Progress, Wire, encode_header

log = structlog.get_logger(__name__)
OpenWire = Callable[[PeerId], Awaitable[Wire]]
FindPeers = Callable[[], Awaitable[Iterable[PeerId]]]
_OWNER_STREAMS: Final = 2


class Swarm:
    """One fetch. ``run`` returns when the partial file is complete; its whole hash is the caller's business."""

    def __init__(
        self,
        me: PeerId,
        open_wire: OpenWire,
        owner: PeerId,
        alg: str,
        digest: str,
        partial_file: PartialFile,
        *,
        on_progress: Progress | None = None,
    ) -> None:
        self._me, self._open_wire = me, open_wire
        self._owner, self._alg, self._digest = owner, alg, digest
        self._partial, self._on_progress = partial_file, on_progress
        self._missing = {index for index, flag in enumerate(partial_file.have.flags) if not flag}
        self._asked: dict[int, float] = {}  # chunk -> when it was asked for last
        self._peers: dict[PeerId, Bitmap] = {}  # those who answer
        self._tried: dict[PeerId, int] = {
            owner: limits.SHARE_PEER_ATTEMPTS,
            me: limits.SHARE_PEER_ATTEMPTS,
        }
        self._busy: set[PeerId] = set()
        self._hints: set[PeerId] = set()
        self._fetchers: tuple[PeerId, ...] = ()
        self._shares: dict[int, PeerId] = {}  # of these fetchers: a hash for each of many thousand chunks
        self._hinted = trio.Event()
        self._changed = trio.Event()
        self._began_s = self._peer_news_s = trio.current_time()
        self._peer_bytes = 0
        self.owner_bytes = 0  # what it cost the owner
        self._random = random.Random()  # noqa: S311 - spreads load, keeps no secret

    async def run(self, find: FindPeers) -> None:
        """``find`` is asked for peers now and then. Raises what kept the owner from giving what nobody else had."""
        self._tell_progress()
        failures: list[GolemError] = []
        async with trio.open_nursery() as nursery:

            async def owner() -> None:
                try:
                    await self._from_owner()
                except GolemError as exc:
                    failures.append(exc)

            async def search() -> None:
                while True:
                    begin(await find())
                    with trio.move_on_after(limits.SHARE_SEARCH_S):
                        while True:
                            await self._hinted.wait()
                            self._hinted = trio.Event()
                            begin(self._hints)

            def begin(found: Iterable[PeerId]) -> None:
                for peer in found:
                    tried = self._tried.get(peer, 0)
                    if tried < limits.SHARE_PEER_ATTEMPTS and peer not in self._busy:
                        if len(self._busy) >= limits.SHARE_PEERS:
                            return
                        self._tried[peer] = tried + 1
                        self._busy.add(peer)
                        nursery.start_soon(self._from_peer, peer)

            with trio.move_on_after(limits.SHARE_FIND_S):  # so that who began before us is counted from the start
                begin(await find())
            nursery.start_soon(search)
            for _ in range(_OWNER_STREAMS):
                nursery.start_soon(owner)
            # Without the owner, peers may still complete the file: as long as one brings something.
            while self._missing:
                if len(failures) == _OWNER_STREAMS and not self._peers_are_of_use():
                    break
                with trio.move_on_after(limits.SHARE_PATIENCE_S):
                    await self._changed.wait()
            nursery.cancel_scope.cancel()
        if self._missing:
            raise failures[0]

    def hint(self, peer: PeerId) -> None:
        """``peer`` asked us for this file, so it is fetching it too. Never blocks."""
        if len(self._hints) < limits.SHARE_KNOWN_FETCHERS:
            self._hints.add(peer)
            self._hinted.set()

    def _peers_are_of_use(self) -> bool:
        return bool(self._peers) and trio.current_time() - self._peer_news_s < limits.SHARE_STALL_S

    # --- who gives what ---------------------------------------------------------------------------------------------
    def _free(self) -> list[int]:
        """Chunks that nobody was asked for, else those that were asked for long ago."""
        now = trio.current_time()
        free = [index for index in self._missing if index not in self._asked]
        return free or [i for i in self._missing if now - self._asked[i] > limits.SHARE_REPEAT_S]

    def _for_peer(self, has: Bitmap) -> int | None:
        return self._one([index for index in self._free() if has.flags[index]])

    def _for_owner(self) -> int | None:
        free = self._free()
        if not self._peers:
            return self._one([min(free)] if free else [])  # in order: hashed from the page cache
        rare = [index for index in free if not any(has.flags[index] for has in self._peers.values())]
        ours = [index for index in rare if self._share_of(index) == self._me]
        if ours:
            return self._one(ours)
        # The rest is for the peers to bring, unless they bring nothing or would take long.
        now = trio.current_time()
        rate = self._peer_bytes / max(now - self._began_s, 0.1)
        slow = len(self._missing) * CHUNK_BYTES > rate * limits.SHARE_SLOW_S
        if now - self._peer_news_s > limits.SHARE_PATIENCE_S or (slow and now - self._began_s > limits.SHARE_SLOW_S):
            return self._one(rare or free)
        return None

    def _run_from(self, index: int, most: int) -> list[int]:
        """``index`` and those behind it that nobody was asked for, when there are no peers to divide them with."""
        run = [index]
        while not self._peers and len(run) < most and run[-1] + 1 in self._missing and run[-1] + 1 not in self._asked:
            run.append(run[-1] + 1)
            self._asked[run[-1]] = trio.current_time()
        return run

    def _share_of(self, index: int) -> PeerId:
        """Whose chunk it is to get from the owner, among those who are not done."""
        fetchers = (self._me, *(peer for peer, has in self._peers.items() if not has.full))
        if fetchers != self._fetchers:
            self._fetchers, self._shares = fetchers, {}
        share = self._shares.get(index)
        if share is None:
            share = max(fetchers, key=lambda peer: hashlib.blake2b(f"{peer}/{index}".encode(), digest_size=8).digest())
            self._shares[index] = share
        return share

    def _one(self, indexes: list[int]) -> int | None:
        if not indexes:
            return None
        index = self._random.choice(indexes)
        self._asked[index] = trio.current_time()
        return index

    # --- the streams ------------------------------------------------------------------------------------------------
    async def _from_owner(self) -> None:
        for attempt in range(1, limits.SHARE_OWNER_ATTEMPTS + 1):
            try:
                return await self._drain_owner()
            except (NetworkError, PolicyError) as exc:  # PolicyError: too many transfers of ours at a time
                if attempt == limits.SHARE_OWNER_ATTEMPTS:
                    raise
                log.info("shared fetch: the owner's stream broke", owner=self._owner, error=str(exc))
                await trio.sleep(0.2 * attempt)
        return None

    async def _drain_owner(self) -> None:
        wire = await self._open_wire(self._owner)
        try:
            most = 1
            while self._missing:
                index = self._for_owner()
                if index is None:
                    await self._pause()
                    continue
                run, asked_s = self._run_from(index, most), trio.current_time()
                if not await self._get(wire, run):
                    raise RemoteProtocolError(f"{self._owner} sent a chunk that does not fit its own hash")
                self.owner_bytes += sum(map(self._partial.length, run))
                quick = trio.current_time() - asked_s < limits.SHARE_RUN_S
                most = min(2 * most, limits.SHARE_RUN_CHUNKS) if quick else max(most // 2, 1)
        finally:
            await wire.stream.aclose()

    async def _from_peer(self, peer: PeerId) -> None:
        """Until it is of no use. Never raises: a peer's fault is no reason to fail."""
        try:
            wire = await self._open_wire(peer)
            try:
                await self._drain_peer(peer, wire)
            finally:
                await wire.stream.aclose()
        except GolemError as exc:
            log.info("shared fetch: a peer was dropped", peer=peer, error=str(exc))
            if isinstance(exc, RemoteProtocolError):
                self._tried[peer] = limits.SHARE_PEER_ATTEMPTS  # it lies; the others may come back
        finally:
            self._busy.discard(peer)
            self._peers.pop(peer, None)
            self._wake()

    async def _drain_peer(self, peer: PeerId, wire: Wire) -> None:
        idle_since_s = trio.current_time()
        while self._missing:
            if peer not in self._peers or not self._peers[peer].full:
                self._peers[peer] = await self._map_of(wire)
                self._wake()
            index = self._for_peer(self._peers[peer])
            if index is None:
                if trio.current_time() - idle_since_s > limits.SHARE_STALL_S:
                    raise DeadlineError(f"{peer} had nothing new for {limits.SHARE_STALL_S:g} s")
                await self._pause()
                continue
            with trio.move_on_after(limits.SHARE_CHUNK_TIMEOUT_S) as slow:
                right = await self._get(wire, [index])
            if slow.cancelled_caught:
                raise DeadlineError(f"{peer} took more than {limits.SHARE_CHUNK_TIMEOUT_S:g} s for a chunk")
            if not right:
                raise RemoteProtocolError(f"{peer} sent a chunk with a wrong hash")
            idle_since_s = self._peer_news_s = trio.current_time()
            self._peer_bytes += self._partial.length(index)

    async def _map_of(self, wire: Wire) -> Bitmap:
        with trio.move_on_after(limits.SHARE_CHUNK_TIMEOUT_S):
            await wire.send(encode_header(["have", self._alg, self._digest]))
            match await wire.answer():
                case [int(size), bytes(packed)] if size == self._partial.size_bytes:
                    return Bitmap.unpack(packed, chunk_count(size))
                case other:
                    raise RemoteProtocolError(f"a data answer says {str(other)[:100]} for have")
        raise DeadlineError("no answer to have")

    async def _get(self, wire: Wire, run: list[int]) -> bool:
        """Fetch, check and keep chunks that follow each other; False when one is wrong."""
        length, left = sum(map(self._partial.length, run)), list(run)
        try:
            await wire.send(encode_header(["get", self._alg, self._digest, run[0] * CHUNK_BYTES, length]))
            match await wire.answer():
                case [int(size)] if size == self._partial.size_bytes:
                    pass
                case other:
                    raise RemoteProtocolError(f"a data answer says {str(other)[:100]} for a chunk")
            for index in run:
                if not await wire.chunk(self._partial.length(index), partial(self._partial.put, index)):
                    return False
                left.remove(index)
                self._asked.pop(index, None)
                if index in self._missing:  # two may have brought it
                    self._missing.discard(index)
                    self._tell_progress()
                self._wake()
        finally:
            for index in left:
                self._asked.pop(index, None)
            if left:
                self._wake()
        return True

    async def _pause(self) -> None:
        with trio.move_on_after(limits.SHARE_POLL_S):
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _tell_progress(self) -> None:
        if self._on_progress is not None:
            total = self._partial.size_bytes
            left = math.fsum(self._partial.length(index) for index in self._missing)
            self._on_progress(total - int(left), total)
