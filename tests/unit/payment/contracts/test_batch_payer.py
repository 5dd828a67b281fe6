"""BatchPayer: all legs or nothing, and a batch at most once."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golemp2p.core.ids import Address
from golemp2p.payment.contracts import load
from golemp2p.payment.drivers.transactions import Leg, batch_done_call, encode_address, pay_once_call
from tests.evm import Evm, Reverted, account

PAYER, OTHER = account(1), account(2)
FUNDS = 10**24
_numbers = itertools.count()  # every batch gets a name of its own


@pytest.fixture(scope="module")
def world() -> tuple[Evm, Address]:
    evm = Evm.start()
    batch = evm.deploy("BatchPayer")
    for payer in (PAYER, OTHER):
        evm.mint(payer, FUNDS)
        evm.approve(payer, batch)
    return evm, batch


legs_lists = st.lists(st.tuples(st.integers(10, 20).map(account), st.integers(0, 10**18)), max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(legs=legs_lists)
def test_what_comes_in_goes_out_to_the_payees_once(world: tuple[Evm, Address], legs: list[Leg]) -> None:
    evm, batch = world
    name = f"batch {next(_numbers)}"
    before = {a: evm.balance(a) for a in {PAYER, batch, *(payee for payee, _ in legs)}}
    evm.send(PAYER, batch, pay_once_call(name, legs))
    for payee in {payee for payee, _ in legs}:
        assert evm.balance(payee) - before[payee] == sum(amount for p, amount in legs if p == payee)
    assert before[PAYER] - evm.balance(PAYER) == sum(amount for _, amount in legs)
    assert evm.balance(batch) == before[batch] == 0
    with pytest.raises(Reverted, match="batch done"):
        evm.send(PAYER, batch, pay_once_call(name, legs))


def _wrong_total(name: str, legs: list[Leg], total: int) -> bytes:
    data = bytearray(pay_once_call(name, legs))
    data[4 + 64 : 4 + 96] = total.to_bytes(32, "big")
    return bytes(data)


@pytest.mark.parametrize(("total", "why"), [(99, "legs exceed total"), (101, "total exceeds legs")])
def test_a_sum_that_differs_moves_nothing(world: tuple[Evm, Address], total: int, why: str) -> None:
    evm, batch = world
    name = f"batch {next(_numbers)}"
    before, had = evm.balance(PAYER), evm.balance(account(30))
    legs = [(account(30), 60), (account(31), 40)]
    with pytest.raises(Reverted, match=why):
        evm.send(PAYER, batch, _wrong_total(name, legs, total))
    assert (evm.balance(PAYER), evm.balance(account(30))) == (before, had)
    assert not any(evm.view(batch, batch_done_call(PAYER, name)))
    evm.send(PAYER, batch, pay_once_call(name, legs))  # the id is not used up
    assert evm.balance(account(30)) == had + 60


def test_the_same_id_of_another_payer_is_another_batch(world: tuple[Evm, Address]) -> None:
    evm, batch = world
    for payer in (PAYER, OTHER):
        evm.send(payer, batch, pay_once_call("shared", [(account(40), 5)]))
        assert any(evm.view(batch, batch_done_call(payer, "shared")))
    assert evm.balance(account(40)) == 10


def test_who_has_not_enough_pays_nobody(world: tuple[Evm, Address]) -> None:
    evm, batch = world
    poor = account(3)
    evm.mint(poor, 10)
    evm.approve(poor, batch)
    with pytest.raises(Reverted):
        evm.send(poor, batch, pay_once_call("poor", [(account(50), 6), (account(51), 5)]))
    assert evm.balance(poor) == 10


def test_no_money_of_others_is_touched(world: tuple[Evm, Address]) -> None:
    """The allowance that a payer gives is for its own calls only."""
    evm, batch = world
    before = evm.balance(PAYER)
    with pytest.raises(Reverted):
        evm.send(account(4), batch, pay_once_call("thief", [(account(4), 1)]))
    assert evm.balance(PAYER) == before


def test_it_is_of_the_token_that_it_was_made_for(world: tuple[Evm, Address]) -> None:
    evm, batch = world
    (entry,) = [f for f in load("BatchPayer").abi if f.get("name") == "token"]
    assert entry["inputs"] == []
    assert evm.view(batch, bytes.fromhex("fc0c546a")) == encode_address(evm.token)
