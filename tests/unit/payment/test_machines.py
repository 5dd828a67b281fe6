"""The tables of allocations, documents and slots."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

from golemp2p.core.machine import ImpossibleEventError, Machine
from golemp2p.core.payment import (
    ALLOCATION,
    DOCUMENT,
    SLOT,
    AllocationState,
    DocumentEvent,
    DocumentState,
    SlotEvent,
    SlotState,
)


@pytest.mark.parametrize(
    ("machine", "states"),
    [(ALLOCATION, AllocationState), (DOCUMENT, DocumentState), (SLOT, SlotState)],
    ids=["allocation", "document", "slot"],
)
def test_every_state_of_a_table_is_reached_from_its_first(machine: Machine[Any, Any], states: type[StrEnum]) -> None:
    reached = {machine.initial}
    for _ in machine.table:
        reached |= {target for (source, _), target in machine.table.items() if source in reached}
    assert reached == set(states)


def test_a_paid_or_accepted_document_cannot_be_rejected() -> None:
    for state in (DocumentState.ACCEPTED, DocumentState.SETTLED, DocumentState.FAILED):
        with pytest.raises(ImpossibleEventError, match=f"document is {state}: reject is not possible now"):
            DOCUMENT.next(state, DocumentEvent.REJECT)


def test_a_slot_lets_go_only_when_reverted_or_when_its_nonce_is_lost() -> None:
    assert SLOT.final == {SlotState.FINAL, SlotState.FAILED, SlotState.FOREIGN}
    ways_out = {event for (_, event), target in SLOT.table.items() if target in (SlotState.FAILED, SlotState.FOREIGN)}
    assert ways_out == {SlotEvent.REVERT, SlotEvent.LOSE_NONCE}


def test_nothing_is_mined_before_it_is_sent() -> None:
    with pytest.raises(ImpossibleEventError):
        SLOT.next(SlotState.SIGNED, SlotEvent.MINE)
