"""One file to several at once, on both adapters: shares, liars, the slow, the dead, and starting again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from golemp2p import limits
from golemp2p.errors import NetworkError, NotFoundError, PolicyError, RemoteProtocolError
from golemp2p.net.chunks import CHUNK_BYTES, Bitmap, chunk_count
from golemp2p.net.data import DataService
from golemp2p.net.datawire import PROTOCOL, Wire, encode_header
from golemp2p.net.port import ByteStream, Network
from golemp2p.storage.content import Content, ContentStore
from tests.integration.net.conftest import until

SIZE = 16 * CHUNK_BYTES + 12_345
CHUNKS = chunk_count(SIZE)


class Party:
    """A node with a store; ``given`` counts what it gave."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.store = network, ContentStore(folder)
        self.data = DataService(network, self.store)
        self.data.serve()

    @property
    def given(self) -> int:
        return self.data.sharing.given_bytes

    async def fetch(self, owner: Party, digest: str, **more: Any) -> Content:
        return await self.data.fetch(
            owner.network.peer_id, "sha3-256", digest, max_bytes=SIZE, timeout_s=60, shared=True, **more
        )


class World:
    def __init__(self, nodes: list[Network], folder: Path) -> None:
        self.owner, self.one, self.two = (Party(node, folder / str(i)) for i, node in enumerate(nodes))
        self.bytes = os.urandom(SIZE)
        self.digest = hashlib.sha3_256(self.bytes).hexdigest()
        self.file = folder / "file"
        self.file.write_bytes(self.bytes)


@pytest.fixture
async def world(nodes: list[Network], tmp_path: Path) -> World:
    """All three know each other; the owner has the file."""
    await nodes[1].connect(nodes[2].addresses()[0])
    made = World(nodes, tmp_path)
    await made.owner.store.add_file(made.file)
    return made


def answering(answer: Callable[[Wire, list[Any]], Awaitable[None]]) -> Callable[[ByteStream], Awaitable[None]]:
    """A stream handler of a peer that is not as it should be: ``answer`` is called for every question."""

    async def handle(stream: ByteStream) -> None:
        wire = Wire(stream)
        while (header := await wire.next_header()) is not None:
            await answer(wire, header)

    return handle


FULL = Bitmap(bytearray(b"\1" * CHUNKS)).pack()


async def test_two_that_begin_together_cost_the_owner_little_more_than_one(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.one.fetch, world.owner, world.digest)
        nursery.start_soon(world.two.fetch, world.owner, world.digest)
    for party in (world.one, world.two):
        content = party.store.lookup("sha3-256", world.digest)
        assert content is not None
        assert content.path.read_bytes() == world.bytes
    assert world.owner.given <= 1.5 * SIZE
    assert world.one.given + world.two.given >= 0.5 * SIZE


async def test_a_late_one_takes_from_those_who_have_it(world: World) -> None:
    seen: list[tuple[int, int]] = []
    await world.one.fetch(world.owner, world.digest, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, SIZE)
    assert seen[-1] == (SIZE, SIZE)
    assert sorted(seen) == seen
    before = world.owner.given
    await world.two.fetch(world.owner, world.digest)
    assert world.one.given >= 0.5 * SIZE
    assert world.owner.given - before <= 0.5 * SIZE


async def test_a_peer_that_lies_loses_its_place_and_spoils_nothing(world: World) -> None:
    lies: list[int] = []

    async def lie(wire: Wire, header: list[Any]) -> None:
        if header[0] == "have":
            await wire.send(encode_header(["ok", SIZE, FULL]))
        else:
            lies.append(header[3])
            lied.set()
            await wire.send(encode_header(["ok", SIZE]) + bytes(header[4]))

    give = world.owner.data.sharing._give_range
    lied = trio.Event()

    async def give_later(wire: Wire, *question: Any) -> None:
        await lied.wait()
        await give(wire, *question)

    world.owner.data.sharing._give_range = give_later  # type: ignore[method-assign, assignment] # the liar is faster
    world.two.network.set_stream_handler(PROTOCOL, answering(lie))
    await world.two.data.sharing._ask_peers(world.owner.network.peer_id, "sha3-256", world.digest)
    content = await world.one.fetch(world.owner, world.digest)
    assert content.path.read_bytes() == world.bytes
    assert len(lies) == 1


