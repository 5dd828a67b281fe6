"""States, rules, capture and results."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.core.activity import (
    ACTIVITY,
    BATCH,
    COMMAND_RULES,
    ActivityEvent,
    ActivityState,
    CaptureBuffer,
    EventKind,
    Results,
    RuntimeEvent,
    TextDecoder,
    rule_of,
)
from golemp2p.core.exescript import Capture, CaptureMode, CapturePart, Deploy, Run, Start, Terminate
from golemp2p.core.machine import ImpossibleEventError


@given(st.lists(st.sampled_from(list(ActivityEvent)), max_size=20))
def test_an_activity_walks_its_table_and_terminated_is_final(events: list[ActivityEvent]) -> None:
    state = ACTIVITY.initial
    for event in events:
        try:
            state = ACTIVITY.next(state, event)
        except ImpossibleEventError:
            continue
        assert state is not ActivityState.NEW
    assert ACTIVITY.final == {ActivityState.TERMINATED}


def test_every_state_but_the_last_can_end() -> None:
    assert {s for s in ActivityState if ACTIVITY.can(s, ActivityEvent.END)} == set(ActivityState) - ACTIVITY.final
    assert {state.value for state in BATCH.final} == {"Done", "Failed"}


def test_every_rule_of_a_command_is_in_the_table() -> None:
    for (_, state), event in COMMAND_RULES.items():
        assert event is None or ACTIVITY.can(state, event)


def test_commands_have_their_turn() -> None:
    assert rule_of(Deploy(), ActivityState.INITIALIZED) is ActivityEvent.DEPLOY
    assert rule_of(Start(), ActivityState.DEPLOYED) is ActivityEvent.START
    assert rule_of(Run(), ActivityState.READY) is None
    assert rule_of(Terminate(), ActivityState.READY) is ActivityEvent.RESET
    with pytest.raises(ImpossibleEventError, match="activity is Ready: command 'deploy'"):
        rule_of(Deploy(), ActivityState.READY)


@given(
    st.lists(st.binary(max_size=40), max_size=10),
    st.sampled_from(list(CapturePart)),
    st.none() | st.integers(0, 100),
)
def test_capture_keeps_the_asked_part_however_it_is_chunked(
    chunks: list[bytes], part: CapturePart, limit: int | None
) -> None:
    buffer = CaptureBuffer(Capture(CaptureMode.AT_END, part, limit, binary=True))
    for chunk in chunks:
        buffer.add(chunk)
    whole = b"".join(chunks)
    bound = len(whole) if limit is None else limit
    if len(whole) <= bound:
        expected = whole
    elif part is CapturePart.HEAD:
        expected = whole[:bound]
    elif part is CapturePart.TAIL:
        expected = whole[len(whole) - bound :]
    else:
        head = (bound + 1) // 2
        expected = whole[:head] + whole[len(whole) - (bound - head) :]
    assert buffer.value() == expected


def test_capture_is_bounded_and_lossy_in_text() -> None:
    buffer = CaptureBuffer(Capture(CaptureMode.STREAM))
    for _ in range(9):
        buffer.add(b"a" * limits.MIB)
    assert len(buffer.value()) == limits.MAX_CAPTURE_BYTES
    text = CaptureBuffer(Capture(CaptureMode.STREAM))
    text.add(b"ok \xff")
    assert text.value() == "ok \ufffd"


def test_results_follow_from_events() -> None:
    commands = (Deploy(), Run(entry_point="x", stdout=Capture(CaptureMode.STREAM)), Terminate())
    results = Results(commands)
    for event in (
        RuntimeEvent(0, 1.0, EventKind.STARTED),
        RuntimeEvent(0, 2.0, EventKind.FINISHED),
        RuntimeEvent(1, 3.0, EventKind.STARTED),
        RuntimeEvent(1, 3.5, EventKind.STDOUT, b"hi"),
        RuntimeEvent(1, 3.6, EventKind.STDERR, b"not captured"),
    ):
        results.add(event)
    assert (len(results.done), results.finished) == (1, False)
    results.add(RuntimeEvent(1, 4.0, EventKind.FINISHED, return_code=2, message="m"))
    last = results.done[1]
    assert (last.ok, last.stdout, last.stderr, last.message, last.is_batch_finished) == (False, "hi", None, "m", True)
    results.add(RuntimeEvent(2, 5.0, EventKind.FINISHED))  # after the end nothing counts
    assert len(results.done) == 2


def test_a_captured_silence_is_an_empty_string() -> None:
    results = Results((Run(entry_point="x", stdout=Capture(CaptureMode.STREAM)),))
    results.add(RuntimeEvent(0, 1.0, EventKind.STARTED))
    results.add(RuntimeEvent(0, 1.0, EventKind.FINISHED))
    assert (results.done[0].stdout, results.done[0].stderr) == ("", None)


@given(st.text(), st.integers(1, 4))
def test_text_survives_any_chunking(text: str, size: int) -> None:
    data, decoder = text.encode(), TextDecoder()
    parts = [decoder.feed(data[i : i + size]) for i in range(0, len(data), size)]
    assert "".join(parts) + decoder.feed(b"", final=True) == text
