"""What the provider's agent may still hear is bounded."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.ids import ActivityId, AgreementId
from golemp2p.storage import open_storage
from golemp2p.storage.activity import add_agent_event, agent_events_after


async def test_the_oldest_agent_events_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PROVIDER_EVENTS", 3)

    def add(connection: Connection) -> None:
        for number in range(5):
            add_agent_event(connection, 1.0, "CreateActivity", ActivityId(str(number)), AgreementId("a"))

    async with open_storage(None) as storage:
        await storage.run(add)
        found = await storage.run(lambda c: agent_events_after(c, 0, 10))
    assert [e.activity_id for e in found] == ["2", "3", "4"]
