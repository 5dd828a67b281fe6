"""Moving files between the agreement's requestor and a payload's volumes; fetching the package of a deploy.

gftp URLs are ``gftp://<node id>/<sha3-256 hex>`` to read and ``gftp://<node id>/<slot>`` to write; the node id is the
requestor's address, for nobody else serves this activity. What the local content store holds is never fetched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from golemp2p import limits
from golemp2p.activity.ports import ContentPort, ContentStorePort, DataPort
from golemp2p.core.agreement import Agreement
from golemp2p.core.exescript import Transfer
from golemp2p.core.ids import PeerId
from golemp2p.errors import PolicyError, UsageError
from golemp2p.runtimes.base import GuestFiles

OnProgress = Callable[[int, int], None]

_SHA3_BY_DIGITS: Final = {56: "sha3-224", 64: "sha3-256", 96: "sha3-384", 128: "sha3-512"}
_PACKAGE: Final = re.compile(r"^hash:(?://)?sha3:(?:0x)?([0-9a-fA-F]+):(.+)$", re.DOTALL)
_GFTP: Final = re.compile(r"^gftp://(0x[0-9a-fA-F]{40})/([A-Za-z0-9_-]{1,128})$")


@dataclass(frozen=True)
class Package:
    """What ``golem.srv.comp.task_package`` names. ``alg`` and ``digest`` are empty for a bare URL."""

    alg: str
    digest: str
    url: str


def parse_package(text: str) -> Package:
    """``hash:sha3:<hex>:<url>`` or a bare URL. Raises UsageError."""
    match = _PACKAGE.match(text)
    if match is None:
        if "://" not in text or text.startswith("hash:"):
            raise UsageError(f"task_package {text[:120]!r} is not understood", hint="hash:sha3:<hex>:<url>")
        return Package("", "", text)
    digest, url = match[1].lower(), match[2]
    if len(digest) not in _SHA3_BY_DIGITS:
        raise UsageError(f"the package's sha3 hash has {len(digest)} digits", hint="56, 64, 96 or 128")
    return Package(_SHA3_BY_DIGITS[len(digest)], digest, url)


class Transfers:
    """All file movements of one activity. ``max_bytes`` bounds one file; ``fetching`` is shared by all activities:

    two of them never fetch one file from one peer at a time, the second finds it in the store. Files of other
    peers do not wait: a requestor that sends slowly would hold up all who use the same program.
    """

    def __init__(
        self,
        agreement: Agreement,
        content: ContentStorePort,
        data: DataPort,
        *,
        max_bytes: int | None = None,
        fetching: dict[tuple[PeerId, str], trio.Lock] | None = None,
    ) -> None:
        self._agreement = agreement
        self._content = content
        self._data = data
        self._fetching = {} if fetching is None else fetching
        self._max_bytes = min(max_bytes or limits.MAX_TRANSFER_BYTES, limits.MAX_TRANSFER_BYTES)

    async def package(self, on_progress: OnProgress | None = None) -> ContentPort:
        """The agreement's package as a verified local file."""
        text = self._agreement.task_package
        if not text:
            raise UsageError("the agreement names no package", hint="demand property golem.srv.comp.task_package")
        package = parse_package(text)
        if package.alg:
            found = self._content.lookup(package.alg, package.digest)
            if found is not None:
                return found
        found = await self._fetch(self._digest_of(package.url), on_progress)
        if package.alg:
            actual = await trio.to_thread.run_sync(_hash_file, found.path, package.alg, abandon_on_cancel=True)
            if actual != package.digest:
                raise UsageError(f"the package's {package.alg} is {actual}, the agreement says {package.digest}")
        return found

    async def transfer(self, command: Transfer, files: GuestFiles, on_progress: OnProgress | None = None) -> None:
        """Obey a ``transfer``. Raises errors that say what was wrong with it."""
        if command.format is not None:
            raise UsageError(f"transfer of directories (format {command.format[:20]!r}) is not supported yet")
        inward, outward = _container(command.source), _container(command.target)
        if inward is not None and outward is not None:
            async with files.reading(inward, max_bytes=self._max_bytes) as path:
                await files.put(outward, path)
        elif outward is not None:
            content = await self._fetch(self._digest_of(command.source), on_progress)
            await files.put(outward, content.path)
        elif inward is not None:
            slot = self._slot_of(command.target)
            async with files.reading(inward, max_bytes=self._max_bytes) as path:
                await self._data.push(
                    self._agreement.requestor, slot, path, timeout_s=limits.TRANSFER_TIMEOUT_S, on_progress=on_progress
                )
        else:
            raise UsageError("transfer: one of from and to must be container:/path")

    async def _fetch(self, digest: str, on_progress: OnProgress | None) -> ContentPort:
        key = self._agreement.requestor, digest
        lock = self._fetching.setdefault(key, trio.Lock())
        try:
            async with lock:
                found = self._content.lookup("sha3-256", digest)
                if found is not None:
                    return found
                return await self._data.fetch(
                    self._agreement.requestor,
                    "sha3-256",
                    digest,
                    max_bytes=self._max_bytes,
                    timeout_s=limits.TRANSFER_TIMEOUT_S,
                    on_progress=on_progress,
                )
        finally:
            if not lock.locked():
                self._fetching.pop(key, None)

    def _digest_of(self, url: str) -> str:
        name = self._slot_of(url)
        if not re.fullmatch(r"[0-9a-fA-F]{64}", name):
            raise UsageError(f"{url[:120]!r} does not name a file by its sha3-256 hash")
        return name.lower()

    def _slot_of(self, url: str) -> str:
        """The last part of a gftp URL of the agreement's requestor."""
        scheme = url.partition(":")[0].lower()
        if scheme in ("http", "https"):
            raise PolicyError(
                f"{scheme} transfers are switched off on this provider", hint="publish the file by gftp instead"
            )
        match = _GFTP.match(url)
        if match is None:
            raise UsageError(f"URL {url[:120]!r} is not supported", hint="gftp://0x<address>/<hash or slot>")
        if match[1].lower() != self._agreement.requestor_address:
            raise PolicyError(
                f"{match[1].lower()} is not the requestor of this agreement",
                hint="files come from and go to the requestor",
            )
        return match[2]


def _container(url: str) -> str | None:
    return url.removeprefix("container:") if url.startswith("container:") else None


def _hash_file(path: Path, alg: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, alg.replace("-", "_")).hexdigest()
