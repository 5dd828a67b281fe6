"""What became of the last attempt at an offer is kept for who asks why."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.core.explain import Cause
from golemp2p.core.ids import SubscriptionId
from golemp2p.core.records import RecordKind
from golemp2p.errors import GolemError, UsageError
from golemp2p.market.outcomes import Outcomes
from golemp2p.market.subscriptions import ProposalReceived
from golemp2p.net.memory import MemoryHub
from tests.unit.market.conftest import DEMAND, OFFER, WANT, Node, link, open_node


async def proposal_for(node: Node, kind: RecordKind, subscription: SubscriptionId) -> ProposalReceived:
    [event] = await node.events(kind, subscription)
    assert isinstance(event, ProposalReceived)
    return event


async def test_a_refusal_is_kept_with_the_providers_code(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        offer, demand = await provider.offer(), await requestor.demand()
        first = await proposal_for(requestor, RecordKind.DEMAND, demand)
        await requestor.market.negotiation.counter(RecordKind.DEMAND, demand, first.proposal.id, DEMAND, WANT)
        theirs = await proposal_for(provider, RecordKind.OFFER, offer)
        reason = {"message": "all places are taken", "golem.provider.code": "Busy"}
        await provider.market.negotiation.reject(RecordKind.OFFER, offer, theirs.proposal.id, reason)
        found = requestor.market.negotiation.outcomes.of(offer)
        assert found is not None
        assert (found.cause, found.code, found.message) == (Cause.REFUSED, "Busy", "all places are taken")
        await trio.sleep(limits.OUTCOME_KEEP_S)
        assert requestor.market.negotiation.outcomes.of(offer) is None


async def test_a_provider_that_is_gone_is_unreachable(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        offer, demand = await provider.offer(OFFER), await requestor.demand()
        first = await proposal_for(requestor, RecordKind.DEMAND, demand)
        hub.kill(provider.network.peer_id)
        with pytest.raises(GolemError):
            await requestor.market.negotiation.counter(RecordKind.DEMAND, demand, first.proposal.id, DEMAND, WANT)
        found = requestor.market.negotiation.outcomes.of(offer)
        assert found is not None
        assert found.cause is Cause.UNREACHABLE


def test_outcomes_are_bounded_in_number_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_OUTCOMES", 3)
    outcomes = Outcomes(lambda: 0.0)
    for number in range(9):
        outcomes.failed(SubscriptionId(str(number)), UsageError("x" * 10_000))
    kept = [outcomes.of(SubscriptionId(str(number))) for number in range(9)]
    assert [one is not None for one in kept] == [False] * 6 + [True] * 3
    assert kept[-1] is not None
    assert len(kept[-1].message) == limits.OUTCOME_MAX_CHARS
    outcomes.succeeded(SubscriptionId("8"))
    assert outcomes.of(SubscriptionId("8")) is None
