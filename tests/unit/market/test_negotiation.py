from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from golemp2p.core.agreement import AgreementState
from golemp2p.core.ids import AgreementId, ProposalId, SubscriptionId
from golemp2p.core.proposal import ProposalState
from golemp2p.core.records import RecordKind
from golemp2p.errors import ConflictError, DeadlineError, GoneError, NotFoundError, UsageError
from golemp2p.market.subscriptions import AgreementReceived, ProposalReceived, ProposalRejected
from golemp2p.net.memory import MemoryHub

from .conftest import DEMAND, OFFER, WANT, Node, link, open_node

D, O = RecordKind.DEMAND, RecordKind.OFFER  # noqa: E741


async def first_proposal(requestor: Node, demand: SubscriptionId) -> ProposalReceived:
    (event,) = await requestor.events(D, demand)
    assert isinstance(event, ProposalReceived)
    return event


async def negotiate(requestor: Node, provider: Node) -> tuple[SubscriptionId, SubscriptionId, ProposalId]:
    """Offer, demand, counter, counter: the provider's draft that an agreement can be made of."""
    offer = await provider.offer()
    demand = await requestor.demand()
    initial = (await first_proposal(requestor, demand)).proposal
    await requestor.market.negotiation.counter(D, demand, initial.id, {**DEMAND, "extra": 1.0}, WANT)
    (seen,) = await provider.events(O, offer)
    assert isinstance(seen, ProposalReceived)
    await provider.market.negotiation.counter(O, offer, seen.proposal.id, OFFER, "()")
    (answer,) = await requestor.events(D, demand)
    assert isinstance(answer, ProposalReceived)
    return demand, offer, answer.proposal.id


async def agree(requestor: Node, provider: Node) -> AgreementId:
    _, offer, proposal = await negotiate(requestor, provider)
    agreements = requestor.market.agreements
    agreement = await agreements.create(proposal, requestor.now() + 3600)
    await agreements.confirm(agreement, "session")
    (event,) = await provider.events(O, offer)
    assert isinstance(event, AgreementReceived)
    await provider.market.agreements.approve(event.agreement.id, 5)
    await agreements.wait_approved(agreement, 5)
    return agreement


