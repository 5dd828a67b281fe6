"""As much of DNS (RFC 1035) as a resolver for a few names needs: one question in, one answer out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

HEADER_BYTES: Final = 12
TYPE_A: Final = 1
CLASS_IN: Final = 1
NO_ERROR: Final = 0
NAME_ERROR: Final = 3  # no such name
NOT_IMPLEMENTED: Final = 4
_MAX_NAME_BYTES: Final = 255


@dataclass(frozen=True)
class Query:
    """``name`` is lower case and without the last dot; ``question`` the bytes that go back in the answer."""

    id: int
    name: str
    type: int
    klass: int
    question: bytes
    flags: int


def parse_query(data: bytes) -> Query | None:
    """A query with one question; None for anything else (which is not answered)."""
    if len(data) < HEADER_BYTES:
        return None
    number, flags, questions = (int.from_bytes(data[at : at + 2], "big") for at in (0, 2, 4))
    if flags & 0xF800 or questions != 1:  # an answer, or another operation than QUERY
        return None
    labels: list[str] = []
    at = HEADER_BYTES
    while at < len(data) and (size := data[at]) != 0:
        # A compressed name (two high bits) has nothing to point at in a question.
        if size > 63 or at + 1 + size > len(data) or at + size - HEADER_BYTES > _MAX_NAME_BYTES:
            return None
        try:
            labels.append(data[at + 1 : at + 1 + size].decode("ascii").lower())
        except UnicodeDecodeError:
            return None
        at += 1 + size
    end = at + 5
    if end > len(data) or any("." in label for label in labels):
        return None
    kind, klass = int.from_bytes(data[at + 1 : at + 3], "big"), int.from_bytes(data[at + 3 : at + 5], "big")
    return Query(number, ".".join(labels), kind, klass, data[HEADER_BYTES:end], flags)


def make_answer(query: Query, address: IPv4Address | None, *, code: int = NO_ERROR, ttl_s: int = 300) -> bytes:
    """``address`` for questions of type A; without one an empty answer, or the error ``code``."""
    flags = 0x8000 | 0x0080 | (query.flags & 0x0100) | code  # response, recursion available, desired as asked
    has = address is not None and query.type == TYPE_A and query.klass == CLASS_IN
    head = b"".join(number.to_bytes(2, "big") for number in (query.id, flags, 1, int(has), 0, 0))
    if address is None or not has:
        return head + query.question
    record = b"\xc0\x0c" + b"\0\x01\0\x01" + ttl_s.to_bytes(4, "big") + b"\0\x04" + address.packed
    return head + query.question + record
