"""Bulk data, on both adapters."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import trio

from golemp2p.errors import ConflictError, NetworkError, NotFoundError, PolicyError, RemoteError, RemoteProtocolError
from golemp2p.net.data import DataService
from golemp2p.net.datawire import PROTOCOL, Wire, encode_header
from golemp2p.net.port import ByteStream, Network
from golemp2p.storage.content import ContentStore
from tests.integration.net.conftest import until

SIZE = 3_000_000


class World:
    """A provider of data and one who wants it, with a file of random bytes."""

    def __init__(self, nodes: list[Network], folder: Path) -> None:
        self.there, self.here = nodes[0], nodes[1]
        self.their_store, self.store = ContentStore(folder / "there"), ContentStore(folder / "here")
        self.their_data, self.data = DataService(self.there, self.their_store), DataService(self.here, self.store)
        self.their_data.serve()
        self.file = folder / "file"
        self.bytes = os.urandom(SIZE)
        self.file.write_bytes(self.bytes)


@pytest.fixture
def world(nodes: list[Network], tmp_path: Path) -> World:
    return World(nodes, tmp_path)


async def test_a_file_is_fetched_by_any_of_its_hashes(world: World, tmp_path: Path) -> None:
    await world.their_store.add_file(world.file, also=("sha3-512",))
    seen: list[tuple[int, int]] = []
    digest = hashlib.sha3_512(world.bytes).hexdigest()
    content = await world.data.fetch(
        world.there.peer_id,
        "sha3-512",
        digest.upper(),
        tmp_path / "out",
        max_bytes=SIZE,
        timeout_s=20,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert (tmp_path / "out").read_bytes() == world.bytes
    assert content.sha256 == hashlib.sha256(world.bytes).hexdigest()
    assert seen[-1] == (SIZE, SIZE)
    again = await world.data.fetch(world.there.peer_id, "sha3-512", digest, max_bytes=SIZE, timeout_s=20)
    assert again == content


async def test_a_file_is_pushed_into_a_slot_once(world: World, tmp_path: Path) -> None:
    world.their_store.open_slot("slot-1", SIZE, peer=world.here.peer_id)
    world.their_store.open_slot("slot-2", SIZE, peer=world.there.peer_id)
    world.their_store.open_slot("slot-3", SIZE - 1)
    digest = await world.data.push(world.there.peer_id, "slot-1", world.file, timeout_s=20)
    assert digest == hashlib.sha256(world.bytes).hexdigest()
    content = world.their_store.slot("slot-1").content
    assert content is not None
    assert content.path.read_bytes() == world.bytes
    assert await world.data.push(world.there.peer_id, "slot-1", world.file, timeout_s=20) == digest
    other = tmp_path / "other"
    other.write_bytes(b"other")
    with pytest.raises(ConflictError):
        await world.data.push(world.there.peer_id, "slot-1", other, timeout_s=20)
    with pytest.raises(NotFoundError):  # a slot for somebody else
        await world.data.push(world.there.peer_id, "slot-2", other, timeout_s=20)
    with pytest.raises(PolicyError):
        await world.data.push(world.there.peer_id, "slot-3", world.file, timeout_s=20)
    with pytest.raises(NotFoundError):
        await world.data.push(world.there.peer_id, "../../etc/passwd", other, timeout_s=20)
    empty = tmp_path / "empty"
    empty.touch()
    world.their_store.open_slot("slot-4", 1)
    assert await world.data.push(world.there.peer_id, "slot-4", empty, timeout_s=20) == hashlib.sha256().hexdigest()


async def test_unknown_and_too_large_files_are_refused(world: World) -> None:
    content = await world.their_store.add_file(world.file)
    with pytest.raises(NotFoundError):
        await world.data.fetch(world.there.peer_id, "sha256", "0" * 64, max_bytes=SIZE, timeout_s=20)
    with pytest.raises(PolicyError):
        await world.data.fetch(world.there.peer_id, "sha256", content.sha256, max_bytes=SIZE - 1, timeout_s=20)
    assert world.store.used_bytes() == 0


async def test_a_wrong_file_is_an_error_with_both_hashes_and_is_deleted(world: World) -> None:
    async def liar(stream: ByteStream) -> None:
        await stream.read(1000)
        await stream.write(encode_header(["ok", 5]) + b"wrong")
        await stream.close_write()
        await stream.read(1)

    world.there.set_stream_handler(PROTOCOL, liar)
    wanted, found = hashlib.sha256(b"right").hexdigest(), hashlib.sha256(b"wrong").hexdigest()
    with pytest.raises(RemoteProtocolError) as caught:
        await world.data.fetch(world.there.peer_id, "sha256", wanted, max_bytes=100, timeout_s=20)
    assert wanted in str(caught.value)
    assert found in str(caught.value)
    assert world.store.used_bytes() == 0


async def test_two_who_fetch_one_file_at_the_same_time_do_not_spoil_each_others(world: World) -> None:
    digest = hashlib.sha256(world.bytes).hexdigest()
    offsets: list[int] = []
    both_ask = trio.Event()

    async def slow(stream: ByteStream) -> None:
        wire = Wire(stream)
        offsets.append((await wire.header())[3])
        await wire.send(encode_header(["ok", SIZE]))
        await wire.send_bulk(world.bytes[offsets[-1] : SIZE // 2])
        await both_ask.wait()
        await wire.send_bulk(world.bytes[SIZE // 2 :])
        await stream.close_write()
        await stream.read(1)

    async def fetch() -> None:
        found = await world.data.fetch(world.there.peer_id, "sha256", digest, max_bytes=SIZE, timeout_s=20)
        assert found.path.read_bytes() == world.bytes

    world.there.set_stream_handler(PROTOCOL, slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch)
        await until("the first asks", lambda: bool(offsets))
        nursery.start_soon(fetch)
        await until("the second waits", lambda: sum(world.data._waiting.values()) == 2)
        both_ask.set()
    assert offsets == [0]
    assert not world.data._fetching


async def test_a_broken_transfer_goes_on_where_it_broke(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    content = await world.their_store.add_file(world.file)
    offsets: list[int] = []
    serve = world.their_data._give

    async def cut_once(wire: Wire, alg: str, digest: str, offset: int) -> None:
        offsets.append(offset)
        if len(offsets) == 1:
            await wire.send(encode_header(["ok", SIZE]) + world.bytes[: SIZE // 2])
            # A reset may overtake the bytes.
            await until("the bytes are there", lambda: world.store.used_bytes() > SIZE // 3)
            await wire.stream.reset()
        else:
            await serve(wire, alg, digest, offset)

    monkeypatch.setattr(world.their_data, "_give", cut_once)  # a fault in the middle
    fetched = await world.data.fetch(world.there.peer_id, "sha256", content.sha256, max_bytes=SIZE, timeout_s=20)
    assert fetched.path.read_bytes() == world.bytes
    assert offsets[0] == 0
    assert offsets[1] > SIZE // 4


async def test_a_push_that_was_cancelled_goes_on_later(world: World) -> None:
    world.their_store.open_slot("slot", SIZE)
    stream = await world.here.open_stream(world.there.peer_id, PROTOCOL)
    await stream.write(encode_header(["put", "slot", SIZE, hashlib.sha256(world.bytes).hexdigest()]))
    await stream.write(world.bytes[: SIZE // 2])
    await stream.aclose()
    await until("the half is there", lambda: world.their_store.slot("slot").received_bytes == SIZE // 2)
    done: list[int] = []
    await world.data.push(
        world.there.peer_id, "slot", world.file, timeout_s=20, on_progress=lambda d, _: done.append(d)
    )
    assert done[0] > SIZE // 2
    assert world.their_store.slot("slot").received_bytes == SIZE


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff", b"\0\0", b"\0\x01\xc1", encode_header(["steal", 1]), encode_header([])]
)
async def test_garbage_is_answered_or_cut_off(world: World, garbage: bytes) -> None:
    stream = await world.here.open_stream(world.there.peer_id, PROTOCOL)
    await stream.write(garbage)
    answer = b""
    try:
        while data := await stream.read(1000):
            answer += data
    except NetworkError:
        pass
    assert answer == b"" or b"remote_protocol" in answer
    content = await world.their_store.add_file(world.file)
    await world.data.fetch(world.there.peer_id, "sha256", content.sha256, max_bytes=SIZE, timeout_s=20)


async def test_a_peer_that_refuses_for_another_reason_is_a_remote_error(world: World) -> None:
    async def busy(stream: ByteStream) -> None:
        await stream.write(encode_header(["error", "busy", "come back later", ""]))
        await stream.read(1000)

    world.there.set_stream_handler(PROTOCOL, busy)
    with pytest.raises(RemoteError, match="come back later"):
        await world.data.fetch(world.there.peer_id, "sha256", "0" * 64, max_bytes=1, timeout_s=20)
