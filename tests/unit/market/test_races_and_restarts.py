"""Words that cross, get lost, or come after a SIGKILL: both sides end up with one story."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.core.agreement import AgreementState
from golemp2p.core.ids import AgreementId, SubscriptionId
from golemp2p.errors import DeadlineError, GolemError, GoneError
from golemp2p.identity import NodeKey
from golemp2p.market.subscriptions import AgreementReceived
from golemp2p.net.memory import MemoryHub
from golemp2p.storage import Storage, open_storage
from golemp2p.storage.market import undelivered
from golemp2p.wire.p2p.market import PROTOCOL

from .conftest import Node, link, open_node
from .test_negotiation import O, agree, first_proposal, negotiate

S = AgreementState


async def pending(requestor: Node, provider: Node) -> tuple[AgreementId, SubscriptionId]:
    """Confirmed by the requestor, seen by the provider's agent."""
    _, offer, proposal = await negotiate(requestor, provider)
    agreement = await requestor.market.agreements.create(proposal, requestor.now() + 3600)
    await requestor.market.agreements.confirm(agreement, None)
    (event,) = await provider.events(O, offer)
    assert isinstance(event, AgreementReceived)
    return agreement, offer


async def state(node: Node, agreement: AgreementId) -> AgreementState:
    return (await node.market.agreements.get(agreement)).state


async def until(node: Node, agreement: AgreementId, wanted: AgreementState, within_s: float = 300) -> None:
    with trio.fail_after(within_s):
        after = 0
        while await state(node, agreement) is not wanted:
            news = await node.market.agreements.events(after, None, within_s, 100)
            after = news[-1].moment if news else after


def lose_answers(node: Node, method: str, times: int) -> None:
    """``node`` does what ``method`` asks, but its answer does not arrive."""
    server = node.market.sync._rpc._servers[PROTOCOL]
    real, left = server._methods[method], [times]

    async def handler(peer: Any, body: Any) -> object:
        result = await real(peer, body)
        if left[0]:
            left[0] -= 1
            await trio.sleep_forever()
        return result

    server._methods[method] = handler


async def attempt(outcomes: list[str], name: str, call: Any, *args: Any) -> None:
    try:
        await call(*args)
    except GolemError as exc:
        outcomes.append(f"{name}: {type(exc).__name__}")
    else:
        outcomes.append(name)


