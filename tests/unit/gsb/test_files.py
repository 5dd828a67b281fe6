"""Files out of programs: in order, within bounds, and a program's faults are its own."""

from __future__ import annotations

import hashlib
import os
from types import SimpleNamespace
from typing import Any

import pytest

from golemp2p import limits
from golemp2p.errors import (
    ConflictError,
    GolemError,
    NetworkError,
    NotFoundError,
    PolicyError,
    RemoteError,
    RemoteProtocolError,
)
from golemp2p.net.named import take_upload
from tests.unit.gsb.program import PEER, STRANGER, Appender, World, file_of

SIZE = 3 * limits.GSB_CHUNK_BYTES + 17
BYTES = os.urandom(SIZE)
SHA256 = hashlib.sha256(BYTES).hexdigest()
SHA3 = hashlib.sha3_256(BYTES).hexdigest()


async def put(world: World, content: bytes, *, sha256: str | None = None, piece: int = 100_000) -> str:
    digest = sha256 or hashlib.sha256(content).hexdigest()
    async with world.files.upload("a", PEER, len(content), digest) as upload:
        for start in range(upload.offset, len(content), piece):
            await upload.write(content[start : start + piece])
        return await upload.finish()


@pytest.mark.parametrize("offset", [0, 1, limits.GSB_CHUNK_BYTES, SIZE - 1, SIZE])
async def test_a_file_is_read_in_order_from_any_offset(world: World, offset: int) -> None:
    program = world.serve("a", file_of(BYTES))
    assert await world.read("a", offset) == BYTES[offset:]
    assert all(payload["size"] <= limits.GSB_CHUNK_BYTES for name, payload in program.asked if name == "GetChunk")


async def test_an_empty_file_is_a_file(world: World) -> None:
    world.serve("a", file_of(b""))
    assert await world.read("a") == b""


async def test_shorter_answers_are_asked_on(world: World) -> None:
    whole = file_of(BYTES)

    def short(component: str, payload: dict[str, Any]) -> Any:
        if component == "GetChunk":
            payload = payload | {"size": min(payload["size"], 200_000)}
        return whole(component, payload)

    world.serve("a", short)
    assert await world.read("a") == BYTES


def wrong_offset(_payload: dict[str, Any]) -> Any:
    return {"content": b"x", "offset": 5_000}


def nothing(payload: dict[str, Any]) -> Any:
    return {"content": b"", "offset": payload["offset"]}


def oversize(payload: dict[str, Any]) -> Any:
    return {"content": bytes(payload["size"] + 1), "offset": payload["offset"]}


def no_blob(payload: dict[str, Any]) -> Any:
    return {"content": "text", "offset": payload["offset"]}


@pytest.mark.parametrize(
    ("chunk", "match"),
    [
        pytest.param(wrong_offset, "no chunk", id="wrong-offset"),
        pytest.param(nothing, "ends at", id="nothing"),
        pytest.param(oversize, "bytes for", id="oversize"),
        pytest.param(no_blob, "no chunk", id="text-for-a-blob"),
        pytest.param(lambda _: None, "no chunk", id="null"),
    ],
)
async def test_a_wrong_chunk_fails_the_transfer(world: World, chunk: Any, match: str) -> None:
    whole = file_of(BYTES)
    world.serve(
        "a", lambda component, payload: whole(component, payload) if component != "GetChunk" else chunk(payload)
    )
    with pytest.raises(RemoteProtocolError, match=match):
        await world.read("a")


async def test_golem_js_sends_the_whole_of_a_large_buffer_for_each_of_its_chunks(world: World) -> None:
    whole = file_of(BYTES)

    def view(component: str, payload: dict[str, Any]) -> Any:
        return whole(component, payload) if component != "GetChunk" else {"content": BYTES, "offset": payload["offset"]}

    world.serve("a", view)
    assert await world.read("a") == BYTES


@pytest.mark.parametrize("size", [-1, "5", None, 2**60, 1.5], ids=str)
async def test_a_wrong_size_fails_the_transfer(world: World, size: Any) -> None:
    world.serve("a", lambda *_: {"fileSize": size})
    with pytest.raises(RemoteProtocolError):
        await world.read("a")


async def test_an_error_in_the_middle_is_told(world: World) -> None:
    whole = file_of(BYTES)

    def fail(component: str, payload: dict[str, Any]) -> Any:
        if payload.get("offset", 0) >= limits.GSB_CHUNK_BYTES:
            raise KeyError("the disk is gone")
        return whole(component, payload)

    world.serve("a", fail)
    with pytest.raises(RemoteError, match="the disk is gone"):
        await world.read("a")


