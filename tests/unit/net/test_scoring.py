"""Faults, bans that grow, and the graylist after them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.net.scoring import PeerScores


def test_a_few_faults_in_a_row_cost_the_connection_and_then_longer_and_longer() -> None:
    scores, now, durations = PeerScores(), 0.0, []
    for _ in range(5):
        for _ in range(limits.PEER_FAULTS_TO_BAN - 1):
            assert scores.blame("peer", now) == 0.0
        durations.append(scores.blame("peer", now))
        now += durations[-1]
    assert durations == [60.0, 240.0, 960.0, 3600.0, 3600.0]


def test_who_was_banned_is_not_listened_to_for_a_while() -> None:
    scores = PeerScores()
    durations = [scores.blame("peer", 0.0) for _ in range(limits.PEER_FAULTS_TO_BAN)]
    assert scores.graylisted("peer", durations[-1] + limits.GRAYLIST_S - 1)
    assert not scores.graylisted("peer", durations[-1] + limits.GRAYLIST_S)
    assert not scores.graylisted("other", 0.0)


def test_rare_faults_are_forgotten() -> None:
    scores = PeerScores()
    assert [scores.blame("peer", 6 * limits.FAULT_HALF_LIFE_S * n) for n in range(20)] == [0.0] * 20


def test_after_a_good_day_a_ban_is_short_again() -> None:
    scores = PeerScores()
    later = limits.BANS_REMEMBERED_S + 100
    for at in (0.0, later):
        assert [scores.blame("peer", at) for _ in range(3)][-1] == limits.PEER_BAN_S


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1e6)), max_size=80))
def test_scores_are_bounded(steps: list[tuple[int, float]]) -> None:
    scores = PeerScores(max_peers=3)
    for peer, now in sorted(steps, key=lambda step: step[1]):
        assert 0.0 <= scores.blame(peer, now) <= limits.PEER_BAN_MAX_S
        assert len(scores._scores) <= 3