@pytest.mark.parametrize("fault", ["hangs", "resets", "talks nonsense", "claims another size", "short map"])
async def test_a_peer_that_fails_is_done_without(world: World, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SHARE_CHUNK_TIMEOUT_S", 0.5)
    monkeypatch.setattr(limits, "SHARE_REPEAT_S", 0.5)
    asked = trio.Event()

    async def fail(wire: Wire, header: list[Any]) -> None:
        if header[0] == "have" and fault in ("hangs", "resets"):
            await wire.send(encode_header(["ok", SIZE, FULL]))
            return
        asked.set()
        match fault:
            case "hangs":
                await trio.sleep_forever()
            case "resets":
                await wire.stream.reset()
            case "talks nonsense":
                await wire.send(b"\0\1\xc1")
            case "claims another size":
                await wire.send(encode_header(["ok", SIZE + 1, FULL]))
            case _:
                await wire.send(encode_header(["ok", SIZE, b"\1"]))

    world.two.network.set_stream_handler(PROTOCOL, answering(fail))
    await world.two.data.sharing._ask_peers(world.owner.network.peer_id, "sha3-256", world.digest)
    content = await world.one.fetch(world.owner, world.digest)
    assert content.path.read_bytes() == world.bytes
    assert asked.is_set()


async def test_a_fetch_goes_on_after_a_restart_and_checks_what_it_finds(world: World, tmp_path: Path) -> None:
    scope = trio.CancelScope()

    def watch(done: int, _total: int) -> None:
        if done >= SIZE // 2:
            scope.cancel()  # here and not from another task: by the time that one runs, all may have arrived

    with scope:
        await world.one.fetch(world.owner, world.digest, on_progress=watch)
    assert scope.cancelled_caught
    partial = next(p for p in (tmp_path / "1/partial").glob("share-*") if p.suffix != ".have")
    marked = partial.with_name(f"{partial.name}.have").read_bytes()
    assert sum(marked) >= CHUNKS // 2
    spoilt = marked.index(1)
    with partial.open("r+b") as file:  # a write that a crash tore
        file.seek(spoilt * CHUNK_BYTES + 5)
        file.write(b"torn")
    before = world.owner.given
    again = Party(world.one.network, tmp_path / "1")
    content = await again.fetch(world.owner, world.digest)
    assert content.path.read_bytes() == world.bytes
    under_way = 2  # chunks that were on their way when the first fetch ended
    assert world.owner.given - before <= SIZE - (sum(marked) - 1 - under_way) * CHUNK_BYTES
    assert list((tmp_path / "1/partial").glob("share-*")) == []


async def test_the_owner_may_leave_when_another_has_it_all(world: World) -> None:
    await world.one.fetch(world.owner, world.digest)
    give = world.owner.data.sharing.serve

    async def no_chunks(wire: Wire, header: list[Any] | None) -> None:
        if header is not None and header[0] == "get":
            await wire.stream.reset()
        else:
            await give(wire, header)

    world.owner.data.sharing.serve = no_chunks  # type: ignore[method-assign] # it is gone for chunks
    content = await world.two.fetch(world.owner, world.digest)
    assert content.path.read_bytes() == world.bytes


async def test_an_owner_that_names_wrong_chunks_fails_its_own_fetch_alone(world: World, tmp_path: Path) -> None:
    other = os.urandom(SIZE)
    hashes = b"".join(hashlib.sha256(other[i : i + CHUNK_BYTES]).digest() for i in range(0, SIZE, CHUNK_BYTES))

    async def swindle(wire: Wire, header: list[Any]) -> None:
        match header[0]:
            case "chunks":
                await wire.send(encode_header(["ok", SIZE]) + hashes)
            case "peers":
                await wire.send(encode_header(["ok", []]))
            case _:
                await wire.send(encode_header(["ok", SIZE]) + other[header[3] : header[3] + header[4]])

    world.two.network.set_stream_handler(PROTOCOL, answering(swindle))
    with pytest.raises(RemoteProtocolError, match=world.digest):
        await world.one.fetch(world.two, world.digest)
    assert world.one.store.used_bytes() < 1_000
    content = await world.one.fetch(world.owner, world.digest)
    assert content.path.read_bytes() == world.bytes


async def test_an_owner_of_the_older_kind_gives_the_whole_file(world: World) -> None:
    async def older(wire: Wire, header: list[Any]) -> None:
        if header[0] != "get" or len(header) != 4:
            await wire.send(encode_header(["error", "remote_protocol", "a data request is neither get nor put", ""]))
        else:
            await wire.send(encode_header(["ok", SIZE]) + world.bytes[header[3] :])
        await wire.stream.close_write()

    world.owner.network.set_stream_handler(PROTOCOL, answering(older))
    content = await world.one.fetch(world.owner, world.digest)
    assert content.path.read_bytes() == world.bytes


async def test_small_files_and_unknown_ones(world: World, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"small")
    digest = (await world.owner.store.add_file(small)).sha3_256
    assert (await world.one.fetch(world.owner, digest)).path.read_bytes() == b"small"
    with pytest.raises(NotFoundError):
        await world.one.fetch(world.owner, "0" * 64)
    with pytest.raises(PolicyError):
        await world.one.data.fetch(
            world.owner.network.peer_id, "sha3-256", world.digest, max_bytes=SIZE - 1, timeout_s=20, shared=True
        )
    assert world.one.store.used_bytes() < 1_000


async def test_when_nobody_has_it_the_error_is_the_owners(world: World) -> None:
    async def only_names(wire: Wire, header: list[Any]) -> None:
        if header[0] == "chunks":
            await wire.send(encode_header(["ok", SIZE]) + bytes(32 * CHUNKS))
        else:
            await wire.stream.reset()

    world.two.network.set_stream_handler(PROTOCOL, answering(only_names))
    with pytest.raises(NetworkError):
        await world.one.fetch(world.two, world.digest)


async def test_questions_about_chunks_have_bounds(world: World) -> None:
    for question in (
        ["get", "sha3-256", world.digest, SIZE - 5, 10],
        ["get", "sha3-256", world.digest, 0, 0],
        ["get", "sha3-256", world.digest, -1, 10],
        ["get", "sha3-256", "0" * 64, 0, 10],
        ["get", "md5", world.digest, 0, 10],
        ["have", "sha3-256", "0" * 64],
        ["peers", "sha3-256", "0" * 64],
        ["chunks", "sha3-256", 7],
        ["have"],
    ):
        stream = await world.one.network.open_stream(world.owner.network.peer_id, PROTOCOL)
        wire = Wire(stream)
        await wire.send(encode_header(question))
        assert (await wire.header())[0] == "error", question
        await stream.aclose()


async def test_what_is_held_is_announced_and_found_by_the_dht_also_after_a_restart(
    world: World, adapter: str, tmp_path: Path
) -> None:
    if adapter == "libp2p":
        await until("the DHT knows its neighbours", lambda: len(world.one.network.peers()) == 2)
    key = f"sha3-256:{world.digest}"
    content = world.owner.store.lookup("sha3-256", world.digest)
    assert content is not None
    for number in range(2):
        owner = world.owner if number == 0 else Party(world.owner.network, tmp_path / "0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.data.sharing.run)
            if number == 0:
                owner.data.sharing.announce_content(content)
            await until("it is announced", lambda sharing=owner.data.sharing: sharing.made_announcements == 1)
            nursery.cancel_scope.cancel()
    assert world.owner.network.peer_id in await world.one.network.find_providers(key)


async def test_a_holder_that_only_the_dht_knows_is_found_and_used(
    world: World, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if adapter == "libp2p":
        await until("the DHT knows its neighbours", lambda: len(world.two.network.peers()) == 2)
    await world.one.fetch(world.owner, world.digest)
    await world.one.network.provide(f"sha3-256:{world.digest}")
    sharing = world.owner.data.sharing
    give = sharing._give_range

    async def give_later(wire: Wire, alg: str, digest: str, offset: int, length: int) -> None:
        await until("the holder gave something", lambda: world.one.given)
        await give(wire, alg, digest, offset, length)

    monkeypatch.setattr(sharing, "_note_fetcher", lambda _key, _peer: [])  # the owner names nobody
    monkeypatch.setattr(sharing, "_give_range", give_later)
    content = await world.two.fetch(world.owner, world.digest)
    assert content.path.read_bytes() == world.bytes
    assert world.one.given > 0
