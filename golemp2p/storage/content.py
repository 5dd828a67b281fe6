"""Files by their hash, and slots that receive files. Plain files, no database: what is on disk is what is known.

::

    files/<sha256>            complete files, read-only
    alias/<alg>-<hex>         a small file holding the sha256
    partial/<name>            what a broken transfer left, for resuming
    slots/<slot>.json         {"max_bytes", "peer", "sha256"}; sha256 is of the finished file, else null

Files enter by rename from ``partial``, so a complete-looking file is complete. Writing and hashing happen in worker
threads. When the quota is reached, files that nobody looked up for CONTENT_KEEP_S go, the longest unused first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import trio

from golemp2p import limits
from golemp2p.errors import ConflictError, GoneError, InternalError, NotFoundError, PolicyError, UsageError

ALGORITHMS: Final = {
    "sha256": "sha256",
    "sha3-224": "sha3_224",
    "sha3-256": "sha3_256",
    "sha3-384": "sha3_384",
    "sha3-512": "sha3_512",
}
ALWAYS: Final = ("sha256", "sha3-256")  # sha3-256 names gftp files; the others are made when asked for
_BLOCK_BYTES: Final = 1024 * 1024
_SLOT: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True)
class Content:
    """A complete file in the store."""

    sha256: str
    sha3_256: str  # "" while nobody has computed it (ContentStore.named): it takes four times as long as sha256
    path: Path
    size_bytes: int


@dataclass(frozen=True)
class Slot:
    """A place for one file to come. ``content`` is set when it is complete."""

    slot_id: str
    max_bytes: int
    peer: str | None  # only this peer may fill it
    received_bytes: int
    content: Content | None


def check_digest(alg: str, hexdigest: str) -> str:
    """The digest in lower case. Raises UsageError."""
    name = ALGORITHMS.get(alg)
    if name is None:
        raise UsageError(f"hash algorithm {alg!r} is not known", hint=f"one of {', '.join(ALGORITHMS)}")
    size = hashlib.new(name).digest_size
    if not re.fullmatch(rf"[0-9a-fA-F]{{{size * 2}}}", hexdigest):
        raise UsageError(f"{hexdigest[:140]!r} is not a {alg} in hex", hint=f"{size * 2} hex digits")
    return hexdigest.lower()


def hash_file(path: Path, algorithms: tuple[str, ...]) -> dict[str, str]:
    """In the calling thread; about 0.4 GB/s per algorithm."""
    hashers = {alg: hashlib.new(ALGORITHMS[alg]) for alg in algorithms}
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            for hasher in hashers.values():
                hasher.update(block)
    return {alg: hasher.hexdigest() for alg, hasher in hashers.items()}


def size_of(path: Path) -> int | None:
    """Bytes, or None when there is no such file. A stat is quick enough for the event loop."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


