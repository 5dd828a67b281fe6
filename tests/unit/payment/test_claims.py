"""Which events of a transaction pay a notice: whose money it was is told from the events alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from golemp2p.core.ids import Address, AgreementId
from golemp2p.core.money import Amount
from golemp2p.core.payment import Leg, MinedTransfers, PaymentNotice, judge_claim

TOKEN, OTHER_TOKEN = Address("0x" + "70" * 20), Address("0x" + "71" * 20)
PAYER, OTHER, PAYEE, THIRD = (Address("0x" + d * 40) for d in "abcd")
BATCH = Address("0x" + "ba" * 20)
TX = "0x" + "12" * 32


def notice(amount: int) -> PaymentNotice:
    return PaymentNotice("n", PAYER, PAYEE, "p", TX, ((AgreementId("a"), Amount(amount)),), (), 1)


def judged(amount: int, *moves: tuple[Address, Address, int], used: tuple[int, ...] = ()) -> tuple[list[int], str]:
    legs = tuple(Leg(i, TOKEN, sender, recipient, value) for i, (sender, recipient, value) in enumerate(moves))
    found = MinedTransfers(TX, 1, "0x1", 1, True, legs)
    chosen, reason = judge_claim(notice(amount), found, token=TOKEN, used_log_indices=used, distributors=(BATCH,))
    return [leg.log_index for leg in chosen], reason


def test_a_leg_of_a_batch_is_its_payers_money() -> None:
    assert judged(5, (PAYER, BATCH, 8), (BATCH, PAYEE, 5), (BATCH, THIRD, 3)) == ([1], "")


def test_several_legs_are_added_up() -> None:
    assert judged(9, (PAYER, PAYEE, 2), (PAYER, BATCH, 7), (BATCH, PAYEE, 4), (BATCH, PAYEE, 3)) == ([0, 2, 3], "")


def test_the_batch_of_somebody_else_in_the_same_transaction_is_not_ours() -> None:
    moves = ((PAYER, BATCH, 1), (BATCH, THIRD, 1), (OTHER, BATCH, 10), (BATCH, PAYEE, 10))
    assert "holds no transfer" in judged(10, *moves)[1]


def test_a_batch_pushes_no_more_than_it_pulled_from_one_payer() -> None:
    assert "holds no transfer" in judged(10, (PAYER, BATCH, 1), (BATCH, PAYEE, 10))[1]
    assert judged(1, (PAYER, BATCH, 1), (BATCH, PAYEE, 1), (BATCH, PAYEE, 1)) == ([1], "")


def test_a_contract_that_the_network_does_not_name_is_a_stranger() -> None:
    stranger = Address("0x" + "57" * 20)
    assert "holds no transfer" in judged(5, (PAYER, stranger, 5), (stranger, PAYEE, 5))[1]


def test_a_leg_is_used_once() -> None:
    assert "paid for something else" in judged(5, (PAYER, BATCH, 5), (BATCH, PAYEE, 5), used=(1,))[1]


addresses = st.sampled_from([PAYER, OTHER, PAYEE, THIRD, BATCH])


@given(st.lists(st.tuples(addresses, addresses, st.integers(0, 20)), max_size=12), st.integers(1, 60))
def test_no_notice_takes_more_than_its_payer_gave(moves: list[tuple[Address, Address, int]], amount: int) -> None:
    chosen, reason = judged(amount, *moves)
    if not reason:
        assert sum(moves[i][2] for i in chosen) == amount
        assert all(moves[i][1] == PAYEE for i in chosen)
        assert amount <= sum(value for sender, _, value in moves if sender == PAYER)


def test_what_a_deposit_contract_sends_is_the_payment_of_the_spender_that_called_it() -> None:
    lock = Address("0x" + "10" * 20)
    legs = (Leg(0, TOKEN, lock, PAYEE, 5),)
    for sender, target, pays in ((PAYER, lock, True), (OTHER, lock, False), (PAYER, OTHER, False)):
        found = MinedTransfers(TX, 1, "0x1", 1, True, legs, sender=sender, target=target)
        chosen, _ = judge_claim(notice(5), found, token=TOKEN, used_log_indices=(), lock=lock)
        assert bool(chosen) is pays
