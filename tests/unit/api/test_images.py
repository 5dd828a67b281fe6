"""The image registry, as yapapi, golem-js and golem-core ask it: without an app-key, by tag or hash."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from golemp2p.api import images
from golemp2p.api.app import make_app
from golemp2p.api.auth import AppKeys
from golemp2p.core.ids import Address
from golemp2p.images.store import ImageStore
from golemp2p.storage.content import Content, ContentStore
from tests.unit.images.making import docker_archive, tar

BASE = "http://127.0.0.1:7465"
IMAGE = docker_archive([tar([("f", b"1")])])
SHA3_224 = hashlib.sha3_224(IMAGE).hexdigest()
SHA3_256 = hashlib.sha3_256(IMAGE).hexdigest()
PUBLIC = "d646d7b93083d817846c2ae5c62c72ca0507782385a2e29291a3d376"  # what yapapi's hello.py asks for


class Place:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.content = ContentStore(root / "content")
        self.announced: list[Content] = []

    def add(self, data: bytes = IMAGE, name: str | None = "golem/alpine:latest") -> None:
        store = ImageStore(self.root / "images")
        part = store.new_file()
        part.write_bytes(data)
        store.add(part, name)

    @asynccontextmanager
    async def asked(self, aliases: Mapping[str, str] | None = None) -> AsyncIterator[httpx.AsyncClient]:
        registry = images.Registry(self.root / "images", self.content, aliases or {}, self.announced.append)
        app = make_app([images.make_router(registry, BASE)], keys=AppKeys(), address=Address("0x" + "1" * 40))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE) as http:
            yield http


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    "query",
    [
        f"hash={SHA3_224}",
        f"hash=0x{SHA3_224.upper()}",
        f"hash={SHA3_256}",
        "tag=golem/alpine:latest",
        "tag=golem/alpine",
    ],
    ids=["hash", "0x hash", "sha3-256", "tag", "without :latest"],
)
async def test_an_image_is_told_by_hash_or_tag_with_a_url_that_has_it(place: Place, query: str) -> None:
    place.add()
    async with place.asked() as http:
        told = (await http.get(f"/v1/image/info?{query}&count=true")).json()
        assert told["sha3"] == SHA3_224
        assert told["size"] == len(IMAGE)
        assert told["http"] == told["https"]
        assert (await http.get(told["http"])).content == IMAGE
        head = await http.head(told["http"])
        assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(IMAGE)), b"")
        part = await http.get(told["http"], headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, IMAGE[10:20])
        assert (await http.get(f"/image.{SHA3_224}.link")).text == told["http"]


async def test_what_was_asked_for_can_be_had_by_providers_and_is_announced_once(place: Place) -> None:
    place.add()
    async with place.asked() as http:
        for _ in range(2):
            assert (await http.get(f"/v1/image/info?hash={SHA3_224}")).status_code == 200
    published = place.content.lookup("sha3-224", SHA3_224)
    assert published is not None
    assert place.announced == [published]


async def test_a_pushed_image_is_found_by_its_hash(place: Place) -> None:
    source = place.root / "pushed"
    source.write_bytes(IMAGE)
    await place.content.add_file(source, also=("sha3-224",))
    async with place.asked() as http:
        assert (await http.get(f"/v1/image/info?hash={SHA3_224}")).json()["sha3"] == SHA3_224


@pytest.mark.parametrize(
    "image", ["golem/alpine", f"sha3:{SHA3_256}", SHA3_224, "FILE"], ids=["name", "sha3", "hash", "file"]
)
@pytest.mark.parametrize("asked", [f"hash={PUBLIC}", "tag=golem/node:20"], ids=["by hash", "by tag"])
async def test_an_alias_is_answered_with_the_true_hash_of_what_is_here(place: Place, image: str, asked: str) -> None:
    place.add()
    (place.root / "some.gvmi").write_bytes(IMAGE)
    image = image.replace("FILE", str(place.root / "some.gvmi"))
    async with place.asked({PUBLIC: image, "golem/node:20": image}) as http:
        told = (await http.get(f"/v1/image/info?{asked}")).json()
        assert told["sha3"] == SHA3_224
        # golem-core keeps the hash that it asked by: see package_substitutes.
        link = await http.get(f"/image.{PUBLIC}.link")
    assert (link.status_code, link.text) == (200, told["http"])


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (f"hash={PUBLIC}", 404),
        ("tag=unknown/thing:1", 404),
        ("tag=/etc/hostname", 404),
        ("tag=..%2F..%2Fetc", 404),
        ("hash=abc", 400),
        ("hash=" + "z" * 56, 400),
        ("", 400),
        (f"tag=a&hash={PUBLIC}", 400),
        ("tag=" + "a" * 300, 400),
    ],
    ids=["hash", "tag", "path", "climbing", "short", "no hex", "nothing", "both", "long"],
)
async def test_what_is_not_here_is_said_so_and_a_name_is_never_a_path(place: Place, query: str, status: int) -> None:
    place.add()
    async with place.asked({"x": "unknown"}) as http:
        refused = await http.get(f"/v1/image/info?{query}")
    assert refused.status_code == status
    assert refused.json()["message"]


@pytest.mark.parametrize("digest", [PUBLIC, "0" * 64, "abc", "..%2F..%2Fetc%2Fpasswd", "é" * 56])
async def test_content_is_had_by_hash_alone(place: Place, digest: str) -> None:
    async with place.asked() as http:
        assert (await http.get(f"/v1/image/content/{digest}")).status_code == 404


async def test_a_changed_file_of_an_alias_is_hashed_anew(place: Place) -> None:
    file = place.root / "some.gvmi"
    async with place.asked({"t": str(file)}) as http:
        for content in (b"first", b"second!"):
            file.write_bytes(content)
            told = (await http.get("/v1/image/info?tag=t")).json()
            assert told["sha3"] == hashlib.sha3_224(content).hexdigest()
