"""The event stream over a real HTTP server: frames come while the program runs, and a client that leaves is let go."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import httpx
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from hypercorn.typing import ASGIFramework

from golemp2p.api import activity as activity_api
from golemp2p.api.app import make_app
from golemp2p.api.auth import AppKey, AppKeys
from golemp2p.core.ids import BatchId
from tests.integration.activity.harness import open_pair
from tests.integration.runtimes import wats

SCRIPT = [{"deploy": {}}, {"start": {}}, {"run": {"entry_point": "x", "capture": {"stdout": {"stream": {}}}}}]


async def test_frames_come_while_the_program_runs_and_a_client_may_leave(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as pair:
        app = make_app(
            [activity_api.make_router(pair.requestor.service)],
            keys=AppKeys([AppKey("k", "s")]),
            address=pair.requestor.key.address,
        )
        config = Config()
        config.bind = ["127.0.0.1:0"]
        config.errorlog = None
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            framework: ASGIFramework = app  # type: ignore[assignment] # FastAPI's scope type is its own
            (base_url,) = await nursery.start(partial(serve, framework, config, shutdown_trigger=stop.wait))
            with trio.fail_after(30):
                async with httpx.AsyncClient(base_url=base_url, headers={"Authorization": "Bearer s"}) as rest:
                    url, _ = await pair.publish(wats.TICK_LOOP, tmp_path)
                    at = "/activity-api/v1/activity"
                    activity_id = (await rest.post(at, json=pair.agree(url))).json()
                    answer = await rest.post(f"{at}/{activity_id}/exec", json={"text": json.dumps(SCRIPT)})
                    batch_id = BatchId(answer.json())
                    events_url = f"{at}/{activity_id}/exec/{batch_id}"
                    # A bare connection: httpx leaves its generators to the collector when one stops reading.
                    async with await trio.open_tcp_stream("127.0.0.1", int(base_url.rpartition(":")[2])) as raw:
                        await raw.send_all(
                            f"GET {events_url} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
                            "Authorization: Bearer s\r\n\r\n".encode()
                        )
                        received = b""
                        while b"tick" not in received:
                            received += await raw.receive_some(65_536)
                    activity = await pair.requestor.service.requestor.live_activity(activity_id)
                    log = activity.batch(batch_id).log
                    while log.readers:  # noqa: ASYNC110 - bounded by the deadline above
                        await trio.sleep(0.01)
                    assert (await rest.delete(f"{at}/{activity_id}")).status_code == 200
            stop.set()
