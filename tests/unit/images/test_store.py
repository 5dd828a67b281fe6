"""The user's images by name."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.errors import NotFoundError, UsageError
from golemp2p.images.model import ImageError
from golemp2p.images.store import ImageStore, StoredImage, full_name
from tests.unit.images.making import docker_archive, tar


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def add(store: ImageStore, content: bytes, name: str | None = None) -> StoredImage:
    part = store.new_file()
    part.write_bytes(docker_archive([tar([("f", content)])]))
    return store.add(part, name)


def test_an_image_is_found_by_name_hash_link_and_path(store: ImageStore, tmp_path: Path) -> None:
    image = add(store, b"1", "tool")
    path = store.path_of(image)
    assert hashlib.sha3_256(path.read_bytes()).hexdigest() == image.sha3_256
    references = ("tool", "tool:latest", image.sha3_256, image.sha3_256[:8].upper(), str(path))
    links = (f"sha3:{image.sha3_256}", f"hash:sha3:{image.sha3_256}:gftp://0x{'1' * 40}/{image.sha3_256}")
    for reference in (*references, *links):
        assert store.resolve(reference) == path
    assert store.find("tool:1") is None
    for reference in (image.sha3_256[:7], "other", str(tmp_path / "nothing"), "../tool"):
        with pytest.raises(NotFoundError):
            store.resolve(reference)
    assert ImageStore(tmp_path / "images").list() == [image]


def test_a_name_goes_to_the_newer_image_and_the_older_keeps_its_others(store: ImageStore) -> None:
    old, _ = add(store, b"1", "tool"), add(store, b"1", "tool:1")
    new = add(store, b"2", "tool")
    assert [image.names for image in store.list()] == [("tool:latest",), ("tool:1",)]
    assert store.find("tool") == new
    assert store.remove("tool").names == ()
    assert not store.path_of(new).exists()
    assert store.find("tool") is None
    assert store.find(old.sha3_256) is not None


def test_a_name_may_go_alone_and_a_hash_takes_all(store: ImageStore) -> None:
    image = add(store, b"1", "a")
    add(store, b"1", "b")
    assert store.remove("a").names == ("b:latest",)
    assert store.path_of(image).exists()
    add(store, b"1", "c")
    assert store.remove(image.sha3_256[:12]).names == ()
    assert store.list() == []
    assert not store.path_of(image).exists()
    with pytest.raises(NotFoundError):
        store.remove("b")


def test_what_is_no_image_does_not_enter(store: ImageStore) -> None:
    part = store.new_file()
    part.write_bytes(b"nothing")
    with pytest.raises(ImageError):
        store.add(part, "x")
    assert store.list() == []


@pytest.mark.parametrize("name", ["", "A", "-x", "x-", "a//b", "a:", ":1", "a:b:c", "../x", "a b", "x" * 201, "ü"])
def test_names_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        full_name(name)


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert ":" in full_name(text)


def test_a_damaged_index_and_a_lost_file_are_said(store: ImageStore, tmp_path: Path) -> None:
    image = add(store, b"1", "tool")
    store.path_of(image).unlink()
    with pytest.raises(NotFoundError, match="gone"):
        store.resolve("tool")
    (tmp_path / "images/index.json").write_text('{"images": {"x": 1}}')
    with pytest.raises(ImageError, match="delete it"):
        store.list()
