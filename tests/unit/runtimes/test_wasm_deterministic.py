"""The deterministic world, without a guest."""

from __future__ import annotations

import hashlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from golemp2p.runtimes.wasm.deterministic import EPOCH_NS, TICK_NS, Bytes, Clock, Inodes, parse_entries, poll_once


def test_random_bytes_are_those_of_the_documentation() -> None:
    seed = bytes(32)
    first = hashlib.sha256(b"golemp2p deterministic random\0" + seed + bytes(8)).digest()
    second = hashlib.sha256(b"golemp2p deterministic random\0" + seed + bytes(7) + b"\x01").digest()
    assert Bytes(seed).take(40) == first + second[:8]


@given(st.lists(st.integers(0, 100), max_size=20))
def test_random_bytes_do_not_depend_on_how_they_are_asked_for(counts: list[int]) -> None:
    source = Bytes(b"seed")
    assert b"".join(source.take(count) for count in counts) == Bytes(b"seed").take(sum(counts))


def test_a_clock_moves_by_being_looked_at() -> None:
    clock = Clock()
    assert [clock.look(1), clock.look(0), clock.look(1)] == [TICK_NS, EPOCH_NS + 2 * TICK_NS, 3 * TICK_NS]


def a_wait(userdata: int, clock_id: int, timeout_ns: int, *, absolute: bool = False) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", userdata, 0, clock_id, timeout_ns, 0, absolute)


def a_file(userdata: int, tag: int) -> bytes:
    return struct.pack("<QB7xI28x", userdata, tag, 0)


def test_waiting_takes_no_time_and_moves_the_clock_to_the_earliest() -> None:
    clock = Clock()
    events = poll_once(a_wait(7, 1, 5_000) + a_wait(8, 1, 9_000) + a_wait(9, 0, EPOCH_NS + 100, absolute=True), clock)
    assert events is not None
    assert [struct.unpack_from("<QHB", event) for event in events] == [(9, 0, 0)]
    assert (clock.now_ns, len(events[0])) == (100, 32)
    assert poll_once(a_wait(1, 1, 1, absolute=True), clock) is not None
    assert clock.now_ns == 100  # a time that is past does not turn it back


def test_files_are_ready_at_once() -> None:
    clock = Clock()
    events = poll_once(a_wait(1, 1, 10**12) + a_file(2, 1) + a_file(3, 2), clock)
    assert events is not None
    assert [struct.unpack_from("<QHB", event) for event in events] == [(2, 0, 1), (3, 0, 2)]
    assert clock.now_ns == 0
    assert poll_once(a_file(1, 3), clock) is None


@given(st.integers(1, 6).flatmap(lambda n: st.binary(min_size=48 * n, max_size=48 * n)))
def test_any_subscriptions_give_whole_events_and_never_an_earlier_time(data: bytes) -> None:
    clock = Clock()
    events = poll_once(data, clock)
    assert clock.now_ns >= 0
    assert events is None or all(len(event) == 32 for event in events)


def a_stat(inode: int, kind: int = 4, links: int = 1) -> bytes:
    return struct.pack("<QQB7xQQQQQ", 5, inode, kind, links, 0, 1, 2, 3)


def test_a_reused_inode_number_is_new() -> None:
    inodes = Inodes()
    assert [inodes.of(5, 100), inodes.of(5, 200), inodes.of(5, 100)] == [1, 2, 1]
    inodes.forget(a_stat(100, links=2))  # it has another name still
    assert inodes.of(5, 100) == 1
    inodes.forget(a_stat(100))
    assert inodes.of(5, 100) == 3
    inodes.forget(a_stat(200, kind=3, links=2))
    assert inodes.of(5, 200) == 4


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_as_entries(data: bytes) -> None:
    for _next, _inode, _kind, name in parse_entries(data):
        assert name in data
