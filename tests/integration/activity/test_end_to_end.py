"""Requestor's and provider's services over the memory network, with real wasmtime workers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from golemp2p import limits
from golemp2p.activity.remote import RemoteActivity
from golemp2p.core.activity import ActivityState, EventKind
from golemp2p.core.agreement import AgreementState
from golemp2p.core.ids import ActivityId, AgreementId
from golemp2p.errors import GoneError, NotFoundError, UsageError
from golemp2p.identity.keys import NodeKey
from tests.integration.activity.harness import Pair, open_pair
from tests.integration.runtimes import wats


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with open_pair(tmp_path) as both:
        yield both


async def create(pair: Pair, tmp_path: Path, program: bytes, **bounds: float) -> ActivityId:
    url, _ = await pair.publish(program, tmp_path)
    demand = {f"golem.!exp.golemp2p.limit.{name}": value for name, value in bounds.items()}
    return await pair.requestor.service.requestor.create(pair.agree(url, demand=demand), timeout_s=30)


async def live(pair: Pair, activity_id: ActivityId) -> RemoteActivity:
    return await pair.requestor.service.requestor.live_activity(activity_id)


async def until(condition: Callable[[], bool]) -> None:
    """Bounded by the caller's deadline."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await trio.sleep(0.01)


def capture(*commands: Mapping[str, object]) -> str:
    return json.dumps([{"deploy": {}}, {"start": {}}, *commands])


RUN = {"run": {"entry_point": "main", "args": ["a"], "capture": {"stdout": {"stream": {}}, "stderr": {"stream": {}}}}}


async def test_a_program_is_deployed_run_and_its_output_comes_back(pair: Pair, tmp_path: Path) -> None:
    activity_id = await create(pair, tmp_path, wats.HELLO)
    activity = await pair.requestor.service.requestor.live_activity(activity_id)
    assert activity.state.value == "Initialized"
    batch = activity.batch(activity.exec(capture(RUN)))
    results = await batch.results(20)
    assert [r.ok for r in results] == [True, True, True]
    assert (results[2].stdout, results[2].stderr) == ("hello\n", "oops\n")
    assert [r.is_batch_finished for r in results] == [False, False, True]
    assert activity.state.value == "Ready"
    assert activity.usage[0] > 0
    assert activity.usage[1] > 0
    await activity.destroy(5)
    record = await pair.provider.service.provider.record(activity_id)
    assert record.state is ActivityState.TERMINATED
    assert (await pair.requestor.service.record(activity_id)).state is ActivityState.TERMINATED
    assert list((tmp_path / "p" / "activities").iterdir()) == []
    with pytest.raises(GoneError, match="Terminated"):
        activity.exec(capture(RUN))


async def test_a_failing_command_ends_its_batch(pair: Pair, tmp_path: Path) -> None:
    activity = await live(pair, await create(pair, tmp_path, wats.EXIT_3))
    results = await activity.batch(activity.exec(capture(RUN, RUN))).results(20)
    assert [r.ok for r in results] == [True, True, False]
    assert results[2].message == "ExeScript command exited with code 3"
    assert results[2].is_batch_finished
    # The activity itself is well: the next batch runs.
    again = await activity.batch(activity.exec(json.dumps([RUN]))).results(20)
    assert again[0].message == "ExeScript command exited with code 3"


async def test_a_command_out_of_turn_is_refused_with_the_state(pair: Pair, tmp_path: Path) -> None:
    activity = await live(pair, await create(pair, tmp_path, wats.HELLO))
    results = await activity.batch(activity.exec(json.dumps([RUN]))).results(20)
    assert results[0].message == "activity is Initialized: command 'run' is not possible now"


async def test_a_package_that_cannot_run_fails_the_deploy_and_says_why(pair: Pair, tmp_path: Path) -> None:
    activity = await live(pair, await create(pair, tmp_path, wats.UNKNOWN_IMPORT))
    results = await activity.batch(activity.exec(capture(RUN))).results(20)
    assert len(results) == 1
    assert "env.teleport" in (results[0].message or "")


