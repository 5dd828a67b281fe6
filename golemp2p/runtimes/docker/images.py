"""The images that an engine holds for us: made of packages or pulled, known by their hashes, and removed by use."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.images import ImageError, convert_image
from golemp2p.runtimes.base import Deployment, RuntimeFailureError
from golemp2p.runtimes.docker.engine import Engine

log = structlog.get_logger(__name__)

REPOSITORY: Final = "golemp2p/image"


class EngineImages:
    """``pullable``: prefixes of registry references that may be pulled."""

    def __init__(self, pullable: Sequence[str]) -> None:
        self._pullable = pullable
        self._loading: dict[str, trio.Lock] = {}
        self._wanted: Counter[str] = Counter()  # images that are to be a container's soon
        self._used: dict[str, float] = {}  # when an image of ours was wanted last

    @asynccontextmanager
    async def wanted(self, engine: Engine, deployment: Deployment) -> AsyncIterator[Mapping[str, Any]]:
        """The package as an image of the engine: converted and loaded once, known by the package's hash. It stays at
        least for as long as we are inside.
        """
        pulled = deployment.reference
        tag = f"pulled-{pulled.rpartition(':')[2]}" if pulled else deployment.package_sha256
        name = f"{REPOSITORY}:{tag}"
        self._wanted[name] += 1
        lock = self._loading.setdefault(name, trio.Lock())
        try:
            async with lock:
                if pulled:
                    found = await self._pull(engine, pulled, tag)
                else:
                    found = await engine.image(name) or await self._load(engine, deployment, name)
            self._used[name] = time.time()
            yield found
        finally:
            self._wanted[name] -= 1
            if not self._wanted[name]:
                del self._wanted[name], self._loading[name]

    async def _load(self, engine: Engine, deployment: Deployment, name: str) -> Mapping[str, Any]:
        archive = deployment.work_dir / "image.tar"
        if deployment.progress is not None:
            await deployment.progress("loading the image", 0, None, "")
        try:
            await convert_image(deployment.package, archive, to="docker-archive", name=name)
        except ImageError as exc:
            raise RuntimeFailureError(exc.message, hint=exc.hint) from None
        found = await engine.load(archive, name)
        await trio.to_thread.run_sync(archive.unlink)
        log.info("image_loaded", name=name, id=found["Id"])
        await self.evict(engine)
        return found

    async def _pull(self, engine: Engine, reference: str, tag: str) -> Mapping[str, Any]:
        if not re.fullmatch(r"[A-Za-z0-9._:/-]{1,200}@sha256:[0-9a-f]{64}", reference):
            raise RuntimeFailureError(f"image reference {reference[:200]!r} names no digest", hint="NAME@sha256:…")
        if not any(reference.startswith(prefix) for prefix in self._pullable):
            raise RuntimeFailureError(
                f"this provider does not pull {reference[:200]!r}", hint="its owner allows prefixes with vm.pull"
            )
        found = await engine.image(reference)
        if found is None:
            found = await engine.pull(reference, REPOSITORY, tag)
            await self.evict(engine)
        return found

    async def evict(self, engine: Engine) -> None:
        """Images of ours beyond the budget, the longest unused first; one that is a container's stays by itself.

        The engine does not tell when one was loaded, and its own time is what its maker wrote: those of before our
        start go first.
        """
        images = [
            (math.inf if name in self._wanted else self._used.get(name, 0.0), name, image)
            for image in await engine.images(REPOSITORY)
            for name in image["RepoTags"] or ()
            if name.startswith(f"{REPOSITORY}:")
        ]
        total_bytes = 0
        for _, name, image in sorted(images, key=lambda one: one[0], reverse=True):
            total_bytes += int(image["Size"])
            if total_bytes > limits.IMAGE_CACHE_BYTES and name not in self._wanted:
                log.info("image_evicted", name=name, bytes=image["Size"])
                await self._remove(engine, name)

    async def _remove(self, engine: Engine, name: str) -> None:
        pulled = name.partition(":pulled-")[2]
        facts = (await engine.image(name) or {}) if pulled else {}
        await engine.remove_image(name)
        self._used.pop(name, None)
        for reference in facts.get("RepoDigests") or ():
            if reference.endswith(f"@sha256:{pulled}"):  # the name that pulling gave it
                await engine.remove_image(reference)
