"""What is known after a node was killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from golemp2p import limits
from golemp2p.activity.provider import ActivityEnded
from golemp2p.activity.service import ActivityService
from golemp2p.core.activity import ActivityState
from golemp2p.core.agreement import Role
from golemp2p.identity.keys import NodeKey
from golemp2p.net.memory import MemoryHub
from golemp2p.runtimes.wasm.runtime import WasmRuntime
from golemp2p.storage.activity import ActivityRecord, get_activity, put_activity
from golemp2p.storage.engine import open_storage
from tests.integration.activity.harness import Pair, open_node
from tests.integration.runtimes import wats


async def test_the_requestor_is_told_that_the_provider_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ACTIVITY_HEARTBEAT_S", 0.3)
    hub, key = MemoryHub(), NodeKey.generate()
    runtimes = {"wasmtime": WasmRuntime(tmp_path / "cache")}
    database, ended = tmp_path / "p.db", []

    async def listener(end: ActivityEnded) -> None:
        ended.append(end)

    def configure(service: ActivityService) -> None:
        service.add_end_listener(listener)

    async with open_node(hub, tmp_path / "r", {}) as requestor:
        async with open_node(hub, tmp_path / "p", runtimes, key=key, database=database) as provider:
            pair = Pair(hub, requestor, provider)
            await requestor.network.connect(provider.network.addresses()[0])
            url, _ = await pair.publish(wats.HELLO, tmp_path)
            agreement_id = pair.agree(url)
            activity_id = await requestor.service.requestor.create(agreement_id, timeout_s=30)
            agreements = provider.agreements
        # A kill leaves the last stored state, not a farewell.
        async with open_storage(database) as storage:
            record = await storage.run(lambda c: get_activity(c, activity_id, Role.PROVIDER))
            assert record is not None
            crashed = ActivityRecord(
                record.id,
                record.role,
                record.agreement_id,
                record.peer,
                ActivityState.READY,
                record.created_at,
                usage=(5.0, 1.0, 0.5),
            )
            await storage.run(lambda c: put_activity(c, crashed))
        (tmp_path / "p" / "activities" / activity_id).mkdir()
        async with open_node(
            hub,
            tmp_path / "p",
            runtimes,
            key=key,
            database=database,
            agreements=agreements,
            configure=configure,
        ) as provider:
            assert [(e.activity_id, e.reason, e.usage) for e in ended] == [
                (activity_id, "provider restarted", (5.0, 1.0, 0.5))
            ]
            assert list((tmp_path / "p" / "activities").iterdir()) == []
            await requestor.network.connect(provider.network.addresses()[0])
            activity = await requestor.service.requestor.live_activity(activity_id)
            with trio.fail_after(15):
                await activity.over.wait()
            assert activity.state is ActivityState.TERMINATED
            assert activity.reason in ("provider restarted", "the provider is shutting down")
