from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.api.presence import (
    Presence,
    activity_key,
    agreement_key,
    demand_key,
    keys_of,
    session_key,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("path", "query", "keys"),
    [
        ("/market-api/v1/agreements/ab12", "", [agreement_key("ab12")]),
        ("/market-api/v1/agreements/ab12/wait", "timeout=5", [agreement_key("ab12")]),
        ("/activity-api/v1/activity/cd/exec/ef", "", [activity_key("cd")]),
        ("/market-api/v1/demands/s-1/events", "timeout=5", [demand_key("s-1")]),
        ("/market-api/v1/agreementEvents", "appSessionId=one&timeout=5", [session_key("one")]),
        ("/payment-api/v1/invoiceEvents", "timeout=5", [session_key(None)]),
        ("/payment-api/v1/debitNoteEvents", "appSessionId=", [session_key(None)]),
        ("/me", "", []),
        ("/golemp2p/v1/agreements/ab12", "", []),
        ("/payment-api/v1/allocations", "appSessionId=one", []),
    ],
)
def test_a_call_is_about_what_its_path_or_its_session_names(path: str, query: str, keys: list[str]) -> None:
    assert keys_of(path, query) == keys


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_path_and_query_can_be_looked_at(path: str, query: str) -> None:
    assert all(":" in key for key in keys_of(path, query))


def test_silence_counts_from_the_end_of_the_last_call() -> None:
    clock = Clock()
    presence = Presence(clock)
    with presence.call("/market-api/v1/agreements/a", ""):
        clock.now = 200.0
        assert presence.silent_s([agreement_key("a")]) == 0.0
    clock.now = 230.0
    assert presence.silent_s([agreement_key("a"), session_key("s")]) == 30.0
    assert presence.silent_s([agreement_key("b")]) == 130.0


def test_after_a_restart_nobody_has_been_silent_yet() -> None:
    clock = Clock()
    presence = Presence(clock)
    clock.now = 110.0
    assert presence.silent_s([agreement_key("old")]) == 10.0


def test_two_calls_at_a_time_are_both_counted() -> None:
    clock = Clock()
    presence = Presence(clock)
    with presence.call("/activity-api/v1/activity/a", ""):
        with presence.call("/activity-api/v1/activity/a", ""):
            clock.now = 101.0
        clock.now = 500.0
        assert presence.silent_s([activity_key("a")]) == 0.0


def test_what_is_remembered_is_bounded() -> None:
    clock = Clock()
    presence = Presence(clock)
    for number in range(limits.MAX_PRESENCES + 1):
        clock.now += 1
        with presence.call(f"/activity-api/v1/activity/{number}", ""):
            pass
    # What was forgotten was in use at its last time, at the latest: nobody is ended for it.
    assert presence.silent_s([activity_key("0")]) == clock.now - 101.0
    assert presence.silent_s([activity_key("1")]) == clock.now - 102.0
    assert len(presence._last) == limits.MAX_PRESENCES
