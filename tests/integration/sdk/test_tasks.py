"""The SDK on a real local network: files over two providers, a provider killed in the middle, nobody matches."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import anyio
import pytest

from golemp2p.core.money import format_amount
from golemp2p.sdk import Golem, NoOffersError, Script, Task, WorkContext, wasm
from tests.e2e.net import Net, open_net
from tests.integration.runtimes.wats import ECHO, HELLO


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with open_net(tmp_path_factory.mktemp("net"), providers=2, provider={"memory_gib": 1.0}) as found:
        yield found


@pytest.fixture(params=["trio", "asyncio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def golem_on(net: Net, budget: str = "1.0") -> Golem:
    requestor = net.requestor
    return Golem(
        budget=budget,
        api_url=str(requestor.facts["rest_url"]),
        app_key=requestor.app_key,
        subnet="public",
        payment_network="local",
    )


async def copy(context: WorkContext, tasks: AsyncIterator[Task[Path, tuple[str, bytes]]]) -> AsyncIterator[Script]:
    """Upload a file, tell the program its name, bring the file back twice."""
    async for task in tasks:
        name = task.data.name
        script = context.new_script()
        script.upload_file(task.data, name)
        out = script.run("echo", name)
        back = script.download_bytes(name)
        script.download_file(name, task.data.with_suffix(".back"))
        yield script
        task.accept(((await out).stdout, await back))


def test_files_go_to_two_providers_and_back_and_all_is_settled(net: Net, backend: str, tmp_path: Path) -> None:
    files = [tmp_path / f"file-{n}.txt" for n in range(8)]
    for file in files:
        file.write_bytes(os.urandom(100_000))
    paid_before = net.payments()

    async def main() -> None:
        async with golem_on(net) as golem:
            providers = set()
            async for result in golem.execute_tasks(copy, files, payload=await wasm(ECHO), max_workers=2):
                output, back = result.value
                assert output == f"echo\0{result.data.name}\0"
                assert back == result.data.read_bytes() == result.data.with_suffix(".back").read_bytes()
                providers.add(result.provider)
            assert providers == {"provider-1", "provider-2"}
            transactions = await golem.settled(30)
            rows = golem.report()
            assert len(rows) == 8
            assert {row.transaction for row in rows} == set(transactions)
            assert all(row.invoice_id and row.price for row in rows)
            paid = net.payments()[len(paid_before) :]
            assert Decimal(format_amount(sum(amount for *_, amount in paid))) == golem.cost
            assert sum((row.price or Decimal(0) for row in rows), Decimal(0)) == golem.cost

    anyio.run(main, backend=backend)


def test_a_demand_that_nobody_matches_says_why(net: Net, backend: str) -> None:
    async def main() -> None:
        async with golem_on(net) as golem:
            payload = await wasm(HELLO, min_memory_gib=64)
            told = r"2 offers seen, none matches: \(golem\.inf\.mem\.gib>=64\) fails for 2 of them"
            with pytest.raises(NoOffersError, match=told):
                _ = [r async for r in golem.execute_tasks(copy, [Path()], payload=payload, offers_timeout_s=1)]

    anyio.run(main, backend=backend)


def test_hiring_and_the_first_output_are_quick(net: Net, backend: str) -> None:
    """Two seconds and one on a busy machine; alone it is a fraction (see README)."""
    times: dict[str, float] = {}

    def heard(_stream: str, _data: bytes) -> None:
        times.setdefault("output", time.monotonic())

    async def timed(context: WorkContext, tasks: AsyncIterator[Task[int, None]]) -> AsyncIterator[Script]:
        async for task in tasks:
            times["taken"] = time.monotonic()
            script = context.new_script()
            script.run("hello", on_output=heard)
            yield script
            task.accept(None)

    async def main() -> None:
        async with golem_on(net) as golem:
            payload = await wasm(HELLO)
            for _ in range(2):  # the second has the module in the cache
                times.clear()
                began = time.monotonic()
                async for result in golem.execute_tasks(timed, [1], payload=payload, max_workers=1):
                    assert result.ok
                await golem.finish()
            assert times["taken"] - began < 2.0
            assert times["output"] - times["taken"] < 1.0

    anyio.run(main, backend=backend)


def test_a_task_of_a_killed_provider_ends_elsewhere_and_is_paid_once(net: Net, backend: str) -> None:
    """Last in this module: it costs about ten seconds, after which the provider counts as gone."""
    victims: list[str] = []

    async def worker(context: WorkContext, tasks: AsyncIterator[Task[int, str]]) -> AsyncIterator[Script]:
        async for task in tasks:
            script = context.new_script()
            out = script.run("echo", str(task.data))
            if not victims:
                victims.append(context.provider_name)
                next(p for p in net.providers if p.name == victims[0]).kill()
            yield script
            task.accept((await out).stdout)

    async def main() -> None:
        async with golem_on(net) as golem:
            found = [r async for r in golem.execute_tasks(worker, range(4), payload=await wasm(ECHO), max_workers=2)]
            assert sorted(r.value for r in found) == [f"echo\0{n}\0" for n in range(4)]
            await golem.settled(30)
            rows = golem.report()
            assert [(r.outcome, r.provider_name) for r in rows if r.outcome != "done"] == [("lost", victims[0])]
            done = {r.task for r in rows if r.outcome == "done"}
            assert done == set(range(4))
            assert all(r.transaction for r in rows if r.outcome == "done")
            assert not any(r.transaction for r in rows if r.outcome == "lost")

    try:
        anyio.run(main, backend=backend)
    finally:
        for provider in net.providers:
            if provider.name in victims:
                provider.start()
