from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.core.activity import ACTIVITY, BATCH
from golemp2p.core.agreement import AGREEMENT, AgreementEvent
from golemp2p.core.machine import ImpossibleEventError, Machine
from golemp2p.core.payment import ALLOCATION, DOCUMENT, SLOT
from golemp2p.core.proposal import PROPOSAL, ProposalEvent, ProposalState

MACHINES: list[Machine[Any, Any]] = [PROPOSAL, AGREEMENT, ACTIVITY, BATCH, ALLOCATION, DOCUMENT, SLOT]
each = pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)


@each
@given(data=st.data())
def test_a_random_walk_stays_in_the_table_and_ends_in_final_states(machine: Machine[Any, Any], data: Any) -> None:
    events = sorted({event for _, event in machine.table})
    state = machine.initial
    for event in data.draw(st.lists(st.sampled_from(events), max_size=20)):
        if machine.can(state, event):
            state = machine.next(state, event)
        else:
            with pytest.raises(ImpossibleEventError, match="not possible now") as caught:
                machine.next(state, event)
            assert (caught.value.state, caught.value.event) == (state, event)
        if state in machine.final:
            assert not any(machine.can(state, event) for event in events)


@each
def test_every_state_can_be_reached_and_can_end(machine: Machine[Any, Any]) -> None:
    states = {machine.initial} | {s for s, _ in machine.table} | set(machine.table.values())

    def reachable(sources: set[Any]) -> set[Any]:
        found = set(sources)
        while more := {t for (s, _), t in machine.table.items() if s in found} - found:
            found |= more
        return found

    starts = (
        {machine.initial, ProposalState.DRAFT} if machine is PROPOSAL else {machine.initial}
    )  # a counter is a draft
    assert reachable(starts) == states
    assert machine.final
    assert all(reachable({state}) & machine.final for state in states)


def test_what_is_decided_about_an_agreement_stays_decided() -> None:
    assert {s.value for s in AGREEMENT.final} == {"Rejected", "Cancelled", "Expired", "Terminated"}
    assert {e for s, e in AGREEMENT.table if s == "Approved"} == {AgreementEvent.TERMINATE}


def test_a_proposal_is_countered_once_and_only_a_draft_is_accepted() -> None:
    assert [s.value for s, e in PROPOSAL.table if e is ProposalEvent.ACCEPT] == ["Draft"]
    assert PROPOSAL.final >= {PROPOSAL.next(s, e) for s, e in PROPOSAL.table if e is ProposalEvent.COUNTER}


def test_the_market_document_shows_the_tables() -> None:
    document = (Path(__file__).parents[3] / "protocols" / "market.md").read_text()
    assert PROPOSAL.diagram() in document
    assert AGREEMENT.diagram() in document
