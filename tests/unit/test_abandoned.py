"""Agreements of agents that went away, in virtual time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.abandoned import ACCEPT_TIMEOUT, REASON, allowed_silence_s, end_abandoned, end_silent_demands
from golemp2p.activity.service import ActivityService
from golemp2p.api.presence import Presence
from golemp2p.core.agreement import Agreement, Role
from golemp2p.core.ids import AgreementId
from golemp2p.core.records import RecordKind
from golemp2p.errors import GoneError
from golemp2p.identity.keys import NodeKey
from golemp2p.market.agreements import Agreements
from tests.unit.activity.test_transfers import AGREEMENT

MINE = replace(
    AGREEMENT,
    role=Role.REQUESTOR,
    provider=NodeKey.generate().peer_id,
    created_at=0.0,
    approved_at=0.0,
    session_id="app",
    demand={**AGREEMENT.demand, ACCEPT_TIMEOUT: 120},
)


@dataclass
class Book:
    open: dict[AgreementId, Agreement]
    ended: dict[AgreementId, float] = field(default_factory=dict)

    def approved(self, role: Role) -> list[Agreement]:
        return [a for a in self.open.values() if a.role is role]

    async def terminate(self, agreement_id: AgreementId, reason: Mapping[str, object]) -> None:
        assert reason == REASON
        if agreement_id not in self.open:
            raise GoneError("it has ended")
        del self.open[agreement_id]
        self.ended[agreement_id] = trio.current_time()


class World:
    def __init__(self, *agreements: Agreement) -> None:
        self.book = Book({a.id: a for a in agreements})
        self.presence = Presence(trio.current_time)
        self.clock_offset_s = 0.0
        activities: Any = SimpleNamespace(
            requestor=SimpleNamespace(of_agreement=lambda a: [SimpleNamespace(id=f"act-{a}")])
        )
        self.watch = partial(
            end_abandoned,
            cast(Agreements, self.book),
            cast(ActivityService, activities),
            self.presence,
            clock=lambda: trio.current_time() + self.clock_offset_s,
            places_of=lambda node: [("net", "10.0.0.2")] if node == MINE.provider_address else [],
            documents_of=self._documents_of,
        )

    async def _documents_of(self, agreement_id: AgreementId) -> list[str]:
        return [f"note-of-{agreement_id}"]

    def call(self, path: str, query: str = "") -> None:
        with self.presence.call(path, query):
            pass


async def test_an_agreement_ends_after_the_silence_that_was_agreed(autojump_clock: MockClock) -> None:
    world = World(MINE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.watch)
        await trio.sleep(60)
        world.call(f"/activity-api/v1/activity/act-{MINE.id}/state")
        await trio.sleep(300)
        nursery.cancel_scope.cancel()
    assert 180 <= world.book.ended[MINE.id] <= 180 + 2 * limits.AGENT_CHECK_S


async def test_asking_for_the_sessions_events_keeps_its_agreements_and_no_others(autojump_clock: MockClock) -> None:
    other = replace(MINE, id=AgreementId("other"), session_id="other")
    world = World(MINE, other)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.watch)
        for _ in range(100):
            await trio.sleep(5)
            world.call("/payment-api/v1/invoiceEvents", "appSessionId=app")
        nursery.cancel_scope.cancel()
    assert list(world.book.ended) == [other.id]


async def test_polls_of_another_program_without_a_session_keep_nothing(autojump_clock: MockClock) -> None:
    """yapapi names no session: two of its programs cannot be told apart by their polls."""
    gone = replace(MINE, session_id=None)
    working = replace(gone, id=AgreementId("working"))
    world = World(gone, working)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.watch)
        for _ in range(150):
            await trio.sleep(5)
            world.call("/payment-api/v1/invoiceEvents")
            world.call(f"/activity-api/v1/activity/act-{working.id}/state")
        nursery.cancel_scope.cancel()
    assert list(world.book.ended) == [gone.id]
    allowed_s = 120 + limits.USUAL_NOTE_INTERVAL_S
    assert allowed_s <= world.book.ended[gone.id] <= allowed_s + 2 * limits.AGENT_CHECK_S


async def test_a_long_call_is_no_silence(autojump_clock: MockClock) -> None:
    world = World(MINE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.watch)
        with world.presence.call(f"/activity-api/v1/activity/act-{MINE.id}/exec/1", ""):
            await trio.sleep(1000)
        nursery.cancel_scope.cancel()
    assert not world.book.ended


async def test_a_demand_that_nobody_asks_about_is_withdrawn(autojump_clock: MockClock) -> None:
    asked, silent = (SimpleNamespace(id=name, owner="app", created_at=0.0) for name in ("asked", "silent"))
    own, withdrawn = {"asked": asked, "silent": silent}, {}

    async def unsubscribe(kind: RecordKind, demand: str) -> None:
        assert kind is RecordKind.DEMAND
        del own[demand]
        withdrawn[demand] = trio.current_time()

    market: Any = SimpleNamespace(
        subscriptions=SimpleNamespace(all=lambda kind: list(own.values())), unsubscribe=unsubscribe
    )
    presence = Presence(trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_silent_demands, market, presence, trio.current_time)
        for _ in range(400):
            await trio.sleep(5)
            with presence.call("/market-api/v1/demands/asked/events", "timeout=5"):
                pass
        nursery.cancel_scope.cancel()
    assert list(withdrawn) == ["silent"]
    assert limits.DEMAND_SILENCE_S <= withdrawn["silent"] <= limits.DEMAND_SILENCE_S * 1.2


@pytest.mark.parametrize(
    "path",
    [
        f"/payment-api/v1/debitNotes/note-of-{MINE.id}/accept",
        f"/payment-api/v1/invoices/note-of-{MINE.id}/reject",
        "/net-api/v1/net/net/tcp/10.0.0.2/80",
        "/net-api/v2/vpn/net/net/tcp/10.0.0.2/80",
    ],
)
async def test_who_answers_debit_notes_or_talks_to_the_activity_is_there(path: str, autojump_clock: MockClock) -> None:
    world = World(MINE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.watch)
        for _ in range(10):
            await trio.sleep(100)
            world.call(path)
        assert not world.book.ended
        await trio.sleep(200)
        nursery.cancel_scope.cancel()
    assert list(world.book.ended) == [MINE.id]


async def test_a_jump_of_the_clock_is_nobodys_silence(autojump_clock: MockClock) -> None:
    world = World(MINE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.watch)
        for _ in range(20):
            await trio.sleep(3)
            world.call(f"/activity-api/v1/activity/act-{MINE.id}/state")
            world.clock_offset_s = 3 * 3600.0
        nursery.cancel_scope.cancel()
    assert not world.book.ended


async def test_what_we_provide_is_left_alone(autojump_clock: MockClock) -> None:
    world = World(replace(MINE, role=Role.PROVIDER))
    with trio.move_on_after(1000):
        await world.watch()
    assert not world.book.ended


@pytest.mark.parametrize(
    ("demand", "offer", "seconds"),
    [
        ({ACCEPT_TIMEOUT: 120}, {ACCEPT_TIMEOUT: 240}, 120.0),
        ({}, {ACCEPT_TIMEOUT: 200}, 200.0),
        ({}, {}, limits.AGENT_SILENCE_S),
        ({ACCEPT_TIMEOUT: 5}, {}, limits.MIN_AGENT_SILENCE_S),
        ({ACCEPT_TIMEOUT: "soon"}, {}, limits.AGENT_SILENCE_S),
    ],
)
def test_the_silence_is_the_agreed_accept_timeout(demand: Any, offer: Any, seconds: float) -> None:
    assert allowed_silence_s(replace(MINE, demand=demand, offer=offer)) == seconds
