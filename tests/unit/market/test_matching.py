"""The index of offers gives the same answer as the plain matcher, whatever comes, goes and asks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.core.constraints import And, Compare, Name, Terms, Ternary, match, parse
from golemp2p.core.ids import PeerId, SubscriptionId
from golemp2p.core.properties import Properties
from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.market.book import OrderBook
from golemp2p.market.matching import OfferIndex, flat_atoms
from tests.unit.core.test_constraints import EXPRESSIONS, PROPERTIES

NAMES = st.sampled_from(["a", "b", "golem.inf.mem.gib", "x y", "list", "n?", "é"])
TEXTS = st.one_of(
    st.text(alphabet="ab1.*( é", max_size=4),
    st.sampled_from(
        ["1", "1.0", "-5", "1e3", "inf", "-Infinity", "nan", "1e999", " 1", "[1,a]", "true", "v1.2.3", "x*"]
    ),
)
FLAT = st.builds(
    lambda parts, space: f"{space}({space}&{''.join(space + part for part in parts)}{space})",
    st.lists(
        st.builds(
            lambda name, op, text: f"({name}{op}{text})", NAMES, st.sampled_from(["=", "<", ">", "<=", ">="]), TEXTS
        ).filter(lambda text: "=*" not in text),
        max_size=4,
    ),
    st.sampled_from(["", " ", "\n\t"]),
)
CONSTRAINTS = st.one_of(EXPRESSIONS, FLAT, FLAT)
ANY_PROPERTIES: st.SearchStrategy[Properties] = st.one_of(
    PROPERTIES,
    st.dictionaries(
        NAMES,
        st.one_of(st.sampled_from([1, 1.0, True, False, 0, -5, "1", 10**300, 1000.0]), st.text("ab1x", max_size=2)),
        max_size=5,
    ),
)
TERMS = st.builds(Terms, ANY_PROPERTIES, CONSTRAINTS)


def record_of(number: int, terms: Terms, subnet: str = "public", expires_at: float = 100.0) -> MarketRecord:
    content = json.dumps({"constraints": terms.constraints, "properties": terms.properties}).encode()
    record = MarketRecord(
        RecordKind.OFFER,
        SubscriptionId(f"offer-{number}"),
        PeerId("peer"),
        subnet,
        content,
        sequence=1,
        issued_at=0.0,
        expires_at=expires_at,
    )
    record.__dict__["terms"] = terms  # as decoded; not all of these could be published
    return record


def plain(offers: list[MarketRecord], demand: Terms) -> list[SubscriptionId]:
    return [offer.id for offer in offers if match(demand, offer.terms) is Ternary.TRUE]


def ids(found: object) -> list[SubscriptionId]:
    return [record.id for record in found]  # type: ignore[attr-defined] # an iterator of records


@settings(max_examples=300, deadline=None)
@given(st.lists(TERMS, max_size=8), st.lists(TERMS, min_size=1, max_size=3), st.data())
def test_the_index_answers_as_the_plain_matcher(offers: list[Terms], demands: list[Terms], data: st.DataObject) -> None:
    index, records = OfferIndex(), [record_of(number, terms) for number, terms in enumerate(offers)]
    for record in records:
        index.on_added(record)
    for demand in demands:
        assert ids(index.candidates(demand)) == plain(records, demand)
        if records:  # between two demands something goes, something comes
            gone: int = data.draw(st.integers(0, len(records) - 1))
            index.on_removed(records.pop(gone))
        more = record_of(100 + len(records), data.draw(TERMS))
        if all(more.id != record.id for record in records):
            records.append(more)
            index.on_added(more)
        assert ids(index.candidates(demand)) == plain(records, demand)


@settings(max_examples=300, deadline=None)
@given(st.one_of(FLAT, CONSTRAINTS))
def test_what_is_read_in_haste_is_what_the_parser_reads(text: str) -> None:
    found = flat_atoms(text)
    if found is None:
        return
    parsed = parse(text)
    assert isinstance(parsed, And)
    parts = [(part.ref, part.op, part.value) for part in parsed.parts if isinstance(part, Compare)]
    assert [(Name(name), op, value) for name, op, value in zip(*found, strict=True)] == parts
    assert len(parts) == len(parsed.parts)


def test_usual_offers_take_the_quick_way() -> None:
    assert flat_atoms("(&(golem.srv.comp.expiration>1700000000123)\n (golem.node.debug.subnet=public))") == (
        ["golem.srv.comp.expiration", "golem.node.debug.subnet"],
        [">", "="],
        ["1700000000123", "public"],
    )


def test_many_different_values_and_shapes_are_one_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MATCH_SHAPES", 3)
    monkeypatch.setattr(limits, "MATCH_COLUMNS", 1)
    monkeypatch.setattr(limits, "MATCH_CLAUSES", 1)
    records = [
        record_of(i, Terms({"n": i, "m": i % 7, "l": [i % 3]}, f"(&({'abcdef'[i % 6]}>{i % 50})(z={i % 2}))"))
        for i in range(600)
    ]
    index = OfferIndex()
    for record in records:
        index.on_added(record)
    properties: Properties = dict.fromkeys("abcdefz", 40)
    demand = Terms({**properties, "z": 1}, "(&(n>250)(|(m=3)(m=5)(l=1))(!(n<=300)))")
    assert ids(index.candidates(demand)) == plain(records, demand) != []


def test_renewed_offers_keep_their_place_and_changed_ones_get_a_new_one() -> None:
    index = OfferIndex()
    old = [record_of(i, Terms({"n": i}, "()")) for i in range(3)]
    for record in old:
        index.on_added(record)
    assert len(ids(index.candidates(Terms({}, "()")))) == 3
    renewed = replace(old[0], sequence=2, expires_at=300.0)
    index.on_added(renewed)
    index.on_added(record_of(1, Terms({"n": 7}, "()")))
    demand = Terms({}, "(n>=0)")
    assert [record.properties["n"] for record in index.candidates(demand)] == [0, 2, 7]
    assert ids(index.candidates(demand, now=200.0)) == ["offer-0"]
    assert len(index) == 3


def test_subnets_are_apart() -> None:
    index = OfferIndex()
    for number in range(6):
        index.on_added(record_of(number, Terms({}, "()"), subnet="ab"[number % 2]))
    demand = Terms({}, "()")
    assert ids(index.candidates(demand, subnet="a")) == ["offer-0", "offer-2", "offer-4"]
    assert ids(index.candidates(demand, subnet="c")) == []
    assert len(ids(index.candidates(demand))) == 6


def test_room_is_bounded_by_what_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MATCH_SPARE_SLOTS", 10)
    index = OfferIndex()
    for number in range(500):
        record = record_of(number, Terms({"n": number}, f"(a={number})"))
        index.on_added(record)
        assert number % 7 or len(ids(index.candidates(Terms({"a": str(number)}, "(n>=0)"))))
        if number % 10:
            index.on_removed(record)
            index.on_removed(record)
    assert len(index) == 50
    assert len(index._records) <= 2 * 50 + 11
    assert len(ids(index.candidates(Terms({"a": "490"}, "(n>0)")))) == 1


def test_the_book_keeps_its_index_up_to_date() -> None:
    book = OrderBook()
    records = [record_of(number, Terms({"n": number}, "()")) for number in range(4)]
    demand = Terms({}, "(n>=1)")
    for record in records[:2]:
        book.apply(record)
    assert ids(book.offers.candidates(demand)) == ["offer-1"]
    for record in records[2:]:
        book.apply(record)
    assert ids(book.offers.candidates(demand)) == ["offer-1", "offer-2", "offer-3"]
    book.apply(replace(records[1], kind=RecordKind.WITHDRAWAL, sequence=2))
    book.forget(records[3].id)
    assert ids(book.offers.candidates(demand)) == ["offer-2"]
    book.apply(replace(records[2], sequence=2, expires_at=1.0))
    assert ids(book.offers.candidates(demand, now=2.0)) == []
    assert [record.id for record in book.remove_expired(2.0)] == ["offer-2"]
    assert len(book.offers) == 1
