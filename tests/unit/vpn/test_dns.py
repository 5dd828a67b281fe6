"""DNS as far as we speak it."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from golemp2p.core import dns

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20)
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join)


def question(name: str, kind: int = dns.TYPE_A, *, number: int = 7, flags: int = 0x0100, extra: bytes = b"") -> bytes:
    head = b"".join(n.to_bytes(2, "big") for n in (number, flags, 1, 0, 0, int(bool(extra))))
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return head + labels + b"\0" + kind.to_bytes(2, "big") + b"\0\x01" + extra


@given(st.binary(max_size=300))
def test_any_bytes_are_a_query_or_none(data: bytes) -> None:
    query = dns.parse_query(data)
    if query is not None:
        assert dns.make_answer(query, IPv4Address("198.18.0.16"))[:2] == data[:2]


@given(NAME, st.integers(0, 65_535), st.binary(max_size=20))
def test_a_question_is_read_whatever_its_case_and_whatever_follows(name: str, number: int, extra: bytes) -> None:
    query = dns.parse_query(question(name.upper(), number=number, extra=extra))
    assert query is not None
    assert (query.id, query.name, query.type, query.klass) == (number, name, dns.TYPE_A, dns.CLASS_IN)


def test_an_answer_holds_the_address_and_the_question() -> None:
    asked = question("api.test")
    query = dns.parse_query(asked)
    assert query is not None
    answer = dns.make_answer(query, IPv4Address("198.18.0.16"))
    assert answer[2:12] == bytes.fromhex("8180 0001 0001 0000 0000")
    assert answer[12 : len(asked)] == asked[12:]
    assert answer.endswith(bytes([0, 4, 198, 18, 0, 16]))


def test_other_types_get_an_empty_answer_and_unknown_names_an_error() -> None:
    query = dns.parse_query(question("api.test", 28))  # AAAA
    assert query is not None
    assert dns.make_answer(query, IPv4Address("1.2.3.4"))[3:8] == bytes.fromhex("80 0001 0000")
    assert dns.make_answer(query, None, code=dns.NAME_ERROR)[3] & 15 == dns.NAME_ERROR


def test_answers_and_other_operations_are_not_answered() -> None:
    assert dns.parse_query(question("a", flags=0x8000)) is None
    assert dns.parse_query(question("a", flags=0x2800)) is None
    assert dns.parse_query(question("a")[:-1]) is None
    assert dns.parse_query(bytes(12) + b"\xc0\x0c" + b"\0\x01\0\x01") is None
