"""Files of programs over the network, on both adapters: read by name and by hash, written, and all that may break."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from golemp2p import limits
from golemp2p.errors import NetworkError, NotFoundError, PolicyError, RemoteError, RemoteProtocolError
from golemp2p.gsb.files import ServedFiles
from golemp2p.net.data import DataService
from golemp2p.net.datawire import PROTOCOL, Wire, encode_header
from golemp2p.net.port import ByteStream, Network
from golemp2p.storage.content import ContentStore
from tests.integration.net.conftest import until
from tests.unit.gsb.program import Appender, World, file_of

SIZE = 5 * limits.GSB_CHUNK_BYTES + 12_345
BYTES = os.urandom(SIZE)
DIGEST = hashlib.sha3_256(BYTES).hexdigest()
SHA256 = hashlib.sha256(BYTES).hexdigest()


class Pair(World):
    """The requestor's node with programs, and a provider that it knows."""

    def __init__(self, nursery: trio.Nursery, there: Network, here: Network, folder: Path) -> None:
        super().__init__(nursery)
        self.there, self.here = there, here
        self.known = True
        self.files = ServedFiles(self.services, lambda peer: self.known and peer == here.peer_id)
        self.owner_store, self.store = ContentStore(folder / "there"), ContentStore(folder / "here")
        self.owner = DataService(there, self.owner_store, self.files)
        self.data = DataService(here, self.store)
        self.owner.serve()
        self.target = folder / "target"
        self.source = folder / "source"
        self.source.write_bytes(BYTES)

    async def fetch(self, name: str = "a", **how: Any) -> bytes:
        await self.data.fetch_named(
            self.there.peer_id, name, self.target, **{"max_bytes": SIZE, "timeout_s": 30.0, **how}
        )
        return self.target.read_bytes()

    async def push(self, name: str = "a", **how: Any) -> str:
        return await self.data.push(self.there.peer_id, name, self.source, **{"timeout_s": 30.0, **how})


@pytest.fixture
async def pair(nodes: list[Network], tmp_path: Path) -> AsyncIterator[Pair]:
    async with trio.open_nursery() as nursery:
        yield Pair(nursery, nodes[0], nodes[1], tmp_path)
        nursery.cancel_scope.cancel()


async def test_a_file_is_read_by_its_name(pair: Pair) -> None:
    pair.serve("a", file_of(BYTES))
    seen: list[tuple[int, int]] = []
    assert await pair.fetch(on_progress=lambda done, total: seen.append((done, total))) == BYTES
    assert seen[-1] == (SIZE, SIZE)


async def test_a_published_file_is_fetched_by_its_hash_and_kept(pair: Pair) -> None:
    program = pair.serve(DIGEST, file_of(BYTES), shared=True)
    for shared in (True, False):
        content = await pair.data.fetch(
            pair.there.peer_id, "sha3-256", DIGEST, max_bytes=SIZE, timeout_s=30, shared=shared
        )
        assert content.path.read_bytes() == BYTES
    assert [name for name, _ in program.asked].count("GetMetadata") == 1


async def test_a_program_that_serves_other_bytes_than_the_hash_says_is_caught(pair: Pair) -> None:
    pair.serve(DIGEST, file_of(BYTES[::-1]), shared=True)
    with pytest.raises(RemoteProtocolError, match="sha3-256"):
        await pair.data.fetch(pair.there.peer_id, "sha3-256", DIGEST, max_bytes=SIZE, timeout_s=30)
    assert pair.store.used_bytes() == 0


async def test_a_file_is_written_in_order_and_confirmed_when_the_program_has_it(pair: Pair) -> None:
    target = Appender()
    pair.serve("a", target)
    assert await pair.push() == SHA256
    assert target.content == BYTES
    assert target.finished == DIGEST
    assert await pair.push() == SHA256  # nothing happens
    assert target.content == BYTES


async def test_an_error_of_the_program_arrives_as_its_text(pair: Pair) -> None:
    whole = file_of(BYTES)

    def fail(component: str, payload: dict[str, Any]) -> Any:
        if payload.get("offset", 0) >= 2 * limits.GSB_CHUNK_BYTES:
            raise KeyError("the disk is gone")
        return whole(component, payload)

    pair.serve("a", fail)
    with pytest.raises(RemoteError, match="the disk is gone"):
        await pair.fetch()
    assert 0 < pair.target.stat().st_size < SIZE


