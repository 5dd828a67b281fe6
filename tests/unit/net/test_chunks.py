"""Chunk maps, and partial files of which any chunks are there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golemp2p.errors import RemoteProtocolError
from golemp2p.net.chunks import CHUNK_BYTES, Bitmap, PartialFile, chunk_count, hash_chunks

SIZE = 2 * CHUNK_BYTES + 100
DATA = hashlib.shake_128(b"data").digest(SIZE)


def chunk(index: int) -> bytes:
    return DATA[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


@pytest.fixture
def hashes(tmp_path: Path) -> bytes:
    (tmp_path / "whole").write_bytes(DATA)
    return hash_chunks(tmp_path / "whole")


@given(st.lists(st.integers(0, 1), max_size=100))
def test_a_map_is_read_as_it_was_written(flags: list[int]) -> None:
    assert list(Bitmap.unpack(Bitmap(bytearray(flags)).pack(), len(flags)).flags) == flags


@given(st.binary(max_size=20), st.integers(0, 200))
def test_a_map_has_one_bit_for_every_chunk_or_is_refused(data: bytes, count: int) -> None:
    if len(data) == -(-count // 8):
        assert len(Bitmap.unpack(data, count).flags) == count
    else:
        with pytest.raises(RemoteProtocolError):
            Bitmap.unpack(data, count)


def test_chunk_hashes_cover_the_file_to_its_last_byte(hashes: bytes) -> None:
    assert chunk_count(SIZE) == 3
    assert chunk_count(0) == 0
    assert hashes == b"".join(hashlib.sha256(chunk(index)).digest() for index in range(3))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 2), max_size=4), st.integers(-5, SIZE + 5), st.integers(-5, SIZE + 5))
def test_what_is_held_is_what_was_put(
    tmp_path: Path, hashes: bytes, indexes: list[int], offset: int, length: int
) -> None:
    for left in tmp_path.glob("partial*"):
        left.unlink()
    partial = PartialFile(tmp_path / "partial", SIZE, hashes)
    partial.open()
    for index in indexes:
        assert partial.put(index, chunk(index))
    held = bytearray(SIZE)
    for index in set(indexes):
        held[index * CHUNK_BYTES : index * CHUNK_BYTES + partial.length(index)] = b"\1" * partial.length(index)
    inside = offset >= 0 and length > 0 and offset + length <= SIZE
    assert partial.holds(offset, length) == (inside and 0 not in held[offset : offset + length])
    again = PartialFile(tmp_path / "partial", SIZE, hashes)
    again.open()
    assert again.have == partial.have
    assert again.done_bytes == sum(held)


def test_a_wrong_chunk_is_not_written_and_a_torn_one_is_forgotten(tmp_path: Path, hashes: bytes) -> None:
    partial = PartialFile(tmp_path / "partial", SIZE, hashes)
    partial.open()
    assert not partial.put(0, chunk(1))
    assert not partial.holds(0, 1)
    assert partial.put(2, chunk(2))
    assert (tmp_path / "partial").read_bytes() == bytes(2 * CHUNK_BYTES) + chunk(2)
    with (tmp_path / "partial").open("r+b") as file:
        file.seek(2 * CHUNK_BYTES)
        file.write(b"torn")
    again = PartialFile(tmp_path / "partial", SIZE, hashes)
    again.open()
    assert not any(again.have.flags)
    (tmp_path / "partial.have").write_bytes(b"\1" * 50)  # of another file
    again.open()
    assert not any(again.have.flags)
