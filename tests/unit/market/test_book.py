from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.core.records import MarketRecord, RecordKind, make_record, new_subscription_id
from golemp2p.identity import NodeKey
from golemp2p.market.book import Applied, OrderBook
from golemp2p.net.port import Verdict

from .conftest import NOW, OFFER
from .test_hostile_peers import KEY_A, a_sync, gossip, record_of

ISSUER = NodeKey.generate().peer_id


def offer(issuer: PeerId = ISSUER, *, sequence: int = 1) -> MarketRecord:
    return make_record(RecordKind.OFFER, new_subscription_id(issuer), issuer, OFFER, "()", now=NOW, sequence=sequence)


TEMPLATES = [[offer(peer) for _ in range(10)] for peer in (NodeKey.generate().peer_id for _ in range(5))]


def test_of_two_versions_the_later_counts_in_any_order() -> None:
    first = offer(sequence=5)
    second = first.renewed(now=NOW + 10, ttl_s=3600, sequence=6)
    for order in ([first, second], [second, first], [second, second, first, first]):
        book = OrderBook()
        for record in order:
            book.apply(record)
        assert book.get(first.id, NOW) == second
        assert len(book) == 1


def test_a_withdrawal_is_the_last_word_even_when_it_comes_first() -> None:
    record = offer()
    gone = record.withdrawn(now=NOW, sequence=2)
    later = replace(record, sequence=99)
    book = OrderBook()
    assert book.apply(gone) is Applied.WITHDRAWN
    assert book.apply(record) is Applied.NOTHING
    assert book.apply(later) is Applied.NOTHING
    assert book.get(record.id, NOW) is None
    assert list(book.live(RecordKind.OFFER, NOW)) == []


def test_what_a_provider_offered_last_explains_why_there_is_no_offer_until_it_has_another_or_time_passes() -> None:
    book = OrderBook()
    one, two = offer(), offer()
    for number, record in enumerate((one, two)):
        book.apply(record, NOW)
        book.apply(record.withdrawn(now=NOW, sequence=2), NOW + number)
    assert list(book.gone(NOW, subnet="public")) == [(two, NOW + 1)]
    assert list(book.gone(NOW, subnet="other")) == []
    assert list(book.gone(NOW + 1 + limits.OUTCOME_KEEP_S, subnet="public")) == []
    book.apply(offer(), NOW)
    assert list(book.gone(NOW, subnet="public")) == []


def test_withdrawn_offers_that_are_remembered_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_GONE_OFFERS", 3)
    book = OrderBook()
    for issuer in (NodeKey.generate().peer_id for _ in range(5)):
        record = offer(issuer)
        book.apply(record, NOW)
        book.apply(record.withdrawn(now=NOW, sequence=2), NOW)
    assert len(list(book.gone(NOW, subnet="public"))) == 3


def test_nobody_changes_anothers_record() -> None:
    record = offer()
    book = OrderBook()
    book.apply(record)
    assert book.apply(replace(record, issuer=NodeKey.generate().peer_id, sequence=9)) is Applied.REFUSED
    assert book.get(record.id, NOW) == record


def test_one_issuer_has_a_bounded_number_of_live_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_RECORDS_PER_ISSUER", 3)
    book = OrderBook()
    records = [offer() for _ in range(4)]
    assert [book.apply(r) for r in records] == [Applied.NEW] * 3 + [Applied.REFUSED]
    assert book.apply(offer(NodeKey.generate().peer_id)) is Applied.NEW
    book.apply(records[0].withdrawn(now=NOW, sequence=2))
    assert book.apply(records[3]) is Applied.NEW


def test_who_subscribes_and_withdraws_all_day_is_not_locked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_RECORDS_PER_ISSUER", 3)
    monkeypatch.setattr(limits, "MAX_WITHDRAWALS_PER_ISSUER", 5)
    book = OrderBook()
    for _ in range(50):
        record = offer()
        assert book.apply(record) is Applied.NEW
        assert book.apply(record.withdrawn(now=NOW, sequence=2)) is Applied.WITHDRAWN
    assert len(book) == 5


