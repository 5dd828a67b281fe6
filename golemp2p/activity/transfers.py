"""Moving files between the agreement's requestor and a payload's volumes; fetching the package of a deploy.

gftp URLs are ``gftp://<node id>/<name>``: the sha3-256 of a file or a name that a program serves to read, a slot or
such a name to write. The node id is the requestor's address, for nobody else serves this activity. What the local
content store holds is never fetched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from golemp2p import limits
from golemp2p.activity.disk import remove_tree
from golemp2p.activity.http import HttpTransfers
from golemp2p.activity.ports import ContentPort, ContentStorePort, DataPort
from golemp2p.archives import check_format, pack, unpack
from golemp2p.core.agreement import Agreement
from golemp2p.core.exescript import Transfer
from golemp2p.core.ids import PeerId
from golemp2p.errors import NotFoundError, PolicyError, UsageError
from golemp2p.runtimes.base import GuestFiles

OnProgress = Callable[[int, int], None]

# Packing may take minutes: a thread that works for an activity which has ended stops.
_GIVING_UP: Final = trio.from_thread.check_cancelled
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
    ``substitutes``: digests of packages -> digests of what to run instead (test networks).
    """

    def __init__(
        self,
        agreement: Agreement,
        content: ContentStorePort,
        data: DataPort,
        *,
        max_bytes: int | None = None,
        fetching: dict[tuple[PeerId, str], trio.Lock] | None = None,
        staging: Path,
        http: HttpTransfers | None = None,
        substitutes: Mapping[str, str] | None = None,
    ) -> None:
        self._substitutes = substitutes or {}
        self._agreement = agreement
        self._content = content
        self._data = data
        self._staging = staging
        self._http = http or HttpTransfers()
        self._fetching = {} if fetching is None else fetching
        self._max_bytes = min(max_bytes or limits.MAX_TRANSFER_BYTES, limits.MAX_TRANSFER_BYTES)

    async def package(self, on_progress: OnProgress | None = None) -> ContentPort:
        """The agreement's package as a verified local file."""
        text = self._agreement.task_package
        if not text:
            raise UsageError("the agreement names no package", hint="demand property golem.srv.comp.task_package")
        package = parse_package(text)
        if package.digest in self._substitutes:  # test networks: setting provider.package_substitutes
            instead = self._substitutes[package.digest]
            package = Package(_SHA3_BY_DIGITS[len(instead)], instead, "http:")  # by its hash, from whoever has it
        if package.alg:
            found = self._content.lookup(package.alg, package.digest)
            if found is not None:
                return found
        if _is_http(package.url):
            found = await self._package_by_http(package, on_progress)
        elif (digest := self._digest_of(package.url)) is not None:
            found = await self._fetch(digest, on_progress, shared=True)
        else:
            async with self._staged() as staging:
                path = await self._download(package.url, staging, on_progress)
                found = await self._content.add_file(path, also=(package.alg,) if package.alg else ())
        if package.alg:
            actual = await trio.to_thread.run_sync(_hash_file, found.path, package.alg, abandon_on_cancel=True)
            if actual != package.digest:
                raise UsageError(f"the package's {package.alg} is {actual}, the agreement says {package.digest}")
        return found

    async def _package_by_http(self, package: Package, on_progress: OnProgress | None) -> ContentPort:
        """The hash names the content, so the requestor may have it, too: its URL comes second."""
        if not package.alg:
            raise UsageError("a package from an http URL needs its hash", hint="hash:sha3:<hex>:<url>")
        try:
            return await self._data.fetch(
                self._agreement.requestor,
                package.alg,
                package.digest,
                max_bytes=self._max_bytes,
                timeout_s=limits.TRANSFER_TIMEOUT_S,
                on_progress=on_progress,
                shared=True,
            )
        except NotFoundError:
            if package.url == "http:":
                raise
            async with self._staged() as staging:
                path = await self._download(package.url, staging, on_progress)
                return await self._content.add_file(path, also=(package.alg,))

    async def transfer(self, command: Transfer, files: GuestFiles, on_progress: OnProgress | None = None) -> None:
        """Obey a ``transfer``. With a ``format`` both ends are directories and what travels is an archive.

        Raises errors that say what was wrong with it.
        """
        form = None if command.format is None else check_format(command.format)
        inward, outward = _container(command.source), _container(command.target)
        if inward is None and outward is None:
            raise UsageError("transfer: one of from and to must be container:/path")
        async with self._staged() as staging:
            if inward is not None and outward is not None:
                await self._copy(files, inward, outward, form, staging)
            elif outward is not None:
                path = await self._download(command.source, staging, on_progress)
                if form is None:
                    await files.put(outward, path)
                else:
                    tree = staging / "tree"
                    await _in_thread(
                        partial(unpack, path, tree, form, max_bytes=self._max_bytes, checkpoint=_GIVING_UP)
                    )
                    await files.put_tree(outward, tree)
            elif inward is not None:
                if form is None:
                    async with files.reading(inward, max_bytes=self._max_bytes) as path:
                        await self._upload(path, command.target, on_progress)
                else:
                    archive = staging / f"archive.{form}"
                    await self._read_tree(files, inward, staging / "tree")
                    await _in_thread(partial(pack, staging / "tree", archive, form, checkpoint=_GIVING_UP))
                    await self._upload(archive, command.target, on_progress)

    async def _copy(self, files: GuestFiles, source: str, target: str, form: str | None, staging: Path) -> None:
        if form is None:
            async with files.reading(source, max_bytes=self._max_bytes) as path:
                await files.put(target, path)
        else:
            await self._read_tree(files, source, staging / "tree")
            await files.put_tree(target, staging / "tree")

    async def _read_tree(self, files: GuestFiles, source: str, target: Path) -> None:
        await files.get_tree(source, target, max_bytes=self._max_bytes, max_files=limits.MAX_TREE_FILES)

    async def _download(self, url: str, staging: Path, on_progress: OnProgress | None) -> Path:
        if _is_http(url):
            target = staging / "download"
            await self._http.download(url, target, max_bytes=self._max_bytes, on_progress=on_progress)
            return target
        digest = self._digest_of(url)
        if digest is not None:
            return (await self._fetch(digest, on_progress)).path
        target = staging / "download"
        await self._data.fetch_named(
            self._agreement.requestor,
            self._slot_of(url),
            target,
            max_bytes=self._max_bytes,
            timeout_s=limits.TRANSFER_TIMEOUT_S,
            on_progress=on_progress,
        )
        return target

    async def _upload(self, path: Path, url: str, on_progress: OnProgress | None) -> None:
        if _is_http(url):
            await self._http.upload(path, url, on_progress=on_progress)
            return
        slot, timeout_s = self._slot_of(url), limits.TRANSFER_TIMEOUT_S
        await self._data.push(self._agreement.requestor, slot, path, timeout_s=timeout_s, on_progress=on_progress)

    @asynccontextmanager
    async def _staged(self) -> AsyncIterator[Path]:
        """A directory of this activity's own for what is on its way; gone afterwards."""
        await _in_thread(partial(_make_private, self._staging))
        try:
            yield self._staging
        finally:
            with trio.CancelScope(shield=True):
                await _in_thread(partial(remove_tree, self._staging))

    async def _fetch(self, digest: str, on_progress: OnProgress | None, *, shared: bool = False) -> ContentPort:
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
                    shared=shared,
                )
        finally:
            if not lock.locked():
                self._fetching.pop(key, None)

    def _digest_of(self, url: str) -> str | None:
        """The sha3-256 that the URL names its file by; None for one that a program serves under another name."""
        name = self._slot_of(url)
        return name.lower() if re.fullmatch(r"[0-9a-fA-F]{64}", name) else None

    def _slot_of(self, url: str) -> str:
        """The last part of a gftp URL of the agreement's requestor."""
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


def _is_http(url: str) -> bool:
    return url.partition(":")[0].lower() in ("http", "https")


async def _in_thread(work: Callable[[], object]) -> None:
    await trio.to_thread.run_sync(work)


def _make_private(path: Path) -> None:
    remove_tree(path)
    path.mkdir(parents=True, mode=0o700)


def _hash_file(path: Path, alg: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, alg.replace("-", "_")).hexdigest()
