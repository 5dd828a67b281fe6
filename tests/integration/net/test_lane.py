"""The bulk lane: large files over TLS sockets beside libp2p, and what happens when that does not go well."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from golemp2p import limits
from golemp2p.errors import ConflictError, NetworkError, PolicyError, RemoteError, RemoteProtocolError
from golemp2p.net import lanebulk
from golemp2p.net.data import DataService
from golemp2p.net.datawire import PROTOCOL, Wire, encode_header
from golemp2p.net.directfile import DirectFile
from golemp2p.net.port import ByteStream
from golemp2p.storage.content import ContentStore
from tests.integration.net.lane_world import PATIENCE_S, SIZE, World, eventually, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as found:
        yield found


@pytest.mark.parametrize("adapter", ["memory", "libp2p"])
async def test_large_files_go_by_a_lane_both_ways(adapter: str, tmp_path: Path) -> None:
    async with open_world(tmp_path, adapter) as world:
        await world.there.store.add_file(world.file)
        assert (await world.fetch()).path.read_bytes() == world.bytes
        world.there.store.open_slot("slot", SIZE, peer=world.here.network.peer_id)
        assert await world.push() == world.sha256
        content = world.there.store.slot("slot").content
        assert content is not None
        assert content.path.read_bytes() == world.bytes
        assert (world.here.lanes.opened, world.there.lanes.opened) == (2, 2)
        await world.quiet()


async def test_what_came_by_its_sha256_is_found_by_its_sha3_a_little_later(world: World) -> None:
    await world.there.store.add_file(world.file)
    await world.fetch()
    sha3 = hashlib.sha3_256(world.bytes).hexdigest()
    await eventually(lambda: world.here.store.lookup("sha3-256", sha3) is not None)


async def test_a_file_comes_by_its_sha3_and_small_ones_without_a_lane(world: World, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"small")
    await world.there.store.add_file(small)
    await world.fetch(digest=hashlib.sha256(b"small").hexdigest())
    assert world.there.lanes.opened == 0
    await world.there.store.add_file(world.file)
    await world.fetch(alg="sha3-256", digest=hashlib.sha3_256(world.bytes).hexdigest())
    assert world.there.lanes.opened == 1


async def test_chunks_come_by_lanes_too(world: World) -> None:
    await world.there.store.add_file(world.file)
    assert (await world.fetch(shared=True)).path.read_bytes() == world.bytes
    assert world.here.lanes.opened >= 1


async def test_a_slot_takes_the_same_file_again_and_no_other(world: World, tmp_path: Path) -> None:
    world.there.store.open_slot("slot", SIZE)
    await world.push()
    assert await world.push() == world.sha256
    other = tmp_path / "other"
    other.write_bytes(world.bytes[::-1])
    with pytest.raises(ConflictError):
        await world.push(file=other)
    world.there.store.open_slot("narrow", SIZE - 1)
    with pytest.raises(PolicyError):
        await world.push("narrow")
    await world.quiet()


# --- what breaks ------------------------------------------------------------------------------------------------------
def cut_once(monkeypatch: pytest.MonkeyPatch, after_bytes: int) -> list[int]:
    """The first file that is sent by a lane breaks off; where sending began, each time."""
    began: list[int] = []
    send_file = lanebulk.send_file

    def send(connection: Any, path: Path, offset: int, end: int, *rest: Any) -> int:
        began.append(offset)
        if len(began) > 1:
            return send_file(connection, path, offset, end, *rest)
        send_file(connection, path, offset, after_bytes, *rest)
        connection._plain.shutdown(1)  # what was sent arrives
        raise ConnectionResetError("cut by the test")

    monkeypatch.setattr(lanebulk, "send_file", send)
    return began


async def test_a_fetch_that_was_cut_goes_on_where_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.there.store.add_file(world.file)
    began = cut_once(monkeypatch, SIZE // 2)
    assert (await world.fetch()).path.read_bytes() == world.bytes
    assert began == [0, SIZE // 2]
    await world.quiet()


async def test_a_push_that_was_cut_goes_on_and_is_hashed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.there.store.open_slot("slot", SIZE)
    began = cut_once(monkeypatch, SIZE // 2)
    assert await world.push() == world.sha256
    assert began[0] == 0
    assert began[1] > 0
    await world.quiet()


async def test_what_an_earlier_attempt_left_wrong_is_found_by_the_hash(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.there.store.open_slot("slot", SIZE)
    cut_once(monkeypatch, SIZE // 2)
    there = world.there.store.slot_partial("slot")
    hash_by = lanebulk.Receiver.hash_by

    def spoil_first(receiver: Any, algorithm: str) -> None:
        if receiver._offset:
            with there.open("r+b") as file:
                file.write(b"spoilt")
        hash_by(receiver, algorithm)

    monkeypatch.setattr(lanebulk.Receiver, "hash_by", spoil_first)
    with pytest.raises(RemoteError, match="has sha256"):
        await world.push()
    monkeypatch.setattr(lanebulk.Receiver, "hash_by", hash_by)
    assert await world.push() == world.sha256


async def test_a_wrong_file_is_deleted(world: World) -> None:
    content = await world.there.store.add_file(world.file)
    content.path.chmod(0o600)
    content.path.write_bytes(world.bytes[::-1])
    with pytest.raises(RemoteProtocolError):
        await world.fetch()
    assert world.here.store.used_bytes() == 0


async def test_a_peer_that_ends_before_the_size_it_said_costs_an_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.there.store.add_file(world.file)

    async def short(wire: Wire, alg: str, digest: str, offset: int) -> None:
        await wire.send(encode_header(["ok", SIZE]))
        await wire.send(bytes(1000))

    monkeypatch.setattr(world.there.data, "_give", short)
    with pytest.raises(NetworkError):
        await world.fetch()

    async def vast(wire: Wire, alg: str, digest: str, offset: int) -> None:
        await wire.send(encode_header(["ok", 2**62]))

    monkeypatch.setattr(world.there.data, "_give", vast)
    with pytest.raises(PolicyError):
        await world.fetch()

    async def garbage(wire: Wire, alg: str, digest: str, offset: int) -> None:
        await wire.send(b"\xff\xff" + bytes(3000))

    monkeypatch.setattr(world.there.data, "_give", garbage)
    with pytest.raises(RemoteProtocolError):
        await world.fetch()
    await world.quiet()


async def test_a_silent_peer_is_not_waited_for_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.there.store.add_file(world.file)

    async def silent(wire: Wire, alg: str, digest: str, offset: int) -> None:
        await wire.send(encode_header(["ok", SIZE]))
        await trio.sleep_forever()

    monkeypatch.setattr(world.there.data, "_give", silent)
    monkeypatch.setattr(limits, "DATA_STALL_TIMEOUT_S", 0.3)
    with pytest.raises(NetworkError, match="nothing moved"):
        await world.fetch()


async def test_a_cancelled_transfer_leaves_no_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.there.store.add_file(world.file)
    sending = trio.Event()

    async def half(wire: Wire, alg: str, digest: str, offset: int) -> None:
        await wire.send(encode_header(["ok", SIZE]))
        await wire.send(world.bytes[: SIZE // 2])
        sending.set()
        await wire.some(1)

    monkeypatch.setattr(world.there.data, "_give", half)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.fetch)
        await sending.wait()
        await eventually(lambda: world.here.store.used_bytes() > SIZE // 4)
        nursery.cancel_scope.cancel()
    await world.quiet()
    monkeypatch.undo()
    done: list[int] = []
    await world.here.data.fetch(
        world.there.network.peer_id,
        "sha256",
        world.sha256,
        max_bytes=SIZE,
        timeout_s=PATIENCE_S,
        on_progress=lambda so_far, _: done.append(so_far),
    )
    assert world.here.store.used_bytes() == SIZE


async def test_a_node_that_stops_ends_its_lanes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.there.store.add_file(world.file)
    asked = 0

    async def half(wire: Wire, alg: str, digest: str, offset: int) -> None:
        nonlocal asked
        asked += 1
        await wire.send(encode_header(["ok", SIZE]))
        if wire.lane is not None:
            world.there.listening.cancel()
        await trio.sleep_forever()

    monkeypatch.setattr(world.there.data, "_give", half)
    with trio.move_on_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.fetch)
            await eventually(lambda: asked > 1)  # it tries again, and not by that listener
            nursery.cancel_scope.cancel()
    await eventually(lambda: world.there.lanes.statistics()["threads"] == 0)
    assert asked > 1


async def test_a_full_disk_is_said_and_the_rest_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.there.store.add_file(world.file)

    def full(self: DirectFile, data: memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(DirectFile, "write", full)
        with pytest.raises(PolicyError, match="No space"):
            await world.fetch()
        await world.quiet()
    assert (await world.fetch()).path.read_bytes() == world.bytes


async def test_many_transfers_at_once_share_lanes_and_streams(world: World, tmp_path: Path) -> None:
    size, count = limits.LANE_MIN_BYTES, 32
    digests = []
    for index in range(count):
        file = tmp_path / f"file-{index}"
        file.write_bytes(index.to_bytes(4, "big") * (size // 4))
        digests.append((await world.there.store.add_file(file)).sha256)
    async with trio.open_nursery() as nursery:
        for digest in digests:
            nursery.start_soon(partial(world.fetch, digest=digest))
    for digest in digests:
        found = world.here.store.lookup("sha256", digest)
        assert found is not None
        assert found.size_bytes == size
    assert world.here.lanes.opened > 1
    await world.quiet()


# --- no lane ----------------------------------------------------------------------------------------------------------
async def test_who_cannot_be_dialled_dials(world: World) -> None:
    world.there.listening.cancel()
    await eventually(lambda: world.there.lanes._port is None)
    await world.there.store.add_file(world.file)
    assert (await world.fetch()).path.read_bytes() == world.bytes
    assert world.here.lanes.opened == 1


async def test_without_a_way_the_stream_carries_it_and_that_is_remembered(world: World) -> None:
    for side in (world.here, world.there):
        side.listening.cancel()
    await eventually(lambda: world.there.lanes._port is None and world.here.lanes._port is None)
    await world.there.store.add_file(world.file)
    assert (await world.fetch()).path.read_bytes() == world.bytes
    assert not world.here.lanes.worth_trying(world.there.network.peer_id)
    world.there.store.open_slot("slot", SIZE)
    assert await world.push() == world.sha256
    assert world.here.lanes.opened == 0


async def test_a_port_that_nobody_reaches_costs_a_moment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of no one, as behind a NAT."""
    monkeypatch.setattr(limits, "LANE_DIAL_S", 0.3)
    for side in (world.here, world.there):
        monkeypatch.setattr(side.lanes, "_hosts", lambda: ["192.0.2.1"])
    await world.there.store.add_file(world.file)
    assert (await world.fetch()).path.read_bytes() == world.bytes
    assert world.here.lanes.opened == 0


async def test_a_peer_without_lanes_gets_the_old_requests(world: World, tmp_path: Path) -> None:
    plain = DataService(world.there.network, ContentStore(tmp_path / "plain"))
    await plain._store.add_file(world.file)
    plain.serve()
    assert (await world.fetch()).path.read_bytes() == world.bytes

    async def old(stream: ByteStream) -> None:
        wire = Wire(stream)
        match await wire.header():
            case ["lane", *_]:
                await wire.send(
                    encode_header(["error", "remote_protocol", "a data request is neither get nor put", ""])
                )
            case ["get", *_]:
                await wire.send(encode_header(["ok", SIZE]) + world.bytes)
                await wire.some(1)

    world.there.network.set_stream_handler(PROTOCOL, old)
    world.here.store.remove(await world.fetch())
    assert (await world.fetch()).path.read_bytes() == world.bytes
    assert not world.here.lanes.worth_trying(world.there.network.peer_id)
