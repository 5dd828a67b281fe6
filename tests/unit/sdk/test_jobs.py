"""Jobs on a fake node, on both backends: retry, selection, budget, early exit, failing workers, cancellation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest
import trio.testing

from golemp2p.errors import DeadlineError
from golemp2p.sdk import (
    BudgetError,
    CommandFailedError,
    Golem,
    NoOffersError,
    Payload,
    Script,
    SetupFailedError,
    Task,
    TaskRejectedError,
    WorkContext,
    WorkerBugError,
)
from tests.unit.sdk.fake import FakeNode, Provider, make_node

PAYLOAD = Payload("wasmtime", b"\0asm")
Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Time is virtual on trio. On asyncio it is real, so the node's slowness is divided by a hundred there."""

    def on_backend(main: Callable[[], Awaitable[None]]) -> None:
        if request.param == "trio":
            clock = trio.testing.MockClock(autojump_threshold=0)
            anyio.run(main, backend="trio", backend_options={"clock": clock})
            return
        sleep = anyio.sleep

        async def quick(delay_s: float) -> None:
            await sleep(delay_s / 100)

        monkeypatch.setattr(anyio, "sleep", quick)
        anyio.run(main, backend="asyncio")

    return on_backend


@pytest.fixture
def golem_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Golem]:
    def make(node: FakeNode, budget: str = "1.0", invoice_timeout_s: float = 5.0) -> Golem:
        monkeypatch.setattr("golemp2p.sdk.golem.connect", node.connect)
        return Golem(budget=budget, app_key="k", subnet="public", invoice_timeout_s=invoice_timeout_s)

    return make


async def worker(_context: WorkContext, tasks: AsyncIterator[Task[int, str]]) -> AsyncIterator[Script]:
    async for task in tasks:
        script = Script()
        out = script.run("program", str(task.data))
        yield script
        task.accept((await out).stdout)


def echo(provider: str, argv: Sequence[str]) -> tuple[int, str]:
    return 0, f"{argv[1]}@{provider}"


def clean(node: FakeNode) -> None:
    """Nothing stays behind."""
    assert node.withdrawn == node.demands
    alive = [a for a in node.activities if a not in node.destroyed and not node._of(a).dead]
    assert not alive
    assert {state for _, state in node.agreements.values()} <= {"Terminated", "Cancelled"}
    assert node.released


def test_tasks_run_in_parallel_and_all_results_come_back(run: Run, golem_of: Callable[..., Golem]) -> None:
    node = make_node([Provider("a"), Provider("b"), Provider("c")], echo)

    async def main() -> None:
        async with golem_of(node) as golem:
            found = {}
            async for result in golem.execute_tasks(worker, range(12), payload=PAYLOAD, max_workers=3):
                assert result.ok
                assert result.attempts == 1
                found[result.data] = result.value
            assert {n: text.split("@")[0] for n, text in found.items()} == {n: str(n) for n in range(12)}
            await golem.finish()
            rows = golem.report()
            assert sorted(row.task for row in rows) == list(range(12))
            assert sum(row.price or 0 for row in rows) == golem.cost > 0
        assert node.busiest == 3
        assert len(node.activities) == 3  # one for many tasks
        assert set(node.accepted) == {*node.notes, *node.invoices}
        clean(node)

    run(main)


def test_the_cheapest_offers_are_chosen(run: Run, golem_of: Callable[..., Golem]) -> None:
    node = make_node([Provider("dear", 0.003), Provider("cheap", 0.001), Provider("start", 0.0001, start=0.5)], echo)

    async def main() -> None:
        async with golem_of(node) as golem:
            async for result in golem.execute_tasks(worker, range(3), payload=PAYLOAD, max_workers=1):
                assert result.provider == "cheap"

    run(main)


def test_a_silent_providers_task_is_done_elsewhere(run: Run, golem_of: Callable[..., Golem]) -> None:
    node = make_node([Provider("dying", 0.0001, dies_after=1), Provider("good", 0.001)], echo)

    async def main() -> None:
        async with golem_of(node) as golem:
            found = [r async for r in golem.execute_tasks(worker, range(6), payload=PAYLOAD, max_workers=1)]
            assert sorted(r.data for r in found) == list(range(6))
            assert all(r.ok for r in found)
            assert {r.provider for r in found} == {"dying", "good"}
            assert [row.outcome for row in golem.report()].count("lost") == 1
            again = [r async for r in golem.execute_tasks(worker, range(2), payload=PAYLOAD, max_workers=2)]
            assert {r.provider for r in again} == {"good"}  # the other one is avoided from now on
        clean(node)

    run(main)