async def test_a_write_that_the_program_refuses_ends_before_all_is_sent(pair: Pair) -> None:
    def full(_component: str, _payload: dict[str, Any]) -> None:
        raise KeyError("no space left")

    pair.serve("a", Appender())._answer = full
    done: list[int] = []
    with pytest.raises(RemoteError, match="no space left"):
        await pair.push(on_progress=lambda sent, _: done.append(sent))
    with pytest.raises(RemoteError, match="no space left"):  # for good: a program that appends cannot begin again
        await pair.push()


async def test_who_does_not_work_for_us_finds_nothing(pair: Pair) -> None:
    pair.serve("a", file_of(BYTES))
    pair.serve("b", Appender())
    pair.known = False
    with pytest.raises(NotFoundError):
        await pair.fetch()
    with pytest.raises(NotFoundError):
        await pair.push("b")
    with pytest.raises(NotFoundError):
        await pair.fetch("no-such-name")


async def test_a_file_larger_than_allowed_is_not_begun(pair: Pair) -> None:
    program = pair.serve("a", file_of(BYTES))
    with pytest.raises(PolicyError, match="at most"):
        await pair.fetch(max_bytes=SIZE - 1)
    assert not pair.target.exists()
    assert [name for name, _ in program.asked if name == "GetMetadata"]


async def test_a_reading_goes_on_after_the_connection_broke(pair: Pair) -> None:
    program = pair.serve("a", file_of(BYTES))
    broken = False

    def cut(done: int, _total: int) -> None:
        nonlocal broken
        if done > SIZE // 2 and not broken:
            broken = True
            raise NetworkError("the line was cut")

    assert await pair.fetch(on_progress=cut) == BYTES
    offsets = [payload["offset"] for name, payload in program.asked if name == "GetChunk"]
    assert offsets.count(0) == 1


async def test_a_writing_goes_on_where_the_program_stands(pair: Pair) -> None:
    target = Appender()
    pair.serve("a", target)
    sha256 = hashlib.sha256(BYTES).hexdigest()
    stream = await pair.here.open_stream(pair.there.peer_id, PROTOCOL)
    wire = Wire(stream)
    await wire.send(encode_header(["put", "a", SIZE, sha256]))
    assert await wire.answer() == [0]
    await wire.send_bulk(BYTES[: 2 * limits.GSB_CHUNK_BYTES + 100])
    await until("two chunks to arrive", lambda: len(target.content) == 2 * limits.GSB_CHUNK_BYTES)
    await stream.reset()

    # Until then the node says that the name is being written to.
    [service] = pair.services.serving("/public/gftp/a")
    await until("the node to notice the reset", lambda: not service.upload.busy)
    assert await pair.push() == SHA256
    assert target.content == BYTES


async def test_a_put_with_a_wrong_hash_is_never_finished(pair: Pair) -> None:
    target = Appender()
    pair.serve("a", target)
    stream = await pair.here.open_stream(pair.there.peer_id, PROTOCOL)
    wire = Wire(stream)
    await wire.send(encode_header(["put", "a", 5, "0" * 64]))
    assert await wire.answer() == [0]
    await wire.send(b"hello")
    with pytest.raises(RemoteError, match="sha256"):
        await wire.answer()
    assert not target.finished
    await stream.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(["ok", SIZE], id="and-then-nothing"),
        pytest.param(["ok", -1], id="negative"),
        pytest.param(["ok", "many"], id="text"),
        pytest.param(["ok"], id="no-size"),
    ],
)
async def test_a_hostile_owners_answer_is_an_error(pair: Pair, answer: list[Any]) -> None:
    async def answering(stream: ByteStream) -> None:
        wire = Wire(stream)
        await wire.header()
        # A block that is larger than the file, then nothing.
        await wire.send(encode_header(answer) + (SIZE + 1).to_bytes(4, "big"))
        await stream.close_write()

    pair.there.set_stream_handler(PROTOCOL, answering)
    with pytest.raises(RemoteProtocolError):
        await pair.fetch()
