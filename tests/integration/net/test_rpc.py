"""RPC, on both adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pydantic
import pytest
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import (
    ConflictError,
    DeadlineError,
    GoneError,
    NetworkError,
    NotFoundError,
    PolicyError,
    RemoteError,
    UsageError,
)
from golemp2p.net.frames import Response, encode
from golemp2p.net.port import Network
from golemp2p.net.rpc import Rpc, SendItem
from tests.integration.net.conftest import until

PROTOCOL = "/golemp2p-test-rpc/1"


class Body(pydantic.BaseModel):
    price: int


@asynccontextmanager
async def rpcs(nodes: list[Network]) -> AsyncIterator[tuple[Rpc, Rpc]]:
    async with trio.open_nursery() as nursery:
        first, second = Rpc(nodes[0]), Rpc(nodes[1])
        await nursery.start(first.run)
        await nursery.start(second.run)
        yield first, second
        nursery.cancel_scope.cancel()


async def echo(peer: PeerId, body: dict[str, Any]) -> object:
    return {"peer": peer, "body": body}


async def test_calls_go_both_ways_and_many_at_once(nodes: list[Network]) -> None:
    async with rpcs(nodes) as (one, other):
        one.serve(PROTOCOL, {"echo": echo})
        other.serve(PROTOCOL, {"echo": echo})
        answers: list[int] = []

        async def ask(i: int) -> None:
            answer = await one.call(nodes[1].peer_id, PROTOCOL, "echo", {"i": i, "b": b"\0", "f": 0.0}, timeout_s=10)
            assert answer["peer"] == nodes[0].peer_id
            assert isinstance(answer["body"]["f"], float)
            answers.append(answer["body"]["i"])

        async with trio.open_nursery() as nursery:
            for i in range(100):
                nursery.start_soon(ask, i)
        assert sorted(answers) == list(range(100))
        answer = await other.call(nodes[0].peer_id, PROTOCOL, "echo", {}, timeout_s=10)
        assert answer["peer"] == nodes[1].peer_id
        assert nodes[0].statistics().streams_opened <= 3  # ours, and libp2p's keepalives


@pytest.mark.parametrize("family", [NotFoundError, GoneError, ConflictError, UsageError, PolicyError])
async def test_a_handlers_error_comes_back_as_itself(nodes: list[Network], family: type[UsageError]) -> None:
    async def fail(peer: PeerId, body: dict[str, Any]) -> object:
        raise family("what went wrong", hint="what to do")

    async with rpcs(nodes) as (one, other):
        other.serve(PROTOCOL, {"fail": fail})
        with pytest.raises(family, match="what went wrong") as caught:
            await one.call(nodes[1].peer_id, PROTOCOL, "fail", {}, timeout_s=10)
        assert type(caught.value) is family
        assert caught.value.hint == "what to do"


async def test_other_errors_are_remote_errors_without_our_secrets(nodes: list[Network]) -> None:
    async def bug(peer: PeerId, body: dict[str, Any]) -> object:
        raise ValueError("the password is hunter2")

    async def validate(peer: PeerId, body: dict[str, Any]) -> object:
        return Body.model_validate(body).price

    async def unsendable(peer: PeerId, body: dict[str, Any]) -> object:
        return object()

    async with rpcs(nodes) as (one, other):
        other.serve(PROTOCOL, {"bug": bug, "validate": validate, "unsendable": unsendable})
        for method, code in {"bug": "internal", "unsendable": "internal", "nothing": "unknown_method"}.items():
            with pytest.raises(RemoteError) as caught:
                await one.call(nodes[1].peer_id, PROTOCOL, method, {}, timeout_s=10)
            assert caught.value.code == code
            assert "hunter2" not in str(caught.value)
        with pytest.raises(RemoteError, match="price") as caught:
            await one.call(nodes[1].peer_id, PROTOCOL, "validate", {"price": "much"}, timeout_s=10)
        assert caught.value.code == "remote_protocol"


async def test_deadlines_and_cancellation_reach_the_remote_handler(nodes: list[Network]) -> None:
    ended: list[str] = []
    begun = trio.Event()

    async def slow(peer: PeerId, body: dict[str, Any]) -> object:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.append("ended")

    async with rpcs(nodes) as (one, other):
        other.serve(PROTOCOL, {"slow": slow, "echo": echo})
        with pytest.raises(DeadlineError):
            await one.call(nodes[1].peer_id, PROTOCOL, "slow", {}, timeout_s=0.2)
        await until("the handler was ended by the deadline", lambda: len(ended) == 1)
        begun = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: one.call(nodes[1].peer_id, PROTOCOL, "slow", {}, timeout_s=60))
            await begun.wait()
            nursery.cancel_scope.cancel()
        await until("the handler was cancelled", lambda: len(ended) == 2)
        await one.call(nodes[1].peer_id, PROTOCOL, "echo", {}, timeout_s=10)


async def test_a_slow_reader_stops_the_stream_and_leaving_cancels_it(nodes: list[Network]) -> None:
    sent: list[int] = []
    ended = trio.Event()

    async def count(peer: PeerId, body: dict[str, Any], send: SendItem) -> None:
        try:
            for i in range(body["n"]):
                await send({"i": i})
                sent.append(i)
        finally:
            ended.set()

    async with rpcs(nodes) as (one, other):
        other.serve(PROTOCOL, {}, {"count": count})
        async with one.stream(nodes[1].peer_id, PROTOCOL, "count", {"n": 500}, timeout_s=10) as items:
            assert [item["i"] async for item in items] == list(range(500))
        sent.clear()
        ended = trio.Event()
        async with one.stream(nodes[1].peer_id, PROTOCOL, "count", {"n": 10**9}, timeout_s=10) as items:
            assert (await anext(items))["i"] == 0
            await until("the credit is used up", lambda: len(sent) >= limits.RPC_STREAM_CREDIT)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert len(sent) <= limits.RPC_STREAM_CREDIT
        await until("the handler was cancelled", ended.is_set)


async def test_a_stream_ends_with_the_handlers_error_and_with_silence(nodes: list[Network]) -> None:
    async def fail(peer: PeerId, body: dict[str, Any], send: SendItem) -> None:
        await send(1)
        raise GoneError("it has ended")

    async def silent(peer: PeerId, body: dict[str, Any], send: SendItem) -> None:
        await trio.sleep_forever()

    async with rpcs(nodes) as (one, other):
        other.serve(PROTOCOL, {}, {"fail": fail, "silent": silent})
        async with one.stream(nodes[1].peer_id, PROTOCOL, "fail", {}, timeout_s=10) as items:
            assert await anext(items) == 1
            with pytest.raises(GoneError):
                await anext(items)
        async with one.stream(nodes[1].peer_id, PROTOCOL, "silent", {}, timeout_s=0.2) as items:
            with pytest.raises(DeadlineError):
                await anext(items)


async def test_a_lost_connection_fails_all_calls_at_once_and_the_next_reopens(nodes: list[Network]) -> None:
    async def slow(peer: PeerId, body: dict[str, Any]) -> object:
        await trio.sleep_forever()

    failures: list[str] = []
    async with rpcs(nodes) as (one, other):
        other.serve(PROTOCOL, {"slow": slow, "echo": echo})

        async def ask() -> None:
            with pytest.raises(NetworkError) as caught:
                await one.call(nodes[1].peer_id, PROTOCOL, "slow", {}, timeout_s=60)
            assert not isinstance(caught.value, DeadlineError)
            failures.append(str(caught.value))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
            await one.call(nodes[1].peer_id, PROTOCOL, "echo", {}, timeout_s=10)
            await nodes[1].disconnect(nodes[0].peer_id)
        assert len(failures) == 5
        await one.call(nodes[1].peer_id, PROTOCOL, "echo", {}, timeout_s=10)


async def test_an_oversized_message_is_refused_before_it_is_sent(nodes: list[Network]) -> None:
    async def large(peer: PeerId, body: dict[str, Any]) -> object:
        return bytes(limits.RPC_MAX_FRAME_BYTES)

    async with rpcs(nodes) as (one, other):
        other.serve(PROTOCOL, {"large": large, "echo": echo})
        with pytest.raises(UsageError, match="too large"):
            await one.call(nodes[1].peer_id, PROTOCOL, "echo", {"x": bytes(limits.RPC_MAX_FRAME_BYTES)}, timeout_s=10)
        with pytest.raises(RemoteError):
            await one.call(nodes[1].peer_id, PROTOCOL, "large", {}, timeout_s=10)
        answer = await one.call(nodes[1].peer_id, PROTOCOL, "echo", {"x": bytes(10**6)}, timeout_s=10)
        assert len(answer["body"]["x"]) == 10**6


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", b"\0\0\0\0", encode(Response(1, None)), b"\0\0\0\x01\xc1"],
)
async def test_garbage_costs_its_stream_and_a_repeater_is_banned(nodes: list[Network], garbage: bytes) -> None:
    async with rpcs(nodes) as (one, other):
        other.serve(PROTOCOL, {"echo": echo})
        for attempt in range(limits.PEER_FAULTS_TO_BAN):
            stream = await nodes[0].open_stream(nodes[1].peer_id, PROTOCOL)
            await stream.write(garbage)
            with pytest.raises(NetworkError):
                while await stream.read(1000):
                    pass
            if attempt == 0:
                await one.call(nodes[1].peer_id, PROTOCOL, "echo", {}, timeout_s=10)
        await until(
            "it is cut off", lambda: not any(i.connected for i in nodes[1].peers() if i.peer == nodes[0].peer_id)
        )


async def test_more_requests_than_allowed_are_told_so(nodes: list[Network]) -> None:
    release = trio.Event()

    async def wait(peer: PeerId, body: dict[str, Any]) -> object:
        await release.wait()
        return None

    busy: list[str] = []
    async with rpcs(nodes) as (one, other):
        other.serve(PROTOCOL, {"wait": wait})

        async def ask() -> None:
            try:
                await one.call(nodes[1].peer_id, PROTOCOL, "wait", {}, timeout_s=30)
            except RemoteError as exc:
                busy.append(exc.code)

        async with trio.open_nursery() as nursery:
            for _ in range(limits.RPC_MAX_CONCURRENT + 5):
                nursery.start_soon(ask)
            await until("the surplus is refused", lambda: len(busy) == 5)
            release.set()
        assert busy == ["busy"] * 5


async def test_a_stream_without_calls_is_closed_and_the_next_call_opens_another(
    nodes: list[Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RPC_IDLE_S", 0.1)

    async def echo(_peer: PeerId, body: dict[str, Any]) -> object:
        return body

    async with rpcs(nodes) as (one, other):
        other.serve(PROTOCOL, {"echo": echo})
        for number in range(2):
            assert await one.call(nodes[1].peer_id, PROTOCOL, "echo", {"n": number}, timeout_s=60) == {"n": number}
            await until("it is closed", lambda: not one._caller._links, 60)