def test_a_full_book_takes_our_own_and_remembers_nothing_of_the_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_RECORDS", 2)
    book = OrderBook(ISSUER)
    stranger = NodeKey.generate().peer_id
    book.apply(offer(stranger))
    book.apply(offer(stranger))
    assert book.apply(offer(stranger)) is Applied.REFUSED
    assert len(book) == 2
    assert book.apply(offer()) is Applied.NEW
    for _ in range(3):
        book.apply(offer(NodeKey.generate().peer_id))
    assert [r.issuer for r in book.live(RecordKind.OFFER, NOW)].count(ISSUER) == 1
    assert len(book._issuers) == len({r.issuer for r in book.all_records(NOW)})


def test_in_a_full_book_the_largest_gives_way_and_the_flood_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_RECORDS", 10)
    book = OrderBook()
    flooder, first, second = (NodeKey.generate().peer_id for _ in range(3))
    for number in range(20):
        book.apply(replace(offer(flooder), expires_at=NOW + 1000 + number))
    assert len(book) == 10
    assert book.apply(offer(first)) is Applied.NEW
    assert book.apply(offer(second)) is Applied.NEW
    assert book.apply(offer(flooder)) is Applied.REFUSED
    theirs = [r.expires_at - NOW for r in book.live(RecordKind.OFFER, NOW) if r.issuer == flooder]
    assert sorted(theirs) == [1002 + i for i in range(8)]  # the soonest went first
    assert len(book) == 10


def padded(issuer: PeerId, n_bytes: int) -> MarketRecord:
    return replace(offer(issuer), content=b"x" * n_bytes)


def test_the_bytes_of_one_issuer_are_bounded_also_by_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_RECORD_BYTES_PER_ISSUER", 10_000)
    book = OrderBook()
    first, second = padded(ISSUER, 4_000), padded(ISSUER, 4_000)
    assert [book.apply(r) for r in (first, second)] == [Applied.NEW] * 2
    assert book.apply(padded(ISSUER, 4_000)) is Applied.REFUSED
    assert book.apply(replace(second, sequence=2, content=b"x" * 8_000)) is Applied.REFUSED
    assert book.apply(replace(second, sequence=2)) is Applied.RENEWED
    assert book.apply(first.withdrawn(now=NOW, sequence=2)) is Applied.WITHDRAWN
    assert book.apply(padded(ISSUER, 3_000)) is Applied.NEW


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 9_000), st.booleans()), max_size=60))
def test_the_bytes_of_the_book_are_bounded_and_counted_right(steps: list[tuple[int, int, int, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "MAX_BOOK_BYTES", 30_000)
        patch.setattr(limits, "MAX_RECORDS", 20)
        book = OrderBook()
        for sequence, (who, which, n_bytes, withdraw) in enumerate(steps):
            record = replace(TEMPLATES[who][which], content=b"x" * n_bytes, sequence=sequence)
            book.apply(record.withdrawn(now=NOW, sequence=sequence) if withdraw else record)
            held = book.all_records(NOW)
            assert book.n_bytes == sum(len(r.content) + limits.RECORD_OVERHEAD_BYTES for r in held) <= 30_000
            assert len(held) == len(book) <= 20
            assert set(book._issuers) == {r.issuer for r in held}
            for peer, issuer in book._issuers.items():
                assert issuer.n_bytes == sum(len(r.content) + 512 for r in held if r.issuer == peer)


def test_what_the_book_refuses_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_RECORDS_PER_ISSUER", 1)
    sync, book = a_sync()
    assert sync._validate(gossip(record_of(KEY_A))) is Verdict.ACCEPT
    assert sync._validate(gossip(record_of(KEY_A))) is Verdict.IGNORE
    assert len(book) == 1


def test_digests_are_equal_when_the_books_are_and_follow_expiry() -> None:
    one, other = OrderBook(), OrderBook()
    records = [offer() for _ in range(10)]
    short = replace(offer(), expires_at=NOW + 5)
    for record in [*records, short]:
        one.apply(record)
    for record in reversed(records):
        other.apply(record)
    assert one.digest() != other.digest()
    assert one.remove_expired(NOW + 5) == [short]
    assert one.digest() == other.digest()
    other.apply(records[3].withdrawn(now=NOW, sequence=2))
    assert one.digest() != other.digest()


def test_pages_follow_one_another() -> None:
    book = OrderBook()
    records = sorted((offer() for _ in range(10)), key=lambda r: r.id)
    for record in records:
        book.apply(record)
    assert book.all_records(NOW) == records
    assert book.all_records(NOW, after=records[3].id) == records[4:]
    assert book.all_records(NOW, after="g") == []
