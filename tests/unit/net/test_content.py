"""The content store on a real folder."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from golemp2p import limits
from golemp2p.errors import ConflictError, GoneError, NotFoundError, PolicyError, UsageError
from golemp2p.storage.content import ALGORITHMS, ContentStore


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_file_is_found_by_every_hash_asked_for_also_after_a_restart(tmp_path: Path) -> None:
    source = tmp_path / "f"
    source.write_bytes(b"hello")
    content = await ContentStore(tmp_path / "s").add_file(source, also=("sha3-512",))
    store = ContentStore(tmp_path / "s")
    for alg in ("sha256", "sha3-256", "sha3-512"):
        digest = hashlib.new(ALGORITHMS[alg], b"hello").hexdigest()
        assert store.lookup(alg, digest.upper()) == content
    assert store.lookup("sha3-224", hashlib.sha3_224(b"hello").hexdigest()) is None
    digest = await store.digest(content, "sha3-224")
    assert store.lookup("sha3-224", digest) == content
    assert content.path.read_bytes() == b"hello"
    assert source.exists()
    store.remove(content)
    assert store.lookup("sha256", content.sha256) is None


async def test_the_same_bytes_are_one_file(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    one, two = await store.add_stream(chunks(b"he", b"llo")), await store.add_stream(chunks(b"hello"))
    assert one == two
    assert store.used_bytes() == 5


async def test_limits_hold_and_leave_nothing_behind(tmp_path: Path) -> None:
    store = ContentStore(tmp_path, quota_bytes=10)
    with pytest.raises(PolicyError):
        await store.add_stream(chunks(b"123456"), max_bytes=5)
    with pytest.raises(PolicyError):
        await store.add_stream(chunks(b"12345678", b"90123"))
    big = tmp_path / "big"
    big.write_bytes(b"x" * 11)
    with pytest.raises(PolicyError):
        await store.add_file(big)
    assert store.used_bytes() == 0


async def test_nonsense_is_refused_by_name(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    for alg, digest in (("md5", "00"), ("sha256", "../../etc/passwd"), ("sha256", "00"), ("sha3-256", "g" * 64)):
        with pytest.raises(UsageError):
            store.lookup(alg, digest)
    with pytest.raises(NotFoundError):
        await store.add_file(tmp_path / "nothing")
    for slot in ("../x", "", "a/b", "x" * 129):
        with pytest.raises(UsageError):
            store.open_slot(slot, 10)
        with pytest.raises(NotFoundError):
            store.slot(slot)
    with pytest.raises(UsageError):
        store.open_slot("s", 0)


async def test_a_slot_keeps_what_came_over_a_restart_and_is_filled_once(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    store.open_slot("s", 100, peer="somebody")
    assert store.open_slot("s", 100, peer="somebody").received_bytes == 0
    with pytest.raises(ConflictError):
        store.open_slot("s", 99, peer="somebody")
    store.slot_partial("s").write_bytes(b"hel")
    store = ContentStore(tmp_path)
    assert store.slot("s").received_bytes == 3
    with store.slot_partial("s").open("ab") as file:
        file.write(b"lo")
    content = await store.finish("s")
    assert await store.finish("s") == content
    assert ContentStore(tmp_path).slot("s").content == content
    store.remove(content)
    with pytest.raises(GoneError):
        store.slot("s")
    store.close_slot("s")
    with pytest.raises(NotFoundError):
        store.slot("s")


def test_what_a_killed_process_left_half_written_is_swept(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    store.partial("tmp-1234").write_bytes(b"half")
    store.partial("get-sha256-x").write_bytes(b"resumable")
    ContentStore(tmp_path)
    assert not store.partial("tmp-1234").exists()
    assert store.partial("get-sha256-x").exists()


async def test_a_full_store_makes_room_by_dropping_what_was_not_used_for_long(tmp_path: Path) -> None:
    store = ContentStore(tmp_path, quota_bytes=10)
    old = await store.add_stream(_stream(b"12345"))
    kept = await store.add_stream(_stream(b"abcd"))
    hours_ago = time.time() - limits.CONTENT_KEEP_S - 1
    for content in (old, kept):
        os.utime(content.path, (hours_ago, hours_ago))
    assert store.lookup("sha256", kept.sha256) is not None  # used again
    new = await store.add_file(_file(tmp_path / "new", b"67890"))
    assert [store.lookup("sha256", c.sha256) is not None for c in (old, kept, new)] == [False, True, True]


async def test_who_waits_for_a_slot_is_woken_when_it_is_finished_or_closed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    store = ContentStore(tmp_path)
    store.open_slot("one", 100)
    store.open_slot("two", 100)
    found: list[object] = []

    async def wait(slot: str) -> None:
        try:
            found.append((await store.wait_finished(slot)).size_bytes)
        except NotFoundError as exc:
            found.append(type(exc))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "one")
        nursery.start_soon(wait, "two")
        await wait_all_tasks_blocked()
        store.slot_partial("one").write_bytes(b"xyz")
        await store.finish("one")
        store.close_slot("two")
    assert sorted(map(str, found)) == sorted(["3", str(NotFoundError)])


def test_old_slots_are_forgotten_at_the_start(tmp_path: Path) -> None:
    ContentStore(tmp_path).open_slot("old", 100)
    long_ago = time.time() - limits.SLOT_KEEP_S - 1
    os.utime(tmp_path / "slots" / "old.json", (long_ago, long_ago))
    with pytest.raises(NotFoundError):
        ContentStore(tmp_path).slot("old")


async def _stream(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_file_that_goes_while_space_is_counted_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads move finished files and remove old ones."""
    store = ContentStore(tmp_path)
    for name in "abc":
        store.partial(name).write_bytes(b"1234")
    listed = os.scandir

    @contextmanager
    def then_gone(folder: Path) -> Iterator[list[os.DirEntry[str]]]:
        with listed(folder) as entries:
            found = list(entries)
        store.partial("b").unlink(missing_ok=True)
        yield found

    monkeypatch.setattr(os, "scandir", then_gone)
    assert store.used_bytes() == 8
