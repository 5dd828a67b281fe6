"""Files by their hash, and slots that receive files. Plain files, no database: what is on disk is what is known.

::

    files/<sha256>            complete files, read-only
    alias/<alg>-<hex>         a small file holding the sha256
    partial/<name>            what a broken transfer left, for resuming
    slots/<slot>.json         {"max_bytes", "peer", "sha256"}; sha256 is of the finished file, else null

Files enter by rename from ``partial``, so a complete-looking file is complete. Writing and hashing happen in worker
threads.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
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
    sha3_256: str
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
        self._root, self._quota_bytes = root, quota_bytes
        self._files, self._aliases = root / "files", root / "alias"
        self._partial, self._slots = root / "partial", root / "slots"
        for folder in (self._files, self._aliases, self._partial, self._slots):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self._partial.glob("tmp-*"):  # of a process that was killed; nothing refers to them
            left.unlink(missing_ok=True)

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
                self._check_quota(size_of(source) or 0)
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
                        self._check_quota(self._quota_bytes + 1)
                    await file.write(chunk)
            return await self.adopt(temporary, also=also)
        finally:
            temporary.unlink(missing_ok=True)
            close = getattr(chunks, "aclose", None)  # a generator left half way would be finished by the collector
            if close is not None:
                await close()

    async def adopt(self, partial: Path, *, also: tuple[str, ...] = ()) -> Content:
        """Make a complete file of one inside ``partial/``; it is moved, not copied."""
        return await trio.to_thread.run_sync(self._adopt, partial, tuple(dict.fromkeys((*ALWAYS, *also))))

    def _adopt(self, partial: Path, algorithms: tuple[str, ...]) -> Content:
        digests = hash_file(partial, algorithms)
        sha256 = digests.pop("sha256")
        for alg, digest in digests.items():
            self._write(self._aliases / f"{alg}-{digest}", sha256)
        self._write(self._aliases / f"of-{sha256}", digests["sha3-256"])
        target = self._files / sha256
        partial.chmod(0o400)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)  # last: a file in place has its aliases
        return Content(sha256, digests["sha3-256"], target, target.stat().st_size)

    async def digest(self, content: Content, alg: str) -> str:
        """The digest of ``content`` by another algorithm; from now on it is found by that too."""
        if alg not in ALGORITHMS:
            raise UsageError(f"hash algorithm {alg!r} is not known", hint=f"one of {', '.join(ALGORITHMS)}")
        digest = (await trio.to_thread.run_sync(hash_file, content.path, (alg,)))[alg]
        if alg != "sha256":
            self._write(self._aliases / f"{alg}-{digest}", content.sha256)
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

    def _check_quota(self, more_bytes: int) -> None:
        used = self.used_bytes()
        if used + more_bytes > self._quota_bytes:
            raise PolicyError(
                f"the file store has {used} bytes and room for {self._quota_bytes}", hint="raise storage.content_quota"
            )

    def used_bytes(self) -> int:
        used = 0
        for folder in (self._files, self._partial):
            with os.scandir(folder) as entries:
                used += sum(entry.stat().st_size for entry in entries)
        return used

    def room_for(self, more_bytes: int) -> None:
        """Raises PolicyError when ``more_bytes`` would exceed the quota."""
        self._check_quota(more_bytes)

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

    async def finish(self, slot_id: str, *, also: tuple[str, ...] = ()) -> Content:
        """What was received is the whole file. Idempotent once finished."""
        slot = self.slot(slot_id)
        if slot.content is not None:
            return slot.content
        partial = self.slot_partial(slot_id)
        partial.touch(exist_ok=True)  # an empty file is a file
        content = await self.adopt(partial, also=also)
        facts = self._slot_facts(slot_id) | {"sha256": content.sha256}
        self._write(self._slots / f"{slot_id}.json", json.dumps(facts))
        return content

    def close_slot(self, slot_id: str) -> None:
        """Forget the slot and what it received so far; a finished file stays. Idempotent."""
        if _SLOT.fullmatch(slot_id):
            (self._slots / f"{slot_id}.json").unlink(missing_ok=True)
            self.slot_partial(slot_id).unlink(missing_ok=True)

    def _write(self, path: Path, text: str) -> None:
        temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
        temporary.write_text(text)
        temporary.replace(path)