def test_a_task_that_fails_by_itself_is_reported_after_its_attempts(run: Run, golem_of: Callable[..., Golem]) -> None:
    tried: list[str] = []

    def program(provider: str, argv: Sequence[str]) -> tuple[int, str]:
        if argv[1] == "1":
            tried.append(provider)
            return 3, "sorry"
        return 0, "fine"

    node = make_node([Provider("a"), Provider("b")], program)

    async def main() -> None:
        async with golem_of(node) as golem:
            found = {
                r.data: r
                async for r in golem.execute_tasks(worker, range(4), payload=PAYLOAD, max_workers=2, max_attempts=2)
            }
            assert sorted(found) == list(range(4))
            assert [n for n in found if not found[n].ok] == [1]
            error = found[1].error
            assert isinstance(error, CommandFailedError)
            assert (error.exit_code, error.stdout, found[1].attempts) == (3, b"sorry", 2)
            with pytest.raises(CommandFailedError):
                _ = found[1].value
        assert sorted(tried) == ["a", "b"]  # the second attempt elsewhere
        clean(node)

    run(main)


def test_a_rejected_result_is_made_again(run: Run, golem_of: Callable[..., Golem]) -> None:
    async def picky(_context: WorkContext, tasks: AsyncIterator[Task[int, str]]) -> AsyncIterator[Script]:
        async for task in tasks:
            script = Script()
            out = script.run("program", str(task.data))
            yield script
            text = (await out).stdout
            if text.endswith("liar"):
                task.reject("a lie")
            else:
                task.accept(text)

    node = make_node([Provider("liar"), Provider("honest")], echo)

    async def main() -> None:
        async with golem_of(node) as golem:
            found = [r async for r in golem.execute_tasks(picky, range(4), payload=PAYLOAD, max_workers=2)]
            assert {r.value for r in found} == {f"{n}@honest" for n in range(4)}
            none = [
                r async for r in golem.execute_tasks(_reject_all, [0], payload=PAYLOAD, max_workers=1, max_attempts=1)
            ]
            assert isinstance(none[0].error, TaskRejectedError)

    run(main)


async def _reject_all(_context: WorkContext, tasks: AsyncIterator[Task[int, str]]) -> AsyncIterator[Script]:
    async for task in tasks:
        task.reject("no")
        if task.data < 0:
            yield Script()


def test_leaving_early_cleans_up(run: Run, golem_of: Callable[..., Golem]) -> None:
    node = make_node([Provider("a"), Provider("b")], echo)

    async def main() -> None:
        async with golem_of(node) as golem:
            async for _ in golem.execute_tasks(worker, range(1000), payload=PAYLOAD, max_workers=2):
                break
        clean(node)
        assert set(node.invoices) <= set(node.accepted)
        assert sum(p.batches for p in node.providers) < 20

    run(main)


def test_cancellation_cleans_up_and_pays(run: Run, golem_of: Callable[..., Golem]) -> None:
    node = make_node([Provider("a", takes_s=500.0)], echo)

    async def main() -> None:
        with anyio.move_on_after(0.5) as scope:
            async with golem_of(node) as golem:
                async for _ in golem.execute_tasks(worker, range(4), payload=PAYLOAD):
                    raise AssertionError
        assert scope.cancelled_caught
        clean(node)
        assert len(node.invoices) == 1
        assert set(node.invoices) <= set(node.accepted)

    run(main)


def test_an_error_of_the_caller_comes_out_as_it_is(run: Run, golem_of: Callable[..., Golem]) -> None:
    node = make_node([Provider("a")], echo)

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with golem_of(node) as golem:
                async for _ in golem.execute_tasks(worker, range(4), payload=PAYLOAD):
                    _ = 1 / 0
        clean(node)

    run(main)


def test_a_bug_in_the_worker_ends_the_job(run: Run, golem_of: Callable[..., Golem]) -> None:
    async def forgetful(context: WorkContext, tasks: AsyncIterator[Task[int, str]]) -> AsyncIterator[Script]:
        async for _task in tasks:
            script = context.new_script()
            script.run("program", "x")
            yield script

    node = make_node([Provider("a")], echo)

    async def main() -> None:
        async with golem_of(node) as golem:
            with pytest.raises(WorkerBugError, match="without an answer"):
                _ = [r async for r in golem.execute_tasks(forgetful, range(2), payload=PAYLOAD)]

        async def raising(_context: WorkContext, tasks: AsyncIterator[Task[int, str]]) -> AsyncIterator[Script]:
            async for task in tasks:
                script = Script()
                script.run("program", "x")
                yield script
                task.accept(dict[int, str]()[task.data])

        async with golem_of(node) as golem:
            with pytest.raises(KeyError):
                _ = [r async for r in golem.execute_tasks(raising, range(2), payload=PAYLOAD)]
        clean_states = {state for _, state in node.agreements.values()}
        assert clean_states == {"Terminated"}

    run(main)


def test_a_payload_that_nobody_can_deploy_says_so(run: Run, golem_of: Callable[..., Golem]) -> None:
    node = make_node([Provider("a", broken_setup=True), Provider("b", broken_setup=True)], echo)

    async def main() -> None:
        async with golem_of(node) as golem:
            with pytest.raises(SetupFailedError, match="disk full"):
                _ = [r async for r in golem.execute_tasks(worker, range(2), payload=PAYLOAD, offers_timeout_s=0.5)]
        clean(node)

    run(main)


