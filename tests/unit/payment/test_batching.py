"""When debts go out: none is forgotten, none is late, the rest waits for company."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from golemp2p.core.ids import Address, AgreementId, PeerId
from golemp2p.core.money import Amount
from golemp2p.core.payment import Cycle, Obligation, choose, net

NOW = 1_000_000.0


def debt(number: int, payee: int, amount: int, age_s: float = 0.0, due_in_s: float | None = None) -> Obligation:
    return Obligation(
        number,
        AgreementId(f"ag{number % 7}"),
        PeerId(f"peer{payee}"),
        Address("0x" + "00" * 20),
        Address(f"0x{payee:040x}"),
        "erc20-local-tglm",
        Amount(amount),
        NOW - age_s,
        None if due_in_s is None else NOW + due_in_s,
    )


debts = st.lists(
    st.tuples(
        st.integers(1, 5),
        st.integers(1, 10**20),
        st.floats(0, 10_000),
        st.one_of(st.none(), st.floats(-1_000, 10_000)),
    ),
    max_size=30,
).map(lambda rows: [debt(number, *row) for number, row in enumerate(rows)])
cycles = st.builds(
    Cycle,
    interval_s=st.floats(0, 10_000),
    max_payees=st.integers(0, 6),
    max_total=st.integers(0, 10**21).map(Amount),
    due_margin_s=st.floats(0, 300),
    min_payout=st.integers(0, 10**20).map(Amount),
)


@given(debts, st.integers(1, 10))
def test_netting_pays_each_payee_once_and_loses_nothing_but_waits_above_a_notices_size(
    owed: list[Obligation], most: int
) -> None:
    groups = net(owed, max_agreements=most)
    assert len({group.payee for group in groups}) == len(groups)
    for group in groups:
        assert len({d.agreement_id for d in group.debts}) <= most
        left_out = [d for d in owed if d.payee == group.payee and d not in group.debts]
        assert not left_out or len({d.agreement_id for d in group.debts}) == most
    if most >= 7:
        assert sum(group.amount for group in groups) == sum(d.amount for d in owed)


@given(debts, cycles)
def test_every_debt_is_paid_now_or_has_its_time_or_rolls_over(owed: list[Obligation], cycle: Cycle) -> None:
    groups = net(owed, max_agreements=1_000)
    choice = choose(groups, cycle, now=NOW)
    chosen = sum(group.amount for group in choice.groups)
    assert choice.rolled_over == sum(g.amount for g in groups if g.amount < cycle.min_payout)
    if choice.groups:
        assert chosen + choice.rolled_over == sum(g.amount for g in groups)
    elif chosen + choice.rolled_over < sum(g.amount for g in groups):
        assert choice.wake_at is not None
        assert choice.wake_at > NOW
        dues = [d.due_at for g in groups if g.amount >= cycle.min_payout for d in g.debts if d.due_at is not None]
        assert all(choice.wake_at <= due - cycle.due_margin_s for due in dues)
        again = choose(groups, cycle, now=choice.wake_at)
        assert again.groups, "at its time it goes out"


@given(debts, cycles)
def test_the_owner_may_pay_all_at_once(owed: list[Obligation], cycle: Cycle) -> None:
    choice = choose(net(owed, max_agreements=1_000), cycle, now=NOW, force=True)
    assert sum(group.amount for group in choice.groups) == sum(d.amount for d in owed)


def test_a_small_debt_rolls_over_until_it_is_large_enough() -> None:
    cycle = Cycle(min_payout=Amount(10))
    few = [debt(1, 1, 4), debt(2, 1, 5)]
    assert choose(net(few, max_agreements=9), cycle, now=NOW).rolled_over == 9
    more = [*few, debt(3, 1, 1)]
    (group,) = choose(net(more, max_agreements=9), cycle, now=NOW).groups
    assert group.amount == 10


def test_a_batch_waits_for_its_time_its_size_its_sum_or_its_due_date() -> None:
    cycle = Cycle(interval_s=3_600, max_payees=3, max_total=Amount(100), due_margin_s=60)
    two = net([debt(1, 1, 10), debt(2, 2, 10)], max_agreements=9)
    assert choose(two, cycle, now=NOW).wake_at == NOW + 3_600
    assert choose(two, cycle, now=NOW + 3_600).groups
    assert choose(net([debt(i, i, 10) for i in (1, 2, 3)], max_agreements=9), cycle, now=NOW).groups
    assert choose(net([debt(1, 1, 100)], max_agreements=9), cycle, now=NOW).groups
    due = choose(net([debt(1, 1, 10, due_in_s=200)], max_agreements=9), cycle, now=NOW)
    assert (due.groups, due.wake_at) == ((), NOW + 140)
    assert choose(net([debt(1, 1, 10, due_in_s=59)], max_agreements=9), cycle, now=NOW).urgent


def test_a_fee_is_compared_with_the_sum_that_it_moves() -> None:
    cycle = Cycle(fee_parts=100, coin_price=2.0)
    assert cycle.affords(fee_wei=5, total=Amount(1_000))
    assert not cycle.affords(fee_wei=6, total=Amount(1_000))
    assert Cycle().affords(fee_wei=10**30, total=Amount(1))
