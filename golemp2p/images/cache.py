"""Converted images on disk, shared by all nodes of a user. Made here from verified packages, never fetched.

::

    <sha256>-<form>-v1          the converted image
    <sha256>-<form>-v1.json     its configuration; written first, so that an image in place has one
    <sha256>-<form>-v1.lock     held while it is made
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import structlog
import trio

from golemp2p import limits
from golemp2p.filelock import locked
from golemp2p.images.launch import Form, convert_image
from golemp2p.images.model import ImageConfig, ImageError

log = structlog.get_logger(__name__)
_VERSION: Final = "v1"  # of what converting.py writes: raise it when the outcome changes
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def image_tag(sha256: str) -> str:
    """The one tag that a docker-archive of the cache carries; ``sha256`` is the package's."""
    return f"golemp2p-image:{sha256}"


class ImageCache:
    """Get or convert. One conversion of an image at a time, across processes."""

    def __init__(self, directory: Path, *, max_bytes: int = limits.IMAGE_CACHE_BYTES) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory, self._max_bytes = directory, max_bytes
        oldest_kept = time.time() - 2 * limits.IMAGE_CONVERT_WALL_S
        for left in directory.glob(".*.scratch"):  # of a process that was killed
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < oldest_kept:
                    shutil.rmtree(left, ignore_errors=True)
        for left in (*directory.glob(".*.part"), *directory.glob(".*.json")):
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < oldest_kept:
                    left.unlink()

    async def get(self, package: Path, sha256: str, to: Form) -> tuple[Path, ImageConfig]:
        """The image in that form, and its configuration. The path stays for at least IMAGE_CACHE_KEEP_S.

        ``sha256`` is the package's, verified by the caller. Raises ImageError.
        """
        if not _SHA256.fullmatch(sha256):
            raise ImageError(f"{sha256[:80]!r} is not a sha256 in hex")
        cached = self._directory / f"{sha256}-{to}-{_VERSION}"
        if (found := self._take(cached)) is not None:
            return found
        async with self._locked(cached.with_name(f"{cached.name}.lock")):
            if (found := self._take(cached)) is not None:  # another did it while we waited
                return found
            await self._convert(package, sha256, to, cached)
            found = self._take(cached)
        await trio.to_thread.run_sync(self._evict)
        if found is None:
            raise ImageError("the converted image vanished from the cache")
        return found

    def _take(self, cached: Path) -> tuple[Path, ImageConfig] | None:
        try:
            os.utime(cached)  # the least recently used go first
            return cached, ImageConfig.from_json(json.loads(_config_of(cached).read_text()))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    async def _convert(self, package: Path, sha256: str, to: Form, cached: Path) -> None:
        part = self._directory / f".{secrets.token_hex(8)}.part"
        try:
            config = await convert_image(package, part, to, name=image_tag(sha256))
            text = part.with_suffix(".json")
            text.write_text(json.dumps(config.to_json()))
            text.replace(_config_of(cached))
            part.chmod(0o400)
            part.replace(cached)
        finally:
            part.unlink(missing_ok=True)

    def _locked(self, path: Path) -> AbstractAsyncContextManager[None]:
        """Other nodes of this user may be converting the very same image."""
        busy = ImageError("another node keeps converting this image")
        return locked(path, timeout_s=limits.IMAGE_CONVERT_WALL_S * 2, otherwise=busy)

    def _evict(self) -> None:
        """Drop the least recently used images beyond the budget; not those handed out just now."""
        facts = []
        for path in self._directory.glob(f"*-{_VERSION}"):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                facts.append((found.st_mtime, found.st_size, path))
        total_bytes, oldest_kept = 0, time.time() - limits.IMAGE_CACHE_KEEP_S
        for used_at, size, path in sorted(facts, reverse=True):
            total_bytes += size
            if total_bytes > self._max_bytes and used_at < oldest_kept:
                path.unlink(missing_ok=True)
                _config_of(path).unlink(missing_ok=True)
                log.info("image_evicted", file=path.name, bytes=size)


def _config_of(cached: Path) -> Path:
    return cached.with_name(f"{cached.name}.json")