def test_refusals_are_told(run: Run, golem_of: Callable[..., Golem]) -> None:
    node = make_node([Provider("a", refuses="too small a job")], echo)

    async def main() -> None:
        async with golem_of(node) as golem:
            with pytest.raises(NoOffersError, match="a: it refused: too small a job"):
                _ = [r async for r in golem.execute_tasks(worker, [1], payload=PAYLOAD, offers_timeout_s=0.5)]
        clean(node)

    run(main)


def test_an_overcharging_providers_bills_are_rejected(run: Run, golem_of: Callable[..., Golem]) -> None:
    node = make_node([Provider("greedy", overcharges=1.5)], echo)

    async def main() -> None:
        async with golem_of(node) as golem:
            _ = [r async for r in golem.execute_tasks(worker, [1], payload=PAYLOAD)]
            await golem.finish()
            assert golem.report()[0].invoice_id == ""
        assert not node.accepted
        assert "more than the agreed price" in "".join(node.rejected.values())
        assert set(node.rejected) == {*node.notes, *node.invoices}

    run(main)


@pytest.mark.parametrize("backend_time", ["trio"])
def test_the_job_stops_before_it_costs_more_than_the_budget(backend_time: str, golem_of: Callable[..., Golem]) -> None:
    node = make_node([Provider("slow", per_second=0.001, takes_s=10.0)], echo)

    async def main() -> None:
        async with golem_of(node, budget="0.05") as golem:
            with pytest.raises(BudgetError, match=r"0\.05 GLM is as good as used up"):
                _ = [r async for r in golem.execute_tasks(worker, range(100), payload=PAYLOAD)]
            await golem.finish()
            assert 0.04 < float(golem.cost) <= 0.05
        clean(node)

    clock = trio.testing.MockClock(autojump_threshold=0)
    anyio.run(main, backend=backend_time, backend_options={"clock": clock})


def test_a_budget_that_pays_nobody_is_refused_at_once(run: Run, golem_of: Callable[..., Golem]) -> None:
    node = make_node([Provider("a")], echo)

    async def main() -> None:
        async with golem_of(node, budget="0.001") as golem:
            with pytest.raises(BudgetError, match="too expensive"):
                _ = [r async for r in golem.execute_tasks(worker, [1], payload=PAYLOAD, offers_timeout_s=0.5)]
        with pytest.raises(BudgetError, match="has 100"):
            async with golem_of(node, budget="1000"):
                raise AssertionError

    run(main)


def test_a_task_and_a_job_that_take_too_long(run: Run, golem_of: Callable[..., Golem]) -> None:
    node = make_node([Provider("a", takes_s=500.0)], echo)

    async def main() -> None:
        async with golem_of(node) as golem:
            found = [
                r
                async for r in golem.execute_tasks(
                    worker, [1], payload=PAYLOAD, task_timeout_s=0.2, max_attempts=2, timeout_s=50
                )
            ]
            assert isinstance(found[0].error, DeadlineError)
            assert found[0].attempts == 2
            with pytest.raises(DeadlineError, match="the job took longer"):
                _ = [r async for r in golem.execute_tasks(worker, [1], payload=PAYLOAD, timeout_s=1)]
        clean(node)

    run(main)


def test_a_run_without_check_gives_its_exit_code(run: Run, golem_of: Callable[..., Golem]) -> None:
    async def lenient(context: WorkContext, tasks: AsyncIterator[Task[int, Any]]) -> AsyncIterator[Script]:
        heard: list[bytes] = []
        async for task in tasks:
            script = context.new_script()
            out = script.run("program", "x", check=False, on_output=lambda _stream, data: heard.append(data))
            rest = script.download_bytes("log")
            with pytest.raises(Exception, match="yield its script"):
                await rest
            yield script
            task.accept(((await out).exit_code, b"".join(heard), await rest))

    node = make_node([Provider("a")], lambda _provider, _argv: (7, "oops"))

    async def main() -> None:
        async with golem_of(node) as golem:
            found = [r async for r in golem.execute_tasks(lenient, [1], payload=PAYLOAD)]
            assert found[0].value[:2] == (7, b"oops")
            assert found[0].value[2].startswith(b"slot-")

    run(main)


@pytest.mark.parametrize("odd", [10**400, float("inf"), float("nan"), "free"])
def test_an_offer_that_nobody_can_read_does_not_stop_a_job(run: Run, golem_of: Callable[..., Golem], odd: Any) -> None:
    node = make_node([Provider("mad", per_second=odd), Provider("good")], echo)

    async def main() -> None:
        async with golem_of(node) as golem:
            found = [r async for r in golem.execute_tasks(worker, range(2), payload=PAYLOAD)]
            assert sorted(r.value for r in found) == ["0@good", "1@good"]
        clean(node)

    run(main)
