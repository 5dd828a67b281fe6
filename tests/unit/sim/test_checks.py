"""Each checker sees a violation that is planted for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import trio

from golemp2p import limits
from golemp2p.core.agreement import AgreementState, Role
from golemp2p.core.ids import ActivityId, Address, AgreementId, AllocationId, DocumentId
from golemp2p.core.money import Amount
from golemp2p.core.payment import AllocationState, Document, DocumentKind, DocumentState, Ledger, Leg, Side
from golemp2p.core.records import RecordKind, make_record, new_subscription_id
from golemp2p.sim.chain import NETWORK, TOKEN
from golemp2p.sim.checks import SYNC_BOUND_S
from golemp2p.sim.node import SimNode
from golemp2p.sim.scenario import parse
from golemp2p.sim.world import World
from golemp2p.storage import payment as repo
from golemp2p.storage.payment import Allocation, Parties, StoredDocument
from tests.unit.payment.world import make_agreement

SCENARIO = 'name = "t"\nuntil_s = 0\n[[providers]]\ncount = 1\n[[requestors]]\ncount = 1\ntasks = 1\n'


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World(parse(SCENARIO, "test"))
    for node in made.nodes:
        node.has_payments = True
        node.disk.run(lambda c: None)
    yield made
    made.disks.close()


def _provider(world: World) -> SimNode:
    return world.nodes[0]


def _requestor(world: World) -> SimNode:
    return world.nodes[1]


def _ledger(node: SimNode, world: World, side: Side, *, accepted: int, paid: int) -> None:
    parties = Parties(
        AgreementId("ag"),
        side,
        node.key.peer_id,
        _requestor(world).key.address,
        _provider(world).key.address,
        NETWORK.platform,
    )
    node.disk.run(lambda c: repo.put_ledger(c, parties, Ledger({}, Amount(accepted), Amount(accepted), Amount(paid))))


def _bill(
    node: SimNode,
    world: World,
    side: Side,
    amount: int,
    *,
    kind: DocumentKind = DocumentKind.INVOICE,
    state: DocumentState = DocumentState.ACCEPTED,
    number: int = 0,
) -> None:
    document = Document(
        kind,
        DocumentId(f"{kind.value}-{number}"),
        AgreementId("ag"),
        (ActivityId("ac"),),
        _requestor(world).key.address,
        _provider(world).key.address,
        NETWORK.platform,
        Amount(amount),
        issued_at_ms=1,
    )
    stored = StoredDocument(document, side, node.key.peer_id, b"", None, state, stored_at=0.0)
    node.disk.run(lambda c: repo.insert_document(c, stored))


def _budget(node: SimNode, total: int) -> None:
    allocation = Allocation(
        id=AllocationId("al"),
        address=Address(node.key.address),
        platform=NETWORK.platform,
        total=Amount(total),
        created_at=0.0,
        timeout_at=None,
        make_deposit=False,
        state=AllocationState.LIVE,
    )
    node.disk.run(lambda c: repo.put_allocation(c, allocation))


def _leg(world: World, amount: int) -> Leg:
    return Leg(0, TOKEN, _requestor(world).key.address, _provider(world).key.address, Amount(amount))


async def test_nothing_is_wrong_with_a_fair_payment(world: World) -> None:
    _budget(_requestor(world), 5)
    for number, amount in enumerate((2, 3)):
        _bill(_requestor(world), world, Side.PAYER, amount, kind=DocumentKind.DEBIT_NOTE, number=number)
    _bill(_requestor(world), world, Side.PAYER, 5)
    _ledger(_requestor(world), world, Side.PAYER, accepted=5, paid=5)
    _ledger(_provider(world), world, Side.PAYEE, accepted=5, paid=5)
    world.checks.on_leg(_leg(world, 5))
    world.checks.look(thorough=True)
    assert world.checks.problems == []


@pytest.mark.parametrize("kind", [DocumentKind.INVOICE, DocumentKind.DEBIT_NOTE], ids=["invoice", "note"])
async def test_a_second_payment_is_seen_even_if_the_payers_totals_allow_for_it(
    world: World, kind: DocumentKind
) -> None:
    _budget(_requestor(world), 10)
    _bill(_requestor(world), world, Side.PAYER, 5, kind=kind)
    _ledger(_requestor(world), world, Side.PAYER, accepted=10, paid=10)
    world.checks.on_leg(_leg(world, 5))
    world.checks.on_leg(_leg(world, 5))
    world.checks.look(thorough=True)
    assert "paid twice or too much" in world.checks.problems[0]


async def test_more_than_the_allocations_have_is_seen_even_if_none_was_charged(world: World) -> None:
    _budget(_requestor(world), 4)
    _bill(_requestor(world), world, Side.PAYER, 5)
    world.checks.on_leg(_leg(world, 5))
    world.checks.look(thorough=True)
    assert "paid above the allocation" in world.checks.problems[0]


@pytest.mark.parametrize("state", [DocumentState.RECEIVED, DocumentState.ACCEPTED], ids=["unanswered", "unpaid"])
async def test_a_bill_between_honest_nodes_that_comes_to_nothing_is_seen(
    world: World, monkeypatch: pytest.MonkeyPatch, state: DocumentState
) -> None:
    monkeypatch.setattr(SimNode, "alive", True)
    _bill(_provider(world), world, Side.PAYEE, 5, state=DocumentState.SETTLED)
    world.checks._all_is_settled(_provider(world))
    assert world.checks.problems == []
    _bill(_provider(world), world, Side.PAYEE, 5, state=state, number=1)
    world.checks._all_is_settled(_provider(world))
    assert "billed and not settled" in world.checks.problems[0]


async def test_a_record_that_its_issuer_did_not_sign_is_seen(world: World) -> None:
    provider, node = _provider(world), _requestor(world)
    new_id = new_subscription_id(provider.key.peer_id)
    unsigned = make_record(RecordKind.OFFER, new_id, provider.key.peer_id, {"a": 1}, "()", now=world.wall(), sequence=1)
    record = replace(unsigned, signature=provider.key.sign(unsigned.digest(world.domain)))
    world.checks.on_record(node, record)
    assert world.checks.problems == []
    world.checks.on_record(node, replace(record, sequence=record.sequence + 1))
    assert "a forged record was taken" in world.checks.problems[0]


async def test_a_payment_that_is_booked_and_not_on_the_chain_is_seen(world: World) -> None:
    _ledger(_provider(world), world, Side.PAYEE, accepted=5, paid=5)
    world.checks.on_leg(_leg(world, 4))
    world.checks.look(thorough=True)
    assert any("paid less than agreed" in problem for problem in world.checks.problems)


async def test_an_overdrawn_allocation_is_seen(world: World) -> None:
    node = _requestor(world)
    allocation = Allocation(
        id=AllocationId("al"),
        address=Address(node.key.address),
        platform=NETWORK.platform,
        total=Amount(5),
        created_at=0.0,
        timeout_at=None,
        make_deposit=False,
        state=AllocationState.LIVE,
    )

    def plant(connection: sa.Connection) -> None:
        repo.put_allocation(connection, allocation)
        row = {"agreement_id": "ag", "allocation_id": "al", "reserved": Amount(0), "spent": Amount(6)}
        connection.execute(sa.insert(repo.charges), row)

    node.disk.run(plant)
    world.checks.look(thorough=True)
    assert "paid above the allocation" in world.checks.problems[0]


async def test_what_stays_owed_is_seen(world: World) -> None:
    _ledger(_requestor(world), world, Side.PAYER, accepted=5, paid=4)
    world.checks._all_is_paid(_requestor(world))
    assert "accepted and not paid" in world.checks.problems[0]


async def test_two_final_states_are_seen_after_the_sync_bound(autojump_clock: Any, world: World) -> None:
    agreement = make_agreement(_requestor(world).key, _provider(world).key)
    world.checks.on_agreement(_requestor(world), replace(agreement, state=AgreementState.CANCELLED))
    other_side = replace(agreement, state=AgreementState.TERMINATED, role=Role.PROVIDER)
    world.checks.on_agreement(_provider(world), other_side)
    world.checks.look(thorough=True)
    assert world.checks.problems == []
    await trio.sleep(SYNC_BOUND_S + 1)
    world.checks.look(thorough=True)
    assert "two final states" in world.checks.problems[0]


async def test_an_agreement_that_ended_on_one_side_only_is_seen(
    autojump_clock: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimNode, "alive", True)
    agreement = make_agreement(_requestor(world).key, _provider(world).key)
    world.checks.on_agreement(_requestor(world), replace(agreement, state=AgreementState.TERMINATED))
    world.checks.on_agreement(_provider(world), replace(agreement, state=AgreementState.PENDING, role=Role.PROVIDER))
    await trio.sleep(SYNC_BOUND_S + 1)
    world.checks._one_end()
    assert "ended on one side only" in world.checks.problems[0]


async def test_an_approval_that_one_side_did_not_sign_is_seen(world: World) -> None:
    node: Any = _requestor(world)
    node.market = SimpleNamespace(agreements=SimpleNamespace(verify=lambda _: {"requestor": True, "provider": False}))
    world.checks.on_agreement(node, make_agreement(node.key, _provider(world).key))
    assert "approved without both signatures" in world.checks.problems[0]


async def test_an_acknowledged_result_that_nobody_has_is_seen(world: World) -> None:
    world.checks.on_ack(_requestor(world), {"activity_id": "a", "batch_id": "b", "next_seq": 3})
    assert "result lost after acknowledgement" in world.checks.problems[0]


async def test_a_task_that_was_done_and_forgotten_is_seen(world: World) -> None:
    world.log.add(_requestor(world).index, "task", "job-0-0-0", "n0")
    await world.checks.at_the_end()
    assert any("result lost after acknowledgement" in problem for problem in world.checks.problems)


async def test_a_disk_that_fills_up_is_seen(world: World) -> None:
    def fill(connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE waste (x BLOB)")
        connection.exec_driver_sql("INSERT INTO waste VALUES (zeroblob(?))", (8 * limits.MIB,))

    _provider(world).disk.run(fill)
    await world.checks.at_the_end()
    assert any("state without bound" in problem for problem in world.checks.problems)


async def test_undone_tasks_are_seen_when_they_were_expected(world: World) -> None:
    expecting = world.scenario.expect.model_copy(update={"tasks_done": 1.0})
    world.scenario = world.scenario.model_copy(update={"expect": expecting})
    await world.checks.at_the_end()
    assert any("expected tasks: 0 of 1 are done" in problem for problem in world.checks.problems)
