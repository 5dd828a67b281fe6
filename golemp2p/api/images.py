"""The image registry: what Golem's clients ask registry.golem.network, answered from this node's own images.

A client gets the sha3-224 and a URL and makes ``hash:sha3:<sha3>:<url>`` of them. Providers find the image by its hash:
in their own store, then at the requestor's node over ``/golemp2p/data/1``, and only then by that URL. So whoever asks
here makes the image known to the node's content store first. No app-key: the clients send none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import structlog
import trio
from fastapi import APIRouter, Query
from fastapi.responses import FileResponse
from starlette.responses import JSONResponse, PlainTextResponse, Response

from golemp2p import limits
from golemp2p.api.openapi import BYTES, TEXT, answers
from golemp2p.errors import DeadlineError, NotFoundError, UsageError
from golemp2p.images.store import ImageStore, full_name
from golemp2p.storage.content import Content, ContentStore, check_digest, hash_file
from golemp2p.wire.rest.files import ImageInfo

log = structlog.get_logger("golemp2p.api")
_SHA3_BY_DIGITS: Final = {56: "sha3-224", 64: "sha3-256"}
_HINT: Final = "golemp2p image build, golemp2p image ls; for other names: [registry] aliases in the settings"


class Registry:
    """Finds images by tag or hash. ``aliases``: what clients ask for -> name, hash or file of an image here."""

    def __init__(
        self,
        images: Path,
        content: ContentStore,
        aliases: Mapping[str, str],
        announce: Callable[[Content], None] | None = None,
    ) -> None:
        self._directory = images
        self._content = content
        self._aliases = {_plain(name): image for name, image in aliases.items()}
        self._announce = announce
        self._hashes: dict[tuple[Path, int, int], str] = {}  # file, its time and size -> sha3-224
        self._one_at_a_time = trio.Lock()

    async def find(self, *, tag: str | None, digest: str | None) -> tuple[Content, str]:
        """The image in the content store, and its sha3-224. Raises NotFoundError, UsageError, DeadlineError."""
        if (tag is None) == (digest is None):
            raise UsageError("one of tag and hash is needed", hint="?tag=NAME:TAG or ?hash=SHA3-224")
        asked = _plain(tag or digest or "")
        with trio.move_on_after(limits.REGISTRY_TIMEOUT_S):
            async with self._one_at_a_time:
                if digest is not None and asked not in self._aliases:
                    return await self._by_hash(asked)
                return await self._stored(await self._by_name(asked))
        raise DeadlineError("the images of this node are still being read", hint="ask again")

    def content_of(self, digest: str) -> Content:
        """A file by its sha3-224 or sha3-256, for who knows the hash. Raises NotFoundError."""
        found = None
        if (alg := _SHA3_BY_DIGITS.get(len(digest))) is not None:
            try:
                found = self._content.lookup(alg, digest)
            except UsageError:
                found = None  # no hex
        if found is None:
            raise NotFoundError(f"there is no image {digest[:80]!r}", hint="by sha3-224 or sha3-256")
        return found

    async def _by_hash(self, digest: str) -> tuple[Content, str]:
        """Pushed images first, then those of the image store, each of which is read once for its sha3-224."""
        alg = _SHA3_BY_DIGITS.get(len(digest))
        if alg is None:
            raise UsageError(f"{digest[:80]!r} is no sha3 hash", hint="56 hex digits (sha3-224)")
        digest = check_digest(alg, digest)
        if (found := self._content.lookup(alg, digest)) is not None:
            return found, await self._sha3_224(found.path)
        store = await trio.to_thread.run_sync(ImageStore, self._directory)
        for image in await trio.to_thread.run_sync(store.list):
            path = store.path_of(image)
            if digest in (image.sha3_256, await self._sha3_224(path)):
                return await self._stored(path)
        raise NotFoundError(f"no image with hash {digest} is on this node", hint=_HINT)

    async def _by_name(self, asked: str) -> Path:
        """An alias may mean a file; a name that came over REST never does."""
        image = self._aliases.get(asked)

        def resolve() -> Path:
            store = ImageStore(self._directory)
            if image is not None:
                return store.resolve(image)
            name = full_name(asked)
            for known in store.list():
                if name in known.names:
                    return store.path_of(known)
            raise NotFoundError("no image has this name")

        try:
            return await trio.to_thread.run_sync(resolve)
        except (NotFoundError, UsageError) as exc:
            if image is not None and len(_plain(image)) in _SHA3_BY_DIGITS:
                return (await self._by_hash(_plain(image)))[0].path
            raise NotFoundError(f"no image {(image or asked)[:200]!r} is on this node", hint=_HINT) from exc

    async def _stored(self, path: Path) -> tuple[Content, str]:
        sha3_224 = await self._sha3_224(path)
        content = self._content.lookup("sha3-224", sha3_224)
        if content is None:
            content = await self._content.add_file(path, also=("sha3-224",))
            log.info("image_published", sha3_224=sha3_224, bytes=content.size_bytes)
            if self._announce is not None:
                self._announce(content)
        return content, sha3_224

    async def _sha3_224(self, path: Path) -> str:
        """Computed once for a file as it is now; "" for one that is gone."""
        try:
            facts = await trio.Path(path).stat()
        except OSError:
            return ""
        key = path, facts.st_mtime_ns, facts.st_size
        if (known := self._hashes.get(key)) is None:
            hashes = await trio.to_thread.run_sync(partial(hash_file, path, ("sha3-224",)))
            known = hashes["sha3-224"]
            if len(self._hashes) >= limits.MAX_REGISTRY_HASHES:
                del self._hashes[next(iter(self._hashes))]
            self._hashes[key] = known
        return known


def _plain(name: str) -> str:
    """As names are compared: a hash in lower case and without 0x; a tag as it is."""
    bare = name.removeprefix("0x").removeprefix("0X")
    return bare.lower() if len(bare) in _SHA3_BY_DIGITS and ":" not in bare else name


def make_router(registry: Registry, base_url: str) -> APIRouter:
    """``base_url``: of this node's REST API."""
    router = APIRouter(tags=["images"])

    def url_of(sha3_224: str) -> str:
        return f"{base_url}/v1/image/content/{sha3_224}"

    @router.get("/v1/image/info", response_model=ImageInfo, responses=answers(404, 408))
    async def image_info(
        tag: Annotated[str | None, Query(max_length=limits.MAX_IMAGE_NAME_CHARS)] = None,
        digest: Annotated[str | None, Query(alias="hash", max_length=limits.MAX_IMAGE_NAME_CHARS)] = None,
    ) -> Response:
        """Hash, size and URL of an image by tag or hash, as Golem's registry tells them."""
        content, sha3_224 = await registry.find(tag=tag, digest=digest)
        url = url_of(sha3_224)
        return JSONResponse(ImageInfo(http=url, https=url, sha3=sha3_224, size=content.size_bytes).to_json())

    async def image_content(digest: str) -> FileResponse:
        found = registry.content_of(digest)
        return FileResponse(found.path, media_type="application/octet-stream", headers={"ETag": f'"{found.sha256}"'})

    ranges = answers(404, ok={200: {"content": BYTES}, 206: {"content": BYTES}}) | {
        416: {"description": "No such range"}
    }
    for method in ("GET", "HEAD"):
        router.add_api_route(
            "/v1/image/content/{digest}",
            image_content,
            methods=[method],
            name=f"image_content_{method.lower()}",
            response_class=Response,
            responses=ranges,
            description="The image's bytes, by sha3-224 or sha3-256.",
        )

    @router.get("/image.{digest}.link", response_class=Response, responses=answers(404, 408, ok={200: TEXT}))
    async def image_link(digest: str) -> Response:
        """The image's URL as text, as golem-core asks. golem-core keeps the hash that it asked by: where that is an
        alias, only providers with ``package_substitutes`` can run it."""
        try:
            _, sha3_224 = await registry.find(tag=None, digest=digest)
        except UsageError as exc:
            raise NotFoundError(str(exc)) from exc
        return PlainTextResponse(url_of(sha3_224))

    return router