async def test_an_endless_loop_costs_only_its_activity(pair: Pair, tmp_path: Path) -> None:
    activity = await live(pair, await create(pair, tmp_path, wats.LOOP, wall_sec=0.5))
    results = await activity.batch(activity.exec(capture(RUN))).results(20)
    assert "stopped after 0.5 s" in (results[2].message or "")
    other = await live(pair, await create(pair, tmp_path, wats.HELLO))
    assert (await other.batch(other.exec(capture(RUN))).results(20))[2].stdout == "hello\n"


async def test_a_memory_bomb_costs_only_its_activity(pair: Pair, tmp_path: Path) -> None:
    activity = await live(pair, await create(pair, tmp_path, wats.BOMB))
    results = await activity.batch(activity.exec(capture(RUN))).results(20)
    assert "likely out of memory" in (results[2].message or "")
    assert "at most 128 MiB" in (results[2].message or "")


async def test_output_streams_while_the_program_runs_and_terminate_stops_it(pair: Pair, tmp_path: Path) -> None:
    activity = await live(pair, await create(pair, tmp_path, wats.TICK_LOOP))
    batch = activity.batch(activity.exec(capture(RUN)))
    seen = b""
    with trio.fail_after(20), batch.log.reading() as reader:
        while b"tick\n" not in seen:
            for number, event in await reader.next():
                seen += event.data if event.kind is EventKind.STDOUT else b""
                reader.advance(number + 1)
    assert len(await batch.results(0)) == 2  # run has not ended
    stop = await activity.batch(activity.exec('[{"terminate": {}}]')).results(20)
    assert stop[0].ok
    assert activity.state is ActivityState.INITIALIZED
    assert (await batch.results(20))[2].message == "stopped by a terminate command"
    fresh = await activity.batch(activity.exec(capture())).results(20)
    assert [r.ok for r in fresh] == [True, True]


async def test_files_go_in_and_out(pair: Pair, tmp_path: Path) -> None:
    activity = await live(pair, await create(pair, tmp_path, wats.HELLO))
    url, content = await pair.publish(b"some input" * 100_000, tmp_path)
    slot = pair.requestor.content.open_slot("result-1", 10_000_000)
    script = capture(
        {"transfer": {"from": url, "to": "container:/golem/work/new/input.bin"}},
        {
            "transfer": {
                "from": "container:/golem/work/new/input.bin",
                "to": f"gftp://{pair.requestor.key.address}/{slot.slot_id}",
            }
        },
    )
    results = await activity.batch(activity.exec(script)).results(20)
    assert [r.message for r in results] == [None] * 4
    received = pair.requestor.content.slot("result-1").content
    assert received is not None
    assert received.sha256 == content.sha256


@pytest.mark.parametrize(
    ("source", "target", "complaint"),
    [
        ("gftp", "container:/golem/work/../../../etc/passwd", "'..'"),
        ("gftp", "container:/etc/passwd", "in no volume"),
        ("gftp", "container:golem/work/x", "not absolute"),
        ("gftp", "container:/golem/work/", "names a directory"),
        ("container:/golem/work/missing", "slot", "there is no file '/golem/work/missing'"),
        ("container:/golem/work/../work/module.cwasm", "slot", "'..'"),
        ("container:/golem/work", "slot", "no regular file"),
        ("http://127.0.0.1/x", "container:/golem/work/x", "not allowed"),
        ("file:///etc/passwd", "container:/golem/work/x", "not supported"),
        ("gftp://0x" + "1" * 40 + "/" + "a" * 64, "container:/golem/work/x", "not the requestor"),
    ],
)
async def test_a_bad_transfer_is_refused_with_a_reason(
    pair: Pair, tmp_path: Path, source: str, target: str, complaint: str
) -> None:
    activity = await live(pair, await create(pair, tmp_path, wats.HELLO))
    url, _ = await pair.publish(b"x", tmp_path)
    slot = pair.requestor.content.open_slot("s", 1000)
    transfer = {
        "from": url if source == "gftp" else source,
        "to": f"gftp://{pair.requestor.key.address}/{slot.slot_id}" if target == "slot" else target,
    }
    results = await activity.batch(activity.exec(capture({"transfer": transfer}))).results(20)
    assert complaint in (results[2].message or "")
    assert not results[2].ok


async def test_a_file_that_the_requestor_does_not_publish_is_missing(pair: Pair, tmp_path: Path) -> None:
    activity = await live(pair, await create(pair, tmp_path, wats.HELLO))
    url = f"gftp://{pair.requestor.key.address}/{'a' * 64}"
    script = capture({"transfer": {"from": url, "to": "container:/golem/work/x"}})
    results = await activity.batch(activity.exec(script)).results(20)
    assert "no file" in (results[2].message or "")


