"""The calls of activity-api that the clients do not make, and what is not supported."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from golemp2p.api import unsupported
from golemp2p.api.app import make_app
from golemp2p.api.auth import AppKey, AppKeys
from golemp2p.core.ids import Address
from tests.integration.activity.harness import Pair
from tests.integration.activity.test_rest import AT, agreed, client, execute, pair, rest
from tests.integration.runtimes import wats

__all__ = ["pair", "rest"]  # fixtures
RUN = {"run": {"entry_point": "/bin/x", "args": ["a", "b"]}}


async def test_the_running_command_is_told_with_what_it_runs(
    pair: Pair, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    activity = (await rest.post(AT, json=await agreed(pair, tmp_path, wats.TICK_LOOP))).json()
    assert (await rest.get(f"{AT}/{activity}/command")).json() == []
    await execute(rest, activity, [{"deploy": {}}, {"start": {}}, RUN])
    running: list[object] = []
    with trio.fail_after(20):
        while running != [{"command": "run", "params": ["/bin/x", "a", "b"]}]:
            await trio.sleep(0.05)
            running = (await rest.get(f"{AT}/{activity}/command")).json()
    assert (await rest.delete(f"{AT}/{activity}")).json() is None
    assert (await rest.get(f"{AT}/{activity}/command")).json() == []
    assert (await rest.get(f"{AT}/none/command")).status_code == 404


async def test_activities_of_an_agreement_are_listed_with_the_ended_ones(
    pair: Pair, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    agreement, other = await agreed(pair, tmp_path), await agreed(pair, tmp_path)
    ended = (await rest.post(AT, json=agreement)).json()
    await rest.delete(f"{AT}/{ended}")
    live = (await rest.post(AT, json=agreement)).json()
    assert sorted((await rest.get(AT, params={"agreementId": agreement})).json()) == sorted([ended, live])
    assert (await rest.get(AT, params={"agreementId": other})).json() == []
    assert (await rest.get(AT)).json() == [live]


async def test_a_poll_ends_at_the_end_of_its_time_and_patience_is_cut_not_refused(
    pair: Pair, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    activity = (await rest.post(AT, json=await agreed(pair, tmp_path, wats.TICK_LOOP), params={"timeout": 900})).json()
    batch = await execute(rest, activity, [{"deploy": {}}, {"start": {}}, RUN])
    started = trio.current_time()
    partial = (await rest.get(f"{AT}/{activity}/exec/{batch}", params={"timeout": 0.4, "commandIndex": 1})).json()
    assert trio.current_time() - started < 0.9  # yapapi hangs up half a second later
    assert [r["index"] for r in partial] == list(range(len(partial)))
    assert (await rest.get(f"{AT}/{activity}/exec/{batch}", params={"timeout": -1})).status_code == 200
    assert (await rest.delete(f"{AT}/{activity}", params={"timeout": 1e6})).status_code == 200


async def test_the_monitor_tells_the_providers_activities_and_what_changes(
    pair: Pair, rest: httpx.AsyncClient, tmp_path: Path
) -> None:
    gone, left = trio.Event(), trio.Event()
    tell, told = trio.open_memory_channel[dict[str, Any]](10)

    async def receive() -> dict[str, object]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        body = message.get("body", b"")
        if body.startswith(b"data: "):
            tell.send_nowait(json.loads(body.removeprefix(b"data: ")))

    async def watch() -> None:  # httpx's transport gives a stream when it has ended
        transport = client(pair.provider)._transport
        assert isinstance(transport, httpx.ASGITransport)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": "1.1",
            "method": "GET",
            "path": "/activity-api/v1/_monitor",
            "raw_path": b"",
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1"), (b"authorization", b"Bearer secret")],
        }
        await transport.app(scope, receive, send)
        left.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        with trio.fail_after(20):
            assert (await told.receive())["activities"] == []
            agreement = await agreed(pair, tmp_path)
            activity = (await rest.post(AT, json=agreement)).json()
            assert (await told.receive())["activities"] == [
                {"id": activity, "state": "Initialized", "agreementId": agreement}
            ]
            gone.set()
            await left.wait()


@pytest.fixture
async def bare() -> AsyncIterator[httpx.AsyncClient]:
    """Nothing but the calls that are not supported."""
    app = make_app([unsupported.make_router()], keys=AppKeys([AppKey("k", "secret")]), address=Address("0x" + "1" * 40))
    headers = {"Authorization": "Bearer secret"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", headers=headers
    ) as http:
        yield http


@pytest.mark.parametrize(
    ("method", "path", "instead"), unsupported.CALLS, ids=[f"{c[0]} {c[1]}" for c in unsupported.CALLS]
)
async def test_what_is_not_supported_says_so_and_what_to_use(
    bare: httpx.AsyncClient, method: str, path: str, instead: str
) -> None:
    url = path.replace(":path}", "}").replace("{", "").replace("}", "")
    answer = await bare.request(method, url, json={"any": "thing"} if method != "GET" else None)
    assert answer.status_code == 501
    assert instead in answer.json()["message"]
    assert answer.json()["code"] == "not_supported"
    assert (await bare.request(method, url, headers={"Authorization": "Bearer wrong"})).status_code == 401