async def test_a_reader_that_goes_ends_the_reading(world: World) -> None:
    world.serve("a", file_of(BYTES))

    async def gone(_block: bytes) -> None:
        raise NetworkError("the stream broke")

    with pytest.raises(NetworkError):
        await (await world.files.file("a", PEER)).pour(0, gone)


async def test_strangers_do_not_learn_of_a_name(world: World) -> None:
    world.serve("a", file_of(BYTES))
    assert world.files.has("a", PEER)
    assert not world.files.has("a", STRANGER)
    with pytest.raises(NotFoundError):
        await world.read("a", peer=STRANGER)
    world.serve("b", file_of(b"for all"), shared=True, anybody=True)
    assert await world.read("b", peer=STRANGER) == b"for all"


async def test_equal_content_is_read_on_from_another_process_when_one_ends(world: World) -> None:
    large = 4 * BYTES
    first = world.serve("a", file_of(large), shared=True)
    second = world.serve("a", file_of(large), shared=True)
    found = bytearray()

    async def take(block: bytes) -> None:
        found.extend(block)
        for holder in world.services.serving("/public/gftp/a"):
            if holder.channel is second.channel:
                second.channel.close("it was killed")
                world.services.unbind(holder)

    await (await world.files.file("a", PEER)).pour(0, take)
    assert bytes(found) == large
    assert first.asked


async def test_an_upload_goes_in_order_one_chunk_at_a_time_and_ends_with_its_hash(world: World) -> None:
    target = Appender()
    program = world.serve("a", target)
    assert await put(world, BYTES) == SHA3
    assert target.content == BYTES
    assert target.finished == SHA3
    offsets = [payload["chunk"]["offset"] for name, payload in program.asked if name == "UploadChunk"]
    assert offsets == [0, limits.GSB_CHUNK_BYTES, 2 * limits.GSB_CHUNK_BYTES, 3 * limits.GSB_CHUNK_BYTES]


async def test_a_put_that_broke_goes_on_where_the_program_stands(world: World) -> None:
    target = Appender()
    world.serve("a", target)
    async with world.files.upload("a", PEER, SIZE, SHA256) as upload:
        await upload.write(BYTES[: limits.GSB_CHUNK_BYTES + 5])
    assert len(target.content) == limits.GSB_CHUNK_BYTES  # the rest of a broken connection comes again
    with pytest.raises(ConflictError, match="written to already"):
        async with world.files.upload("a", PEER, SIZE, "0" * 64):
            pass
    assert await put(world, BYTES) == SHA3
    assert target.content == BYTES
    async with world.files.upload("a", PEER, SIZE, SHA256) as again:  # the last answer was lost
        assert again.sha3_256 == SHA3


async def test_a_provider_fills_no_disk_through_a_program(world: World) -> None:
    program = world.serve("a", Appender())
    wire: Any = SimpleNamespace(stream=SimpleNamespace(peer=PEER))
    with pytest.raises(PolicyError, match="too many"):
        await take_upload(wire, world.files, "a", limits.MAX_REST_FILE_BYTES + 1, SHA256)
    assert not program.asked


async def test_a_wrong_hash_never_finishes(world: World) -> None:
    target = Appender()
    world.serve("a", target)
    with pytest.raises(RemoteProtocolError, match="has sha256"):
        await put(world, BYTES, sha256="0" * 64)
    assert not target.finished


async def test_a_name_takes_one_upload_at_a_time(world: World) -> None:
    world.serve("a", Appender())
    async with world.files.upload("a", PEER, SIZE, SHA256):
        with pytest.raises(ConflictError, match="being written"):
            await put(world, BYTES)


async def test_after_a_failed_chunk_a_program_that_appends_takes_no_more(world: World) -> None:
    def full(_component: str, _payload: dict[str, Any]) -> None:
        raise KeyError("no space left")

    target = Appender()
    program = world.serve("a", target)
    program._answer = full
    with pytest.raises(RemoteError, match="no space left"):
        await put(world, BYTES)
    program._answer = target
    with pytest.raises(GolemError, match="no space left"):
        await put(world, BYTES)
    assert not target.content


async def test_a_gftp_process_starts_a_new_file_after_a_failure(world: World) -> None:
    target = Appender()
    world.serve("a", target, shared=True)
    with pytest.raises(RemoteProtocolError):
        await put(world, BYTES, sha256="0" * 64)
    target.content = b""
    assert await put(world, BYTES) == SHA3
    target.content = b""
    assert await put(world, b"another") == hashlib.sha3_256(b"another").hexdigest()


async def test_an_empty_file_is_uploaded_by_its_end_alone(world: World) -> None:
    target = Appender()
    program = world.serve("a", target)
    assert await put(world, b"") == hashlib.sha3_256().hexdigest()
    assert [name for name, _ in program.asked] == ["UploadFinished"]