class ContentStore:
    """``quota_bytes`` bounds complete files and partial ones together."""

    def __init__(self, root: Path, *, quota_bytes: int = limits.CONTENT_QUOTA_BYTES) -> None:
        self._quota_bytes = quota_bytes
        self._files, self._aliases = root / "files", root / "alias"
        self._partial, self._slots = root / "partial", root / "slots"
        for folder in (self._files, self._aliases, self._partial, self._slots):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._finished: dict[str, trio.Event] = {}  # slots that somebody waits for
        for left in self._partial.glob("tmp-*"):  # of a process that was killed; nothing refers to them
            left.unlink(missing_ok=True)
        self._forget_old_slots()

    # --- complete files ---------------------------------------------------------------------------------------------
    def lookup(self, alg: str, hexdigest: str) -> Content | None:
        """Raises UsageError for an algorithm or digest that cannot be."""
        digest = check_digest(alg, hexdigest)
        if alg != "sha256":
            try:
                digest = (self._aliases / f"{alg}-{digest}").read_text()
            except FileNotFoundError:
                return None
        return self._content(digest)

    def _content(self, sha256: str) -> Content | None:
        path = self._files / sha256
        try:
            size = path.stat().st_size
            sha3_256 = (self._aliases / f"of-{sha256}").read_text()
            os.utime(path)  # used now: see _make_room
        except FileNotFoundError:
            return None
        return Content(sha256, sha3_256, path, size)

    async def add_file(self, source: Path, *, also: tuple[str, ...] = ()) -> Content:
        """Copy ``source`` into the store. ``also`` names further algorithms to be found by.

        Raises NotFoundError (no such file), PolicyError (quota).
        """
        temporary = self._partial / f"tmp-{secrets.token_hex(8)}"
        try:
            try:
                self.room_for(size_of(source) or 0)
                await trio.to_thread.run_sync(shutil.copyfile, source, temporary)
            except (FileNotFoundError, IsADirectoryError) as exc:
                raise NotFoundError(f"{source} is no file") from exc
            return await self.adopt(temporary, also=also)
        finally:
            temporary.unlink(missing_ok=True)

    async def add_stream(
        self, chunks: AsyncIterator[bytes], *, max_bytes: int = limits.DATA_MAX_BYTES, also: tuple[str, ...] = ()
    ) -> Content:
        """Store what ``chunks`` yields. Raises PolicyError (``max_bytes`` or quota)."""
        temporary = self._partial / f"tmp-{secrets.token_hex(8)}"
        free_bytes = self._quota_bytes - self.used_bytes()
        try:
            async with await trio.open_file(temporary, "wb") as file:
                size = 0
                async for chunk in chunks:
                    size += len(chunk)
                    if size > max_bytes:
                        raise PolicyError(f"more than {max_bytes} bytes", hint="that is the limit of this transfer")
                    if size > free_bytes:
                        self.room_for(limits.CONTENT_STEP_BYTES)
                        free_bytes = size + limits.CONTENT_STEP_BYTES
                    await file.write(chunk)
            return await self.adopt(temporary, also=also)
        finally:
            temporary.unlink(missing_ok=True)
            close = getattr(chunks, "aclose", None)  # a generator left half way would be finished by the collector
            if close is not None:
                await close()

    async def adopt(
        self, partial: Path, *, also: tuple[str, ...] = (), digests: Mapping[str, str] | None = None
    ) -> Content:
        """Make a complete file of one inside ``partial/``; it is moved, not copied.

        ``digests``: of this very file, by sha256 at least, from who has read it just now.
        """
        return await trio.to_thread.run_sync(self._adopt, partial, tuple(dict.fromkeys((*ALWAYS, *also))), digests)

    def _adopt(self, partial: Path, algorithms: tuple[str, ...], known: Mapping[str, str] | None = None) -> Content:
        digests = dict(known or hash_file(partial, algorithms))
        sha256 = digests.pop("sha256")
        for alg, digest in digests.items():
            self._write(self._aliases / f"{alg}-{digest}", sha256)
        sha3_256 = digests.get("sha3-256") or self._known_sha3(sha256)
        self._write(self._aliases / f"of-{sha256}", sha3_256)
        target = self._files / sha256
        partial.chmod(0o400)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)  # last: a file in place has its aliases
        return Content(sha256, sha3_256, target, target.stat().st_size)

    def _known_sha3(self, sha256: str) -> str:
        try:
            return (self._aliases / f"of-{sha256}").read_text()
        except FileNotFoundError:
            return ""

    async def named(self, content: Content) -> Content:
        """The same with its sha3-256, by which it is found from now on."""
        if content.sha3_256:
            return content
        known = self._known_sha3(content.sha256) or await self.digest(content, "sha3-256")
        return replace(content, sha3_256=known)

    async def digest(self, content: Content, alg: str) -> str:
        """The digest of ``content`` by another algorithm; from now on it is found by that too."""
        if alg not in ALGORITHMS:
            raise UsageError(f"hash algorithm {alg!r} is not known", hint=f"one of {', '.join(ALGORITHMS)}")
        digest = (await trio.to_thread.run_sync(hash_file, content.path, (alg,)))[alg]
        if alg != "sha256":
            self._write(self._aliases / f"{alg}-{digest}", content.sha256)
        if alg == "sha3-256":
            self._write(self._aliases / f"of-{content.sha256}", digest)
        return digest

    def remove(self, content: Content) -> None:
        """Idempotent. Aliases stay and lead to nothing."""
        content.path.unlink(missing_ok=True)

    # --- partial files ----------------------------------------------------------------------------------------------
    def partial(self, name: str) -> Path:
        """Where a transfer called ``name`` collects its bytes; survives a restart."""
        return self._partial / name

    def discard(self, partial: Path) -> None:
        partial.unlink(missing_ok=True)

    def used_bytes(self) -> int:
        used = 0
        for folder in (self._files, self._partial):
            with os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # it has just been moved or removed, by a thread
                        used += entry.stat().st_size
        return used

    def room_for(self, more_bytes: int) -> None:
        """Make room if need be. Raises PolicyError when ``more_bytes`` would exceed the quota all the same."""
        excess = self.used_bytes() + more_bytes - self._quota_bytes
        if excess <= 0:
            return
        oldest_kept = time.time() - limits.CONTENT_KEEP_S
        unused = sorted((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(self._files))
        for used_at, size, path in unused:
            if excess <= 0 or used_at > oldest_kept:
                break
            Path(path).unlink(missing_ok=True)
            excess -= size
        if excess > 0:
            raise PolicyError(
                f"the file store is full: {more_bytes} bytes more than its {self._quota_bytes} would be needed",
                hint=f"files that were not used for {limits.CONTENT_KEEP_S / 3600:g} h make room by themselves",
            )

    def _forget_old_slots(self) -> None:
        """Slots, and what broken transfers left, that nobody touched for SLOT_KEEP_S."""
        oldest_kept = time.time() - limits.SLOT_KEEP_S
        for folder in (self._slots, self._partial):
            for entry in os.scandir(folder):
                if entry.stat().st_mtime < oldest_kept:
                    Path(entry.path).unlink(missing_ok=True)

    # --- slots ------------------------------------------------------------------------------------------------------
    def open_slot(self, slot_id: str, max_bytes: int, *, peer: str | None = None) -> Slot:
        """A new place, or the same one again. Raises ConflictError when it exists with other terms."""
        if not _SLOT.fullmatch(slot_id):
            raise UsageError(f"{slot_id[:140]!r} is not a slot id", hint="up to 128 letters, digits, - and _")
        if not 0 < max_bytes <= limits.DATA_MAX_BYTES:
            raise UsageError(f"a slot of {max_bytes} bytes", hint=f"1 to {limits.DATA_MAX_BYTES}")
        path = self._slots / f"{slot_id}.json"
        if path.exists():
            slot = self.slot(slot_id)
            if (slot.max_bytes, slot.peer) != (max_bytes, peer):
                raise ConflictError(f"slot {slot_id} exists with other terms")
            return slot
        if sum(1 for _ in self._slots.iterdir()) >= limits.MAX_SLOTS:
            raise PolicyError(f"there are {limits.MAX_SLOTS} slots already")
        self._write(path, json.dumps({"max_bytes": max_bytes, "peer": peer, "sha256": None}))
        return self.slot(slot_id)

    def slot(self, slot_id: str) -> Slot:
        """Raises NotFoundError (never opened or removed) and GoneError (its file was removed)."""
        facts = self._slot_facts(slot_id)
        content = None
        if facts["sha256"] is not None:
            content = self._content(facts["sha256"])
            if content is None:
                raise GoneError(f"the file of slot {slot_id} was removed")
        partial = self.slot_partial(slot_id)
        received = partial.stat().st_size if partial.exists() else 0
        return Slot(slot_id, facts["max_bytes"], facts["peer"], content.size_bytes if content else received, content)

    def _slot_facts(self, slot_id: str) -> dict[str, Any]:
        if not _SLOT.fullmatch(slot_id):
            raise NotFoundError(f"slot {slot_id[:140]!r} is not known")
        try:
            facts: dict[str, Any] = json.loads((self._slots / f"{slot_id}.json").read_text())
        except FileNotFoundError as exc:
            raise NotFoundError(f"slot {slot_id!r} is not known") from exc
        except ValueError as exc:
            raise InternalError(
                f"the file of slot {slot_id} is damaged", hint=f"delete it below {self._slots}"
            ) from exc
        return facts

    def slot_partial(self, slot_id: str) -> Path:
        return self._partial / f"slot-{slot_id}"

    async def finish(
        self, slot_id: str, *, also: tuple[str, ...] = (), digests: Mapping[str, str] | None = None
    ) -> Content:
        """What was received is the whole file. Idempotent once finished. ``digests`` as in :meth:`adopt`."""
        slot = self.slot(slot_id)
        if slot.content is not None:
            return slot.content
        partial = self.slot_partial(slot_id)
        partial.touch(exist_ok=True)  # an empty file is a file
        content = await self.adopt(partial, also=also, digests=digests)
        facts = self._slot_facts(slot_id) | {"sha256": content.sha256}
        self._write(self._slots / f"{slot_id}.json", json.dumps(facts))
        if (event := self._finished.pop(slot_id, None)) is not None:
            event.set()
        return content

    async def wait_finished(self, slot_id: str) -> Content:
        """The slot's file as soon as it is complete. Raises as :meth:`slot`, also when the slot is closed meanwhile."""
        while True:
            event = self._finished.setdefault(slot_id, trio.Event())
            if (content := self.slot(slot_id).content) is not None:
                self._finished.pop(slot_id, None)
                return content
            await event.wait()

    def close_slot(self, slot_id: str) -> None:
        """Forget the slot and what it received so far; a finished file stays. Idempotent."""
        if _SLOT.fullmatch(slot_id):
            (self._slots / f"{slot_id}.json").unlink(missing_ok=True)
            self.slot_partial(slot_id).unlink(missing_ok=True)
            if (event := self._finished.pop(slot_id, None)) is not None:
                event.set()

    def _write(self, path: Path, text: str) -> None:
        temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
        temporary.write_text(text)
        temporary.replace(path)