async def test_an_offer_reaches_a_demand_and_becomes_an_agreement_that_both_signed(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        agreement_id = await agree(requestor, provider)
        for node in (requestor, provider):
            agreement = await node.market.agreements.get(agreement_id)
            assert agreement.state is AgreementState.APPROVED
            assert node.market.agreements.verify(agreement) == {"requestor": True, "provider": True}
            assert agreement.demand["extra"] == 1.0
            assert agreement.offer == OFFER
            assert agreement.offer["price"] == [0.0, 0.1, 0.0]


async def test_a_tampered_agreement_does_not_verify(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        agreement = await requestor.market.agreements.get(await agree(requestor, provider))
        forged = replace(agreement, content=agreement.content.replace(b'"extra":1.0', b'"extra":2.0'))
        assert requestor.market.agreements.verify(forged) == {"requestor": False, "provider": False}


async def test_a_late_joiner_knows_all_live_offers_in_a_moment(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as provider, open_node(hub) as relay:
        await link(provider, relay)
        for size in range(20):
            await provider.offer({**OFFER, "size": size})
        gone = await provider.offer({**OFFER, "size": -1})
        await provider.market.unsubscribe(O, gone)
        async with open_node(hub) as late:
            demand = await late.demand()
            await link(late, relay)
            seen: set[object] = set()
            while len(seen) < 20:
                for event in await late.events(D, demand):
                    assert isinstance(event, ProposalReceived)
                    seen.add(event.proposal.terms.properties["size"])
            assert seen == set(range(20))


async def test_a_demand_that_cannot_be_resolved_makes_no_proposal(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        await provider.offer()
        demand = await requestor.demand(constraints="(golem.no.such.property=1)")
        assert await requestor.events(D, demand, 30) == []


async def test_a_proposal_is_answered_once(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        await provider.offer()
        demand = await requestor.demand()
        initial = (await first_proposal(requestor, demand)).proposal
        mine = await requestor.market.negotiation.counter(D, demand, initial.id, DEMAND, WANT)
        with pytest.raises(GoneError, match="answered already"):
            await requestor.market.negotiation.counter(D, demand, initial.id, DEMAND, WANT)
        with pytest.raises(UsageError, match="your own"):
            await requestor.market.negotiation.counter(D, demand, mine, DEMAND, WANT)
        with pytest.raises(UsageError, match="no answer of a provider"):
            await requestor.market.agreements.create(initial.id, requestor.now() + 3600)


async def test_a_counter_that_does_not_match_names_the_clause(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        await provider.offer()
        demand = await requestor.demand()
        initial = (await first_proposal(requestor, demand)).proposal
        with pytest.raises(UsageError, match=r"\(golem.inf.mem.gib>=64\) is false"):
            await requestor.market.negotiation.counter(D, demand, initial.id, DEMAND, "(golem.inf.mem.gib>=64)")


async def test_a_rejection_reaches_the_other_side_with_its_reason(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        offer = await provider.offer()
        demand = await requestor.demand()
        initial = (await first_proposal(requestor, demand)).proposal
        mine = await requestor.market.negotiation.counter(D, demand, initial.id, DEMAND, WANT)
        (seen,) = await provider.events(O, offer)
        assert isinstance(seen, ProposalReceived)
        await provider.market.negotiation.reject(O, offer, seen.proposal.id, {"message": "too cheap"})
        (event,) = await requestor.events(D, demand)
        assert isinstance(event, ProposalRejected)
        assert (event.proposal_id, event.reason) == (mine, {"message": "too cheap"})
        assert requestor.market.negotiation.find(mine).state is ProposalState.REJECTED


async def test_who_rejected_a_proposal_may_still_counter_it(hub: MemoryHub, autojump_clock: MockClock) -> None:
    """As in yagna; yapapi's own test of renegotiation rejects a draft and counters it then."""
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        offer = await provider.offer()
        demand = await requestor.demand()
        initial = (await first_proposal(requestor, demand)).proposal
        theirs = requestor.market.negotiation
        await theirs.reject(D, demand, initial.id, {"message": "not yet"})
        await theirs.counter(D, demand, initial.id, DEMAND, WANT)
        (seen,) = await provider.events(O, offer)
        assert isinstance(seen, ProposalReceived)
        answer = await provider.market.negotiation.counter(O, offer, seen.proposal.id, OFFER, "()")
        (draft,) = await requestor.events(D, demand)
        assert isinstance(draft, ProposalReceived)
        await theirs.reject(D, demand, draft.proposal.id, {"message": "too dear"})
        (told,) = await provider.events(O, offer)
        assert isinstance(told, ProposalRejected)
        with pytest.raises(UsageError):
            await requestor.market.agreements.create(draft.proposal.id, requestor.now() + 3600)
        await theirs.counter(D, demand, draft.proposal.id, DEMAND, WANT)
        (again,) = await provider.events(O, offer)
        assert isinstance(again, ProposalReceived)
        assert again.proposal.previous == answer
        with pytest.raises(GoneError, match="answered already"):
            await theirs.counter(D, demand, draft.proposal.id, DEMAND, WANT)


async def test_a_providers_answer_outlives_its_demand_and_can_still_become_an_agreement(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    """golem-js's step-by-step example ends its demand before it proposes the agreement."""
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        demand, offer, proposal = await negotiate(requestor, provider)
        await requestor.market.unsubscribe(D, demand)
        assert requestor.market.negotiation.get(demand, proposal).state is ProposalState.DRAFT
        agreement = await requestor.market.agreements.create(proposal, requestor.now() + 3600)
        await requestor.market.agreements.confirm(agreement, None)
        (event,) = await provider.events(O, offer)
        assert isinstance(event, AgreementReceived)
        await provider.market.agreements.approve(event.agreement.id, 5)
        await requestor.market.agreements.wait_approved(agreement, 5)


async def test_an_agreement_is_made_once_of_a_proposal(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        _, _, proposal = await negotiate(requestor, provider)
        await requestor.market.agreements.create(proposal, requestor.now() + 3600)
        with pytest.raises(ConflictError):
            await requestor.market.agreements.create(proposal, requestor.now() + 3600)


async def test_a_provider_may_reject_an_agreement_and_the_pair_may_start_over(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        demand, offer, proposal = await negotiate(requestor, provider)
        agreement = await requestor.market.agreements.create(proposal, requestor.now() + 3600)
        await requestor.market.agreements.confirm(agreement, None)
        (event,) = await provider.events(O, offer)
        assert isinstance(event, AgreementReceived)
        await provider.market.agreements.reject(agreement, {"message": "busy"})
        with pytest.raises(GoneError, match="Rejected"):
            await requestor.market.agreements.wait_approved(agreement, 5)
        assert (await first_proposal(requestor, demand)).proposal.state is ProposalState.INITIAL


async def test_termination_is_final_here_at_once_and_delivered_when_the_peer_is_back(
    hub: MemoryHub, autojump_clock: MockClock
) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        agreement = await agree(requestor, provider)
        hub.partition([requestor.key.peer_id], [provider.key.peer_id])
        await requestor.market.agreements.terminate(agreement, {"message": "done", "golem.requestor.code": "Success"})
        assert (await requestor.market.agreements.get(agreement)).state is AgreementState.TERMINATED
        with pytest.raises(GoneError):
            await requestor.market.agreements.terminate(agreement, {"message": "again"})
        assert (await provider.market.agreements.get(agreement)).state is AgreementState.APPROVED
        hub.heal()
        await link(requestor, provider)
        news = await provider.market.agreements.events(0, None, 300, 10)
        while news[-1].event != "AgreementTerminatedEvent":
            news += await provider.market.agreements.events(news[-1].moment, None, 300, 10)
        assert news[-1].terminator == "Requestor"
        assert news[-1].reason == {"message": "done", "golem.requestor.code": "Success"}
        moments = [n.moment for n in news]
        assert moments == sorted(set(moments))


async def test_an_unanswered_agreement_is_cancelled(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor, open_node(hub) as provider:
        await link(requestor, provider)
        _, _, proposal = await negotiate(requestor, provider)
        agreement = await requestor.market.agreements.create(proposal, requestor.now() + 3600)
        await requestor.market.agreements.confirm(agreement, None)
        with pytest.raises(DeadlineError):
            await requestor.market.agreements.wait_approved(agreement, 1)
        with pytest.raises(GoneError, match="Cancelled"):
            await requestor.market.agreements.wait_approved(agreement, 200)
        with pytest.raises(GoneError):
            await provider.market.agreements.approve(agreement, 5)


async def test_a_withdrawn_demand_is_gone_for_those_who_wait(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as requestor:
        demand = await requestor.demand()
        await requestor.market.unsubscribe(D, demand)
        with pytest.raises(NotFoundError):
            await requestor.events(D, demand)
        with pytest.raises(GoneError):
            await requestor.market.unsubscribe(D, demand)


async def test_offers_are_renewed_before_they_expire(hub: MemoryHub, autojump_clock: MockClock) -> None:
    async with open_node(hub) as provider, open_node(hub) as other:
        await link(provider, other)
        offer = await provider.offer()
        await trio.sleep(4 * 3600)
        assert other.market.book.get(offer, other.now()) is not None
