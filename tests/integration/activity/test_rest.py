"""/activity-api/v1 and /golemp2p/v1 files over the real app, as the foreign clients use them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from golemp2p.api import activity as activity_api
from golemp2p.api import files as files_api
from golemp2p.api.app import make_app
from golemp2p.api.auth import AppKey, AppKeys
from tests.integration.activity.harness import Node, Pair, open_pair
from tests.integration.runtimes import wats

AT = "/activity-api/v1/activity"
SCRIPT = [
    {"deploy": {}},
    {"start": {"args": []}},
    {"run": {"entry_point": "/bin/x", "args": [], "env": {}, "capture": {"stdout": {"stream": {}}}}},
]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with open_pair(tmp_path) as both:
        yield both


def client(node: Node) -> httpx.AsyncClient:
    app = make_app(
        [activity_api.make_router(node.service), files_api.make_router(node.content)],
        keys=AppKeys([AppKey("test", "secret")]),
        address=node.key.address,
    )
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://127.0.0.1",
        headers={"Authorization": "Bearer secret"},
        timeout=30,
    )


@pytest.fixture
async def rest(pair: Pair) -> AsyncIterator[httpx.AsyncClient]:
    async with client(pair.requestor) as opened:
        yield opened


async def agreed(pair: Pair, tmp_path: Path, program: bytes = wats.HELLO) -> str:
    url, _ = await pair.publish(program, tmp_path)
    return pair.agree(url)


async def execute(rest: httpx.AsyncClient, activity_id: str, script: object) -> str:
    answer = await rest.post(f"{AT}/{activity_id}/exec", json={"text": json.dumps(script)})
    assert answer.status_code == 200, answer.text
    return str(answer.json())


def frames(text: str) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        assert fields["event"] == "runtime"
        found.append((int(fields["id"]), json.loads(fields["data"])))
    return found


async def test_a_string_makes_a_string_and_an_object_an_object(
    pair: Pair, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    agreement_id = await agreed(pair, tmp_path)
    one = await rest.post(AT, json=agreement_id, params={"timeout": 5})
    assert isinstance(one.json(), str)
    other_id = await agreed(pair, tmp_path)
    two = await rest.post(AT, json={"agreementId": other_id, "requestorPubKey": None})
    assert set(two.json()) == {"activityId"}
    state = (await rest.get(f"{AT}/{two.json()['activityId']}/state")).json()
    assert state == {"state": ["Initialized", None]}
    assert (await rest.get(f"{AT}/{one.json()}/agreement")).json() == agreement_id
    assert sorted((await rest.get(AT)).json()) == sorted([one.json(), two.json()["activityId"]])


async def test_under_an_agreement_runs_one_activity_at_a_time(
    pair: Pair, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    agreement_id = await agreed(pair, tmp_path)
    first = (await rest.post(AT, json=agreement_id, params={"timeout": 5})).json()
    refused = await rest.post(AT, json=agreement_id, params={"timeout": 5})
    assert refused.status_code == 409
    assert "1 activities already" in refused.text
    assert (await rest.delete(f"{AT}/{first}")).status_code == 200
    assert (await rest.post(AT, json=agreement_id, params={"timeout": 5})).status_code == 200


async def test_a_whole_life_by_polls(pair: Pair, rest: httpx.AsyncClient, tmp_path: Path) -> None:
    activity_id = (await rest.post(AT, json=await agreed(pair, tmp_path))).json()
    batch_id = await execute(rest, activity_id, SCRIPT)
    results = (await rest.get(f"{AT}/{activity_id}/exec/{batch_id}", params={"timeout": 20})).json()
    assert [r["index"] for r in results] == [0, 1, 2]
    assert results[2]["stdout"] == "hello\n"
    assert results[2]["stderr"] is None  # not captured
    assert [r["isBatchFinished"] for r in results] == [False, False, True]
    assert set(results[0]) == {"index", "eventDate", "result", "stdout", "stderr", "message", "isBatchFinished"}
    assert (await rest.get(f"{AT}/{activity_id}/state")).json()["state"] == ["Ready", None]
    usage = (await rest.get(f"{AT}/{activity_id}/usage")).json()
    assert len(usage["currentUsage"]) == 3
    assert isinstance(usage["timestamp"], int)
    answer = await rest.delete(f"{AT}/{activity_id}", params={"timeout": 5})
    assert (answer.status_code, answer.json()) == (200, None)
    assert (await rest.get(f"{AT}/{activity_id}/state")).json()["state"] == ["Terminated", None]
    again = await rest.post(f"{AT}/{activity_id}/exec", json={"text": json.dumps(SCRIPT)})
    assert again.status_code == 410
    assert "Terminated" in again.json()["message"]


async def test_the_event_stream_replays_from_the_start_and_ends(
    pair: Pair, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    activity_id = (await rest.post(AT, json=await agreed(pair, tmp_path))).json()
    batch_id = await execute(rest, activity_id, SCRIPT)
    url = f"{AT}/{activity_id}/exec/{batch_id}"
    live = await rest.get(url, headers={"Accept": "text/event-stream"})
    assert live.headers["content-type"].startswith("text/event-stream")
    replayed = await rest.get(url, headers={"Accept": "text/event-stream"})
    assert live.text == replayed.text
    seen = frames(live.text)
    kinds = [next(iter(data["kind"])) for _, data in seen]
    assert kinds == ["started", "finished"] * 2 + ["started", "stdout", "finished"]
    assert [number for number, _ in seen] == list(range(7))
    assert seen[4][1]["kind"] == {"started": {"command": SCRIPT[2]}}
    assert seen[5][1]["kind"] == {"stdout": "hello\n"}
    assert seen[6][1]["kind"] == {"finished": {"return_code": 0, "message": None}}
    assert seen[6][1]["batch_id"] == batch_id
    assert "+" not in seen[0][1]["timestamp"]
    resumed = await rest.get(url, headers={"Accept": "text/event-stream", "Last-Event-ID": "4"})
    assert [number for number, _ in frames(resumed.text)] == [5, 6]


async def test_a_poll_answers_with_what_there_is_at_its_deadline(
    pair: Pair, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    activity_id = (await rest.post(AT, json=await agreed(pair, tmp_path, wats.LOOP))).json()
    batch_id = await execute(rest, activity_id, SCRIPT)
    url = f"{AT}/{activity_id}/exec/{batch_id}"
    partial: list[object] = []
    with trio.fail_after(10):
        while len(partial) < 2:
            partial = (await rest.get(url, params={"timeout": 0.3})).json()
    assert len(partial) == 2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rest.delete, f"{AT}/{activity_id}")
        with trio.fail_after(10):  # a poll ends at once when the activity does
            final = (await rest.get(url, params={"timeout": 60})).json()
    assert final[2]["result"] == "Error"
    assert final[2]["isBatchFinished"]


async def test_mistakes_get_their_status_and_a_reason(pair: Pair, rest: httpx.AsyncClient, tmp_path: Path) -> None:
    activity_id = (await rest.post(AT, json=await agreed(pair, tmp_path))).json()
    exec_url = f"{AT}/{activity_id}/exec"
    for status, answer in (
        (400, await rest.post(exec_url, json={"text": "[{]"})),
        (400, await rest.post(exec_url, json={"text": '[{"fly": {}}]'})),
        (400, await rest.post(exec_url, content=b"nonsense")),
        (400, await rest.post(AT, json=17)),
        (404, await rest.post(AT, json="0" * 64)),
        (404, await rest.get(f"{AT}/{'0' * 32}/state")),
        (404, await rest.get(f"{exec_url}/{'0' * 32}")),
        (401, await rest.get(AT, headers={"Authorization": "Bearer wrong"})),
    ):
        assert answer.status_code == status, answer.text
    assert "no command 'fly'" in (await rest.post(exec_url, json={"text": '[{"fly": {}}]'})).json()["message"]


async def test_a_provider_that_does_not_answer_is_a_timeout(
    pair: Pair, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    agreement_id = await agreed(pair, tmp_path)
    pair.hub.partition([pair.requestor.key.peer_id], [pair.provider.key.peer_id])
    answer = await rest.post(AT, json=agreement_id, params={"timeout": 0.5})
    assert answer.status_code == 408
    assert "within 0.5 s" in answer.json()["message"]


async def test_the_providers_agent_polls_events(pair: Pair, rest: httpx.AsyncClient, tmp_path: Path) -> None:
    async with client(pair.provider) as agent:
        assert (await agent.get("/activity-api/v1/events", params={"timeout": 0})).json() == []
        activity_id = (await rest.post(AT, json=await agreed(pair, tmp_path))).json()
        (created,) = (await agent.get("/activity-api/v1/events", params={"timeout": 5})).json()
        assert (created["eventType"], created["activityId"]) == ("CreateActivity", activity_id)
        assert (await agent.get(f"{AT}/{activity_id}/usage")).json()["currentUsage"][0] >= 0
        assert (await agent.delete(f"{AT}/{activity_id}")).status_code == 200
        later = {"timeout": 5, "afterTimestamp": created["eventDate"]}
        (ended,) = (await agent.get("/activity-api/v1/events", params=later)).json()
        assert (ended["eventType"], ended["agreementId"]) == ("DestroyActivity", created["agreementId"])
        (facts,) = (await agent.get("/golemp2p/v1/activities")).json()
        assert (facts["role"], facts["state"], facts["reason"]) == (
            "provider",
            "Terminated",
            "ended by the provider",
        )


async def test_files_are_stored_by_hash_and_slots_receive(pair: Pair, rest: httpx.AsyncClient, tmp_path: Path) -> None:
    data = b"0123456789" * 100_000
    digest = hashlib.sha3_256(data).hexdigest()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 65_536):
            yield data[start : start + 65_536]

    stored = (await rest.put("/golemp2p/v1/files", content=pieces())).json()
    assert stored == {
        "url": f"gftp://{pair.requestor.key.address}/{digest}",
        "sha3_256": digest,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
    }
    assert (await rest.get(f"/golemp2p/v1/files/{digest}")).content == data
    assert (await rest.get(f"/golemp2p/v1/files/{'0' * 64}")).status_code == 404
    slot = (await rest.post("/golemp2p/v1/slots")).json()
    assert slot["url"] == f"gftp://{pair.requestor.key.address}/{slot['slot']}"
    early = await rest.get(f"/golemp2p/v1/slots/{slot['slot']}", params={"timeout": 0})
    assert early.status_code == 408
    assert (await rest.get("/golemp2p/v1/slots/unknown")).status_code == 404
    activity_id = (await rest.post(AT, json=await agreed(pair, tmp_path))).json()
    work = "container:/golem/work/x"
    transfers = [{"transfer": {"from": stored["url"], "to": work}}, {"transfer": {"from": work, "to": slot["url"]}}]
    await execute(rest, activity_id, [*SCRIPT[:2], *transfers])
    received = await rest.get(f"/golemp2p/v1/slots/{slot['slot']}", params={"timeout": 20})
    assert received.content == data
    assert (await rest.delete(f"/golemp2p/v1/slots/{slot['slot']}")).status_code == 204
    assert (await rest.get(f"/golemp2p/v1/slots/{slot['slot']}")).status_code == 404
