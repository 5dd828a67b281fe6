"""No more providers are hired than the budget can pay for a while."""

from __future__ import annotations

import anyio
import pytest
import trio.testing

from golemp2p.sdk import Golem
from tests.unit.sdk.fake import Provider, make_node
from tests.unit.sdk.test_jobs import PAYLOAD, echo, worker


def test_a_small_budget_hires_fewer_than_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    node = make_node([Provider(name, takes_s=0.5) for name in "abcd"], echo)
    monkeypatch.setattr("golemp2p.sdk.golem.connect", node.connect)

    async def main() -> None:
        async with Golem(budget="0.02", app_key="k", subnet="public") as golem:
            found = [r async for r in golem.execute_tasks(worker, range(6), payload=PAYLOAD, max_workers=4)]
            assert all(r.ok for r in found)
            await golem.finish()
            assert 0 < float(golem.cost) <= 0.02
        assert node.busiest <= 2

    clock = trio.testing.MockClock(autojump_threshold=0)
    anyio.run(main, backend="trio", backend_options={"clock": clock})
