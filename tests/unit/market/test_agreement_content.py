from __future__ import annotations

import json

import pytest

from golemp2p.market.agreements import _same_terms

TERMS = {
    "demand": {"demandId": "d", "properties": {"a": "ä"}, "constraints": "()", "timestamp": 1},
    "offer": {"offerId": "o", "properties": {"b": 0.0}, "constraints": "()", "timestamp": 2},
}
EXPECTED = json.dumps(TERMS, ensure_ascii=False).encode()


def test_the_same_terms_in_another_order_and_spacing_are_the_same() -> None:
    assert _same_terms(EXPECTED, json.dumps(TERMS, sort_keys=True, indent=1).encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1"])
def test_content_that_is_no_utf_8_is_refused(encoding: str) -> None:
    """A provider that took it could not write the agreement into its journal, and so not bill its work."""
    assert not _same_terms(EXPECTED, json.dumps(TERMS, ensure_ascii=False).encode(encoding))
