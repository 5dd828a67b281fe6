"""Long polls on real sockets: they end at once on news, and leave nothing behind when their client is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

from golemp2p.config import Settings
from golemp2p.core.records import RecordKind
from golemp2p.identity import NodeKey
from golemp2p.locations import Locations
from golemp2p.net.memory import MemoryHub, open_memory_network
from golemp2p.node import Node, open_node

POLLS = 60
PATIENCE_S = 10.0
DEMAND = {"properties": {"golem.srv.comp.expiration": 1_900_000_000_000}, "constraints": "(nothing=like-this)"}


@dataclass
class Place:
    node: Node
    http: httpx.AsyncClient
    port: int

    @asynccontextmanager
    async def asking(self, path: str, *, stream: bool = False) -> AsyncIterator[trio.SocketStream]:
        """A connection that has sent its request."""
        accept = "Accept: text/event-stream\r\n" if stream else ""
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.node.app_key}\r\n{accept}\r\n"
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as connection:
            await connection.send_all(request.encode())
            yield connection


@asynccontextmanager
async def open_place(tmp_path: Path) -> AsyncIterator[Place]:
    key = NodeKey.generate()
    settings = Settings.model_validate({"rest": {"listen": "127.0.0.1:0"}})
    async with (
        open_memory_network(MemoryHub(), key) as network,
        open_node(settings, Locations(tmp_path / "data", tmp_path / "cache"), key, network=network) as node,
        httpx.AsyncClient(base_url=node.rest_url, headers={"Authorization": f"Bearer {node.app_key}"}) as http,
    ):
        await http.get("/me")  # whatever the first request starts
        yield Place(node, http, int(node.rest_url.rpartition(":")[2]))


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def until_tasks_are(wanted: int, *, at_least: bool) -> None:
    """The one thing to wait for here is that the event loop has nothing of ours any more."""
    with trio.fail_after(PATIENCE_S):
        while (tasks() < wanted) if at_least else (tasks() > wanted):  # noqa: ASYNC110 - bounded above
            await trio.sleep(0.02)


async def paths(place: Place) -> list[str]:
    demand = (await place.http.post("/market-api/v1/demands", json=DEMAND)).json()
    scan = (await place.http.post("/market-api/v1/scan", json={"type": "offer"})).json()
    return [
        f"/market-api/v1/demands/{demand}/events?timeout=300",
        "/market-api/v1/agreementEvents?timeout=300",
        f"/market-api/v1/scan/{scan}/events?timeout=300",
        "/payment-api/v1/invoiceEvents?timeout=300",
        "/payment-api/v1/debitNoteEvents?timeout=300",
        "/payment-api/v1/payments?timeout=300",
        "/activity-api/v1/events?timeout=300",
    ]


async def test_polls_whose_clients_vanish_hold_nothing(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        asked = await paths(place)
        scan = next(path.split("/")[4] for path in asked if "/scan/" in path)
        streams = [f"/market-api/v1/scan/{scan}/events", "/activity-api/v1/_monitor"]
        before = tasks()
        async with trio.open_nursery() as nursery:
            stop = trio.Event()

            async def hang(path: str, stream: bool) -> None:
                async with place.asking(path, stream=stream):
                    await stop.wait()

            for number in range(POLLS):
                nursery.start_soon(hang, asked[number % len(asked)], False)
            for path in streams * 5:
                nursery.start_soon(hang, path, True)
            await until_tasks_are(before + 3 * POLLS, at_least=True)  # each has its connection and its request
            stop.set()
        await until_tasks_are(before, at_least=False)
        assert (await place.http.get("/market-api/v1/demands")).status_code == 200


async def test_news_end_all_polls_at_once(tmp_path: Path) -> None:
    async with open_place(tmp_path) as place:
        scan = (await place.http.post("/market-api/v1/scan", json={"type": "offer"})).json()
        demand = (await place.http.post("/market-api/v1/demands", json=DEMAND)).json()
        answered: list[bytes] = []
        before = tasks()

        async def ask(path: str) -> None:
            async with place.asking(path) as connection:
                answered.append((await connection.receive_some()).split(b"\r\n")[0])

        async with trio.open_nursery() as nursery:
            for number in range(POLLS):
                nursery.start_soon(
                    ask,
                    f"/market-api/v1/scan/{scan}/events?timeout=300"
                    if number == 0
                    else f"/market-api/v1/demands/{demand}/events?timeout=300",
                )
            await until_tasks_are(before + 3 * POLLS, at_least=True)
            assert answered == []
            started = trio.current_time()
            with trio.fail_after(PATIENCE_S):
                await place.node.market.subscribe(RecordKind.OFFER, {"a": 1}, "()", "k")
                await place.node.market.unsubscribe(RecordKind.DEMAND, demand)
                while len(answered) < POLLS:  # noqa: ASYNC110 - bounded above
                    await trio.sleep(0.01)
            assert trio.current_time() - started < 2
        assert sorted(answered) == [b"HTTP/1.1 200 "] + [b"HTTP/1.1 404 "] * (POLLS - 1)
