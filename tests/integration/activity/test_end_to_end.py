"""Requestor's and provider's services over the memory network, with real wasmtime workers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from golemp2p.core.activity import ActivityState, EventKind
from golemp2p.core.ids import ActivityId
from golemp2p.errors import GoneError, UsageError
from tests.integration.activity.harness import Pair, open_pair
from tests.integration.runtimes import wats


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with open_pair(tmp_path) as both:
        yield both


async def create(pair: Pair, tmp_path: Path, program: bytes, **limits: float) -> ActivityId:
    url, _ = await pair.publish(program, tmp_path)
    demand = {f"golem.!exp.golemp2p.limit.{name}": value for name, value in limits.items()}
    return await pair.requestor.service.requestor.create(pair.agree(url, demand=demand), timeout_s=5)


def capture(*commands: dict[str, object]) -> str:
    return json.dumps([{"deploy": {}}, {"start": {}}, *commands])


RUN = {"run": {"entry_point": "main", "args": ["a"], "capture": {"stdout": {"stream": {}}, "stderr": {"stream": {}}}}}


async def test_a_program_is_deployed_run_and_its_output_comes_back(pair: Pair, tmp_path: Path) -> None:
    activity_id = await create(pair, tmp_path, wats.HELLO)
    activity = await pair.requestor.service.requestor.live_activity(activity_id)
    assert activity.state is ActivityState.INITIALIZED
    batch = activity.batch(activity.exec(capture(RUN)))
    results = await batch.results(20)
    assert [r.ok for r in results] == [True, True, True]
    assert (results[2].stdout, results[2].stderr) == ("hello\n", "oops\n")
    assert [r.is_batch_finished for r in results] == [False, False, True]
    assert activity.state is ActivityState.READY
    assert activity.usage[0] > 0
    assert activity.usage[1] > 0
    await activity.destroy(5)
    record = await pair.provider.service.provider.record(activity_id)
    assert record.state is ActivityState.TERMINATED
    assert (await pair.requestor.service.record(activity_id)).state is ActivityState.TERMINATED
    assert list((tmp_path / "p" / "activities").iterdir()) == []
    with pytest.raises(GoneError, match="Terminated"):
        activity.exec(capture(RUN))