async def test_only_the_agreements_requestor_is_served(pair: Pair, tmp_path: Path) -> None:
    activity_id = await create(pair, tmp_path, wats.HELLO)
    provider, stranger = pair.provider.service.provider, NodeKey.generate().peer_id
    for body, method in (
        ({"activity_id": activity_id}, provider._on_state),
        ({"activity_id": activity_id}, provider._on_destroy),
        ({"activity_id": activity_id, "batch_id": "0" * 32, "text": "[]"}, provider._on_exec),
    ):
        with pytest.raises(NotFoundError):
            await method(stranger, body)
    agreement_id = next(iter(pair.provider.agreements))
    with pytest.raises(NotFoundError):
        await provider._on_create(stranger, {"activity_id": "1" * 32, "agreement_id": agreement_id})


async def test_creation_is_idempotent_by_id(pair: Pair, tmp_path: Path) -> None:
    activity_id = await create(pair, tmp_path, wats.HELLO)
    provider, peer = pair.provider.service.provider, pair.requestor.key.peer_id
    agreement_id = next(iter(pair.provider.agreements))
    body = {"activity_id": activity_id, "agreement_id": agreement_id}
    await provider._on_create(peer, body)
    assert len(await provider.records(live_only=True)) == 1


async def test_an_ended_agreement_ends_its_activities_and_the_requestor_hears(pair: Pair, tmp_path: Path) -> None:
    activity = await live(pair, await create(pair, tmp_path, wats.LOOP))
    batch = activity.batch(activity.exec(capture(RUN)))
    with trio.fail_after(20):
        await batch.log.read(4)  # run has started
        await pair.provider.service.on_agreement_ended(activity.agreement.id)
        results = await batch.results(20)
        assert "the agreement was terminated" in (results[2].message or "")
        await activity.over.wait()
    assert (activity.state, activity.reason) == (ActivityState.TERMINATED, "the agreement was terminated")


async def test_an_agreement_that_is_not_approved_makes_no_activity(pair: Pair, tmp_path: Path) -> None:
    agreement_id = pair.agree("gftp://x/y")
    pair.requestor.agreements[agreement_id] = replace(
        pair.requestor.agreements[agreement_id], state=AgreementState.PENDING
    )
    with pytest.raises(UsageError, match="not Approved"):
        await pair.requestor.service.requestor.create(agreement_id, timeout_s=1)


async def test_an_activity_whose_creation_was_interrupted_may_be_billed(pair: Pair, tmp_path: Path) -> None:
    """Its program was killed while it asked; the provider may have started it all the same."""
    requestor = pair.requestor.service.requestor
    agreement_id = pair.agree("gftp://x/y")
    with trio.move_on_after(0):
        await requestor.create(agreement_id, timeout_s=30)
    (activity_id,) = requestor._asked
    assert requestor.asked_for(agreement_id, activity_id)
    assert not requestor.asked_for(AgreementId("another"), activity_id)


