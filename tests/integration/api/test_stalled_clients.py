"""Clients that stop reading cost neither the others nor the end of the node; WebSockets are as fast as they can be."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest
import trio
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import StreamingResponse
from starlette.websockets import WebSocket
from websockets.sync.client import connect

from golemp2p import limits
from golemp2p.api.server import serve_rest
from golemp2p.api.sockets import _Masker
from golemp2p.node import bind_rest

BLOCK = bytes(256 * 1024)


class World:
    def __init__(self) -> None:
        self.app = FastAPI()
        self.sent_bytes = 0
        self._seen_bytes, self._seen_at = 0, 0.0
        self.app.add_api_route("/endless", self._endless)
        self.app.add_api_websocket_route("/echo", self._echo)

    async def _endless(self) -> StreamingResponse:
        return StreamingResponse(self)

    def __aiter__(self) -> World:
        return self

    async def __anext__(self) -> bytes:
        self.sent_bytes += len(BLOCK)
        return BLOCK

    @staticmethod
    async def _echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_bytes(await websocket.receive_bytes())
        await websocket.close()

    async def stalled_client(self, listener: socket.socket) -> socket.socket:
        """Connected, and the server can write no more to it."""
        client = socket.create_connection(listener.getsockname())
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with trio.fail_after(20):
            while not self._waits():  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.05)
        return client

    def _waits(self) -> bool:
        """Whether the server has written since the last look, and not for a while."""
        now = trio.current_time()
        if self.sent_bytes != self._seen_bytes:
            self._seen_bytes, self._seen_at = self.sent_bytes, now
        return self._seen_bytes > 0 and now - self._seen_at > 1.0


def read_to_the_end(client: socket.socket) -> int:
    """What was under way when the server cut the connection."""
    size = 0
    with suppress(ConnectionResetError):
        while block := client.recv(1024 * 1024):
            size += len(block)
            assert size < 64 * 1024 * 1024, "the server goes on"
    return size


async def test_a_client_that_does_not_read_does_not_keep_the_server_from_ending() -> None:
    world = World()
    with bind_rest("127.0.0.1:0") as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_rest, world.app, listener)
            client = await world.stalled_client(listener)
            started = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - started < 2 * limits.REST_SHUTDOWN_GRACE_S + 1
        client.close()


async def test_a_client_that_takes_nothing_for_long_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REST_WRITE_STALL_S", 0.5)
    world = World()
    with bind_rest("127.0.0.1:0") as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_rest, world.app, listener)
            client = await world.stalled_client(listener)
            client.settimeout(10)
            assert await trio.to_thread.run_sync(read_to_the_end, client) <= world.sent_bytes
            nursery.cancel_scope.cancel()
        client.close()


async def test_sockets_do_not_compress_even_for_clients_that_offer_it() -> None:
    world = World()
    with bind_rest("127.0.0.1:0") as listener:
        host, port = listener.getsockname()[:2]

        def talk() -> None:
            with connect(f"ws://{host}:{port}/echo", compression="deflate", proxy=None, max_size=None) as found:
                assert not found.protocol.extensions
                found.send(BLOCK)
                assert found.recv() == BLOCK

        async with trio.open_nursery() as nursery:
            await nursery.start(serve_rest, world.app, listener)
            await trio.to_thread.run_sync(talk)
            nursery.cancel_scope.cancel()


@given(st.binary(min_size=4, max_size=4), st.lists(st.binary(max_size=40), max_size=6))
def test_a_mask_goes_on_where_it_stopped(key: bytes, pieces: list[bytes]) -> None:
    masker = _Masker(key)
    whole = b"".join(pieces)
    found = b"".join(bytes(masker.process(bytearray(piece))) for piece in pieces)
    assert found == bytes(byte ^ key[index % 4] for index, byte in enumerate(whole))
