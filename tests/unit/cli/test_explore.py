"""`golemp2p offers` shows whatever others publish."""

from __future__ import annotations

import pytest

from golemp2p.cli.explore import ALONE, _number, _text, judged
from golemp2p.wire.rest.node import Asked, Reachability, SelfTest


@pytest.mark.parametrize("odd", [10**400, 1e305, float("inf"), float("nan"), "dear", None, True, [1]])
def test_a_price_that_is_none_is_a_question_mark(odd: object) -> None:
    assert _number(odd, 3600) == "?"


def test_a_price_has_four_digits() -> None:
    assert _number(0.00012345678, 3600) == "0.4444"


def test_what_others_call_themselves_cannot_command_the_terminal() -> None:
    assert _text("a\x1b[2Jb") == "a?[2Jb"
    assert _text(10**5000) == "?"


def _test(reach: str, *, offers: int, held: list[int], seen: bool) -> SelfTest:
    asked = [Asked(peer_id="16U", held=n, problem="") for n in held]
    reachability = Reachability(reach=reach, reason="", advice="", relays=[])
    return SelfTest(reachability=reachability, own_offers=offers, asked=asked, seen=seen)


@pytest.mark.parametrize(
    ("test", "works", "words"),
    [
        (_test("public", offers=1, held=[1, 1], seen=True), True, "all is well"),
        (_test("unknown", offers=1, held=[1], seen=True), True, "all is well as far as it is known"),
        (_test("public", offers=1, held=[0], seen=False), False, "do not see this node"),
        (_test("unreachable", offers=0, held=[0], seen=True), False, "do not see this node"),
        (_test("unknown", offers=0, held=[0], seen=True), True, "no offer that they could hold"),
        (_test("public", offers=1, held=[], seen=False), False, ALONE),
        (_test("public", offers=0, held=[], seen=True), False, ALONE),
    ],
    ids=["held", "reach unknown", "not held", "unreachable", "no offer", "alone", "alone without an offer"],
)
def test_a_self_test_calls_good_only_what_was_tried(test: SelfTest, works: bool, words: str) -> None:
    assert judged(test)[0] is works
    assert words in judged(test)[1]
