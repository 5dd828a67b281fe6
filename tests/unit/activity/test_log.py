"""The event log: numbers, replay, bounds, back-pressure."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.activity.log import EventLog
from golemp2p.core.activity import EventKind, RuntimeEvent


def event(size: int = 100, index: int = 0) -> RuntimeEvent:
    return RuntimeEvent(index, 0.0, EventKind.STDOUT, b"x" * size)


async def test_events_are_replayed_from_any_number() -> None:
    log = EventLog(10_000)
    for index in range(5):
        await log.append(event(index=index))
    assert [(n, e.index) for n, e in await log.read(3)] == [(3, 3), (4, 4)]
    log.close()
    assert await log.read(5) == []


async def test_reading_waits_for_the_next_event() -> None:
    log = EventLog(10_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.append, event(index=7))
        assert [e.index for _, e in await log.read(0)] == [7]


async def test_the_head_goes_when_nobody_needs_it() -> None:
    log = EventLog(1_000)
    for index in range(20):
        await log.append(event(index=index))
    assert log.size_bytes <= 1_000
    assert (log.first, log.next) == (17, 20)
    with log.reading(0) as reader:
        assert reader.position == 17


async def test_a_reader_that_needs_the_head_makes_the_writer_wait(autojump_clock: trio.testing.MockClock) -> None:
    log = EventLog(1_000)
    with log.reading() as reader:
        with trio.move_on_after(100) as waited:
            for _ in range(10):
                await log.append(event())
        assert waited.cancelled_caught
        assert log.next == 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.append, event())
            await trio.testing.wait_all_tasks_blocked()
            assert log.next == 3
            reader.advance(1)
        assert (log.first, log.next) == (1, 4)
    await log.append(event())  # the reader has left


async def test_a_reader_that_stalls_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    log = EventLog(1_000, stall_s=60)
    with log.reading() as slow, log.reading() as quick:
        for _ in range(10):
            quick.advance(log.next)
            await log.append(event())
        assert slow.cut
        assert not quick.cut
        assert await slow.next() == []
    assert trio.current_time() == pytest.approx(60, abs=1)


async def test_last_words_fit_always() -> None:
    log = EventLog(300)
    with log.reading():
        await log.append(event())
        log.append_now(event())
        assert log.next == 2
        log.close()
        log.append_now(event())
        assert log.next == 2


async def test_one_event_larger_than_the_log_passes() -> None:
    log = EventLog(10)
    with trio.fail_after(1):
        await log.append(event(1_000))
    assert log.next == 1


async def test_trim_drops_what_was_acknowledged() -> None:
    log = EventLog(10_000)
    reader = log.reader()
    for _ in range(5):
        await log.append(event())
    reader.advance(3)
    log.trim()
    assert (log.first, log.next) == (3, 5)


@given(st.lists(st.tuples(st.sampled_from(["append", "read", "advance"]), st.integers(0, 12)), max_size=60))
def test_a_reader_never_misses_or_repeats_an_event(steps: list[tuple[str, int]]) -> None:
    async def walk() -> None:
        log, seen = EventLog(1_000), 0
        with log.reading() as reader:
            position = 0
            for what, number in steps:
                if what == "append":
                    with trio.move_on_after(0):
                        await log.append(event(number * 10, index=log.next))
                elif what == "read" and log.next > position:
                    for found, item in await log.read(position):
                        assert found == item.index == seen
                        seen += 1
                        position = found + 1
                else:
                    reader.advance(min(number, position))
            assert log.first <= max(reader.position, 0) or log.first == 0

    trio.run(walk)