async def test_of_two_confirmations_one_counts(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        _, offer, proposal = await negotiate(requestor, provider)
        agreements = requestor.market.agreements
        agreement = await agreements.create(proposal, requestor.now() + 3600)
        outcomes: list[str] = []
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(attempt, outcomes, "confirm", agreements.confirm, agreement, None)
        assert sorted(outcomes) == ["confirm", "confirm: GoneError"]
        assert len(await provider.events(O, offer, 1)) == 1
        assert not agreements._locks


@pytest.mark.parametrize("order", [("approve", "cancel"), ("cancel", "approve")])
async def test_approval_against_cancellation_ends_the_same_on_both_sides(
    hub: MemoryHub, autojump_clock: MockClock, order: tuple[str, str]
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        agreement, _ = await pending(requestor, provider)
        outcomes: list[str] = []
        async with trio.open_nursery() as nursery:
            for name in order:
                if name == "approve":
                    nursery.start_soon(attempt, outcomes, name, provider.market.agreements.approve, agreement, 5)
                else:
                    reason = {"message": "changed my mind"}
                    nursery.start_soon(attempt, outcomes, name, requestor.market.agreements.cancel, agreement, reason)
        await trio.sleep(10)
        assert await state(requestor, agreement) is await state(provider, agreement)
        assert len([o for o in outcomes if ":" not in o]) == 1, outcomes


@pytest.mark.parametrize("order", [("approve", "reject"), ("reject", "approve")])
async def test_approval_against_rejection_ends_the_same_on_both_sides(
    hub: MemoryHub, autojump_clock: MockClock, order: tuple[str, str]
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        agreement, _ = await pending(requestor, provider)
        mine = provider.market.agreements
        outcomes: list[str] = []
        async with trio.open_nursery() as nursery:
            for name in order:
                args = (agreement, 5) if name == "approve" else (agreement, {"message": "no"})
                nursery.start_soon(attempt, outcomes, name, getattr(mine, name), *args)
        await trio.sleep(10)
        assert await state(requestor, agreement) is await state(provider, agreement)
        assert len([o for o in outcomes if ":" not in o]) == 1, outcomes


async def test_two_approvals_at_once_are_one(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        agreement, _ = await pending(requestor, provider)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(provider.market.agreements.approve, agreement, 5)
        news = await requestor.market.agreements.events(0, None, 0, 100)
        assert [n.event for n in news] == ["AgreementApprovedEvent"]


async def test_both_terminate_at_once_and_each_end_stands(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        agreement = await agree(requestor, provider)
        async with trio.open_nursery() as nursery:
            for node in (requestor, provider):
                nursery.start_soon(node.market.agreements.terminate, agreement, {"message": "mine"})
        await trio.sleep(10)
        for node, who in ((requestor, "Requestor"), (provider, "Provider")):
            ended = await node.market.agreements.get(agreement)
            assert (ended.state, ended.terminator) == (S.TERMINATED, who)
            assert len([n for n in await node.market.agreements.events(0, None, 0, 100) if "Term" in n.event]) == 1
        assert await requestor.market.delivery._storage.run(_undelivered) == 0


def _undelivered(connection: Any) -> int:
    return len(undelivered(connection))


async def test_a_lost_acknowledgement_of_an_approval_is_fetched_again(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        agreement, _ = await pending(requestor, provider)
        lose_answers(requestor, "approve", 1)
        with pytest.raises(DeadlineError, match="not reached"):
            await provider.market.agreements.approve(agreement, 5)
        assert await state(requestor, agreement) is S.APPROVED
        assert await state(provider, agreement) is S.PENDING
        await until(provider, agreement, S.APPROVED, 60)


async def test_an_approval_lost_and_then_terminated_ends_terminated_on_both_sides(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        agreement, _ = await pending(requestor, provider)
        lose_answers(requestor, "approve", 1)
        with pytest.raises(DeadlineError):
            await provider.market.agreements.approve(agreement, 1)
        await requestor.market.agreements.terminate(agreement, {"message": "done"})
        await until(provider, agreement, S.TERMINATED)
        news = await provider.market.agreements.events(0, None, 0, 100)
        assert [n.event for n in news] == ["AgreementApprovedEvent", "AgreementTerminatedEvent"]


async def test_a_lost_acknowledgement_of_the_agreement_takes_it_back_on_both_sides(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        lose_answers(provider, "agree", 1)
        _, _, proposal = await negotiate(requestor, provider)
        agreement = await requestor.market.agreements.create(proposal, requestor.now() + 3600)
        with pytest.raises(DeadlineError):
            await requestor.market.agreements.confirm(agreement, None)
        assert await state(requestor, agreement) is S.CANCELLED
        await until(provider, agreement, S.CANCELLED)


async def test_an_answer_faster_than_the_acknowledgement_counts(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        lose_answers(provider, "agree", 1)
        _, offer, proposal = await negotiate(requestor, provider)
        agreement = await requestor.market.agreements.create(proposal, requestor.now() + 3600)

        async def approve_at_once() -> None:
            (event,) = await provider.events(O, offer)
            assert isinstance(event, AgreementReceived)
            await provider.market.agreements.approve(agreement, 5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(approve_at_once)
            await requestor.market.agreements.confirm(agreement, None)
        assert await state(requestor, agreement) is await state(provider, agreement) is S.APPROVED


async def test_a_caller_that_gives_up_leaves_disk_and_memory_alike(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        agreement = await agree(requestor, provider)
        with trio.CancelScope() as scope:
            scope.cancel()
            await provider.market.agreements.terminate(agreement, {"message": "x"})
        in_memory = await state(provider, agreement)
        (on_disk,) = await provider.market.agreements.all()
        assert in_memory is on_disk.state
        assert not provider.market.agreements._locks


async def test_a_word_to_a_dead_peer_does_not_hold_up_the_others(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as slow, open_node(hub) as quick:
        await link(requestor, slow)
        first = await agree(requestor, slow)
        async with open_node(hub) as other:
            await link(other, quick)
            second = await agree(other, quick)
            lose_answers(slow, "terminate", 1_000)
            await requestor.market.agreements.terminate(first, {"message": "x"})
            await trio.sleep(0.5)
            await other.market.agreements.terminate(second, {"message": "x"})
            await until(quick, second, S.TERMINATED, 2)


# --- restarts ---


@asynccontextmanager
async def lives(hub: MemoryHub, key: NodeKey, stored: Storage) -> AsyncIterator[Node]:
    """One life of a node; leaving it is as SIGKILL for the peers: nothing is withdrawn. Its database stays."""
    async with open_node(hub, key, stored) as node:
        yield node
        hub.kill(key.peer_id)


@pytest.fixture
async def disk() -> AsyncIterator[Storage]:
    async with open_storage(None) as storage:
        yield storage


@pytest.fixture
async def other_disk() -> AsyncIterator[Storage]:
    async with open_storage(None) as storage:
        yield storage


async def test_an_approved_agreement_survives_the_restart_of_both(
    hub: MemoryHub, autojump_clock: MockClock, disk: Storage, other_disk: Storage
) -> None:
    keys = [NodeKey.generate(), NodeKey.generate()]
    async with (
        lives(hub, keys[0], disk) as requestor,
        lives(hub, keys[1], other_disk) as provider,
    ):
        await link(requestor, provider)
        agreement = await agree(requestor, provider)
        before = [await n.market.agreements.get(agreement) for n in (requestor, provider)]
    async with (
        lives(hub, keys[0], disk) as requestor,
        lives(hub, keys[1], other_disk) as provider,
    ):
        after = [await n.market.agreements.get(agreement) for n in (requestor, provider)]
        assert after == before
        assert requestor.market.agreements.verify(after[0]) == {"requestor": True, "provider": True}
        await link(requestor, provider)
        await requestor.market.agreements.terminate(agreement, {"message": "x"})
        await until(provider, agreement, S.TERMINATED)


async def test_an_end_that_could_not_be_told_is_told_by_the_next_life(
    hub: MemoryHub, autojump_clock: MockClock, disk: Storage
) -> None:
    key = NodeKey.generate()
    async with open_node(hub) as provider:
        async with lives(hub, key, disk) as requestor:
            await link(requestor, provider)
            agreement = await agree(requestor, provider)
            hub.partition([key.peer_id], [provider.key.peer_id])
            await requestor.market.agreements.terminate(agreement, {"message": "x"})
        hub.heal()
        assert await state(provider, agreement) is S.APPROVED
        async with lives(hub, key, disk) as requestor:
            await link(requestor, provider)
            await until(provider, agreement, S.TERMINATED)


async def test_an_approval_under_way_is_carried_on_by_the_next_life(
    hub: MemoryHub, autojump_clock: MockClock, disk: Storage
) -> None:
    key = NodeKey.generate()
    async with open_node(hub) as requestor:
        async with lives(hub, key, disk) as provider:
            await link(requestor, provider)
            agreement, _ = await pending(requestor, provider)
            hub.partition([key.peer_id], [requestor.key.peer_id])
            with pytest.raises(DeadlineError):
                await provider.market.agreements.approve(agreement, 1)
        hub.heal()
        async with lives(hub, key, disk) as provider:
            await link(requestor, provider)
            await until(requestor, agreement, S.APPROVED, 50)
            await until(provider, agreement, S.APPROVED, 50)


async def test_a_confirmed_agreement_of_a_former_life_is_approved_or_cancelled_but_never_hangs(
    hub: MemoryHub, autojump_clock: MockClock, disk: Storage
) -> None:
    key = NodeKey.generate()
    async with open_node(hub) as provider:
        async with lives(hub, key, disk) as requestor:
            await link(requestor, provider)
            agreement, _ = await pending(requestor, provider)
        async with lives(hub, key, disk) as requestor:
            await link(requestor, provider)
            assert await state(requestor, agreement) is S.PENDING
            await until(requestor, agreement, S.CANCELLED, 2 * limits.AGREEMENT_APPROVE_TIMEOUT_S)
            await until(provider, agreement, S.CANCELLED)


async def test_a_proposal_of_a_former_life_cannot_be_confirmed(
    hub: MemoryHub, autojump_clock: MockClock, disk: Storage
) -> None:
    key = NodeKey.generate()
    async with open_node(hub) as provider:
        async with lives(hub, key, disk) as requestor:
            await link(requestor, provider)
            _, _, proposal = await negotiate(requestor, provider)
            agreement = await requestor.market.agreements.create(proposal, requestor.now() + 30)
        async with lives(hub, key, disk) as requestor:
            with pytest.raises(GoneError, match="restarted"):
                await requestor.market.agreements.confirm(agreement, None)
            await until(requestor, agreement, S.EXPIRED, 60)


async def test_offers_of_a_former_life_are_withdrawn(hub: MemoryHub, autojump_clock: MockClock, disk: Storage) -> None:
    key = NodeKey.generate()
    async with open_node(hub) as other:
        async with lives(hub, key, disk) as provider:
            await link(provider, other)
            offer = await provider.offer()
            demand = await other.demand()
            await first_proposal(other, demand)
        assert other.market.book.get(offer, other.now()) is not None
        async with lives(hub, key, disk) as provider:
            await link(provider, other)
            await trio.sleep(2)
            assert other.market.book.get(offer, other.now()) is None
