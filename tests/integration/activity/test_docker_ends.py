"""Ends of activities in the middle of everything, with containers: nothing of them is left, and the requestor knows."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from golemp2p.activity.remote import RemoteActivity
from golemp2p.core.activity import EventKind
from golemp2p.core.ids import ActivityId
from golemp2p.net.memory import MemoryHub
from golemp2p.runtimes.docker.runtime import DockerRuntime, DockerSettings
from tests.engine import Engine
from tests.integration.activity.harness import Pair, open_node
from tests.integration.runtimes.busybox import make_rootfs, make_squashfs

LOOP: Mapping[str, object] = {
    "run": {"entry_point": "tick-loop", "args": [], "capture": {"stdout": {"stream": {}}, "stderr": {"stream": {}}}}
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("busybox")
    return make_squashfs(make_rootfs(directory / "root"), directory / "image").read_bytes()


class Vm:
    """A requestor, and a provider with containers."""

    def __init__(self, pair: Pair, runtime: DockerRuntime, work_root: Path, url: str) -> None:
        self.pair, self.runtime, self.work_root, self.url = pair, runtime, work_root, url

    async def create(self) -> tuple[ActivityId, RemoteActivity]:
        agreement_id = self.pair.agree(self.url)
        for node in (self.pair.requestor, self.pair.provider):
            known = node.agreements[agreement_id]
            offer = {**known.offer, **self.runtime.offer_properties()}
            node.agreements[agreement_id] = replace(known, offer=offer)  # type: ignore[arg-type] # lists of text
        activity_id = await self.pair.requestor.service.requestor.create(agreement_id, timeout_s=30)
        return activity_id, await self.pair.requestor.service.requestor.live_activity(activity_id)

    async def left(self) -> Sequence[str]:
        """Containers, mounts, work directories."""
        containers = await self.runtime._find().containers(f"golemp2p.node={self.runtime._owner}")
        mounts = [
            m for m in (await trio.Path("/proc/self/mounts").read_text()).splitlines() if f" {self.work_root}/" in m
        ]
        return [*containers, *mounts, *map(str, await trio.Path(self.work_root).iterdir())]

    async def nothing_is_left(self) -> None:
        with trio.fail_after(15):
            while await self.left():  # noqa: ASYNC110 - the engine removes by and by
                await trio.sleep(0.05)


@pytest.fixture
async def vm(docker_engine: Engine, image: bytes, tmp_path: Path) -> AsyncIterator[Vm]:
    hub, work_root = MemoryHub(), tmp_path / "p" / "activities"
    runtime = DockerRuntime(DockerSettings(engine=docker_engine.url), tmp_path / "cache", work_root)
    async with (
        open_node(hub, tmp_path / "r", {}) as requestor,
        open_node(hub, tmp_path / "p", {"vm/docker": runtime}) as provider,
    ):
        await requestor.network.connect(provider.network.addresses()[0])
        pair = Pair(hub, requestor, provider)
        url, _ = await pair.publish(image, tmp_path)
        yield Vm(pair, runtime, work_root, url)


async def test_an_activity_destroyed_while_a_batch_runs_leaves_nothing_and_its_batch_says_so(vm: Vm) -> None:
    _, activity = await vm.create()
    batch = activity.batch(activity.exec(json.dumps([{"deploy": {}}, {"start": {}}, LOOP])))
    seen = b""
    with trio.fail_after(30), batch.log.reading() as reader:
        while b"tick" not in seen:
            for _, event in await reader.next():
                seen += event.data if event.kind is EventKind.STDOUT else b""
    assert len(await vm.left()) == 3
    with trio.fail_after(10):
        await activity.destroy(10)
    assert await vm.left() == []
    results = await batch.results(5)
    assert not results[-1].ok
    assert results[-1].is_batch_finished


@pytest.mark.parametrize("how", ["destroy", "terminate"])
async def test_an_end_in_the_middle_of_a_deploy_or_a_start_leaves_nothing(vm: Vm, how: str) -> None:
    _, warm = await vm.create()
    began_s = trio.current_time()
    first = warm.batch(warm.exec(json.dumps([{"deploy": {}}, {"start": {}}])))
    assert [result.ok for result in await first.results(60)] == [True, True]
    await warm.destroy(10)
    _, warm = await vm.create()
    began_s = trio.current_time()
    await warm.batch(warm.exec(json.dumps([{"deploy": {}}, {"start": {}}]))).results(60)
    took_s = trio.current_time() - began_s
    await warm.destroy(10)
    for number in range(12):
        activity_id, activity = await vm.create()
        batch = activity.batch(activity.exec(json.dumps([{"deploy": {}}, {"start": {}}, LOOP])))
        await trio.sleep(took_s * number / 12)
        with trio.fail_after(20):
            if how == "terminate":
                stopped = activity.batch(activity.exec(json.dumps([{"terminate": {}}])))
                assert [result.ok for result in await stopped.results(15)] == [True]
                assert not (await batch.results(5))[-1].ok
                await vm.nothing_is_left()
            await activity.destroy(10)
            assert (await vm.pair.provider.service.provider.record(activity_id)).ended_at is not None
        await vm.nothing_is_left()


async def test_an_activity_can_be_deployed_again_after_a_deploy_that_failed(vm: Vm) -> None:
    _, activity = await vm.create()
    bad = activity.batch(activity.exec(json.dumps([{"deploy": {"volumes": ["/a:/b:rw"]}}])))
    assert "refused" in str((await bad.results(60))[0].message)
    script = [{"deploy": {}}, {"start": {}}, {"run": {"entry_point": "hello", "args": []}}]
    good = activity.batch(activity.exec(json.dumps(script)))
    assert [result.ok for result in await good.results(60)] == [True, True, True]
    again = activity.batch(activity.exec(json.dumps([{"start": {}}])))
    assert not (await again.results(10))[0].ok  # it is started, and stays so
    more = activity.batch(activity.exec(json.dumps([script[2]])))
    assert (await more.results(10))[0].ok
    await activity.destroy(10)
    assert await vm.left() == []
