"""`golemp2p offers` shows whatever others publish."""

from __future__ import annotations

import pytest

from golemp2p.cli.explore import _number, _text


@pytest.mark.parametrize("odd", [10**400, 1e305, float("inf"), float("nan"), "dear", None, True, [1]])
def test_a_price_that_is_none_is_a_question_mark(odd: object) -> None:
    assert _number(odd, 3600) == "?"


def test_a_price_has_four_digits() -> None:
    assert _number(0.00012345678, 3600) == "0.4444"


def test_what_others_call_themselves_cannot_command_the_terminal() -> None:
    assert _text("a\x1b[2Jb") == "a?[2Jb"
    assert _text(10**5000) == "?"