async def test_the_agent_hears_of_creation_and_end(pair: Pair, tmp_path: Path) -> None:
    activity = await live(pair, await create(pair, tmp_path, wats.HELLO))
    provider = pair.provider.service.provider
    first = await provider.agent_events(0, timeout_s=5, max_events=10)
    assert [e.event for e in first] == ["CreateActivity"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(activity.destroy, 5)
        more = await provider.agent_events(first[-1].moment_us, timeout_s=5, max_events=10)
    assert [(e.event, e.activity_id) for e in more] == [("DestroyActivity", activity.id)]
    assert list(await provider.agent_events(more[-1].moment_us, timeout_s=0, max_events=10)) == []


async def test_events_survive_a_cut_connection(pair: Pair, tmp_path: Path) -> None:
    activity = await live(pair, await create(pair, tmp_path, wats.EIGHT_MIB))
    batch = activity.batch(activity.exec(capture(RUN)))
    with trio.fail_after(30):
        await batch.log.read(10)
        await pair.requestor.network.disconnect(pair.provider.key.peer_id)
        results = await batch.results(25)
    assert results[2].ok
    assert results[2].stdout == "x" * limits.MAX_CAPTURE_BYTES
    assert batch.log.next == batch.next_seq


async def test_a_dead_provider_fails_the_batch_and_is_unresponsive(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PROVIDER_GONE_S", 0.5)
    monkeypatch.setattr(limits, "ACTIVITY_HEARTBEAT_S", 0.2)
    monkeypatch.setattr(limits, "PROVIDER_LOST_S", 1.5)
    activity = await live(pair, await create(pair, tmp_path, wats.LOOP))
    batch = activity.batch(activity.exec(capture(RUN)))
    with trio.fail_after(20):
        await batch.log.read(4)
        pair.hub.partition([pair.requestor.key.peer_id], [pair.provider.key.peer_id])
        results = await batch.results(20)
        assert "the provider does not answer" in (results[2].message or "")
        assert activity.state.value == "Unresponsive"
        await activity.over.wait()
    assert activity.state.value == "Terminated"
    assert "did not answer" in (activity.reason or "")


async def test_a_slow_stream_reader_slows_the_payload(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FOLLOW_LOG_BYTES", 256 * 1024)
    monkeypatch.setattr(limits, "BATCH_LOG_BYTES", 512 * 1024)
    monkeypatch.setattr(limits, "EVENT_ACK_BYTES", 128 * 1024)
    activity = await live(pair, await create(pair, tmp_path, wats.FLOOD))
    batch = activity.batch(activity.exec(capture(RUN)))
    with trio.fail_after(30), batch.log.reading() as reader:
        await until(lambda: batch.log.size_bytes >= 128 * 1024)
        supervisor = pair.provider.service.provider._live[activity.id]
        theirs = supervisor.batch(batch.id).log
        await until(lambda: theirs.size_bytes >= 384 * 1024)
        before = theirs.next
        for _ in range(20):
            await trio.sleep(0.01)
        assert theirs.next <= before + 4  # the pipe is full, the guest waits
        assert batch.log.size_bytes <= 256 * 1024
        while theirs.next < before + 8:  # and goes on when we read
            for number, _ in await reader.next():
                reader.advance(number + 1)
    await activity.destroy(5)


async def test_a_payload_that_takes_more_disk_than_offered_ends_its_activity(pair: Pair, tmp_path: Path) -> None:
    program, _ = await pair.publish(wats.LOOP, tmp_path)
    agreement_id = pair.agree(program)
    for node in (pair.requestor, pair.provider):
        agreement = node.agreements[agreement_id]
        offer = {**agreement.offer, "golem.inf.storage.gib": 2 / 1024}
        node.agreements[agreement_id] = replace(agreement, offer=offer)
    activity = await live(pair, await pair.requestor.service.requestor.create(agreement_id, timeout_s=30))
    transfers = []
    for name in "abc":  # each of them is small enough, all together are not
        url, _ = await pair.publish(name.encode() * 1024 * 1024, tmp_path)
        transfers.append({"transfer": {"from": url, "to": f"container:/golem/work/{name}"}})
    with trio.fail_after(20):
        results = await activity.batch(activity.exec(capture(*transfers, RUN))).results(20)
        await activity.over.wait()
    assert "GiB of disk" in (results[-1].message or "")
    assert "GiB of disk" in (activity.reason or "")


async def test_what_a_short_activity_wrote_is_counted_before_it_is_removed(pair: Pair, tmp_path: Path) -> None:
    program, _ = await pair.publish(wats.HELLO, tmp_path)
    agreement_id = pair.agree(program)
    counters: list[str | int | float | bool] = ["golem.usage.storage_gib"]
    for node in (pair.requestor, pair.provider):
        agreement = node.agreements[agreement_id]
        offer = {**agreement.offer, "golem.com.usage.vector": counters}
        node.agreements[agreement_id] = replace(agreement, offer=offer)
    activity = await live(pair, await pair.requestor.service.requestor.create(agreement_id, timeout_s=30))
    url, _ = await pair.publish(b"x" * 3 * 1024 * 1024, tmp_path)
    transfer = {"transfer": {"from": url, "to": "container:/golem/work/x"}}
    await activity.batch(activity.exec(capture(transfer, RUN))).results(20)
    await activity.destroy(5)
    (used_gib,) = (await pair.provider.service.provider.record(activity.id)).usage
    assert 3 / 1024 <= used_gib < 4 / 1024
