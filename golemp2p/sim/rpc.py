"""Rpc between simulated nodes: net.rpc's contract, a call as two messages on the wire instead of frames on a stream.

Bodies go through msgpack as they do on a real stream, handlers run with the same bounds and their errors come back as
the same families. A connection that ends takes its calls with it; a lost message is a silent peer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import pydantic
import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import DeadlineError, GolemError, NetworkError, UsageError
from golemp2p.net.frames import Failure
from golemp2p.net.rpc import Method, Rpc, SendItem, StreamMethod
from golemp2p.net.rpc_caller import error_of
from golemp2p.sim import model
from golemp2p.sim.network import SimNetwork

log = structlog.get_logger(__name__)


class SimRpc(Rpc):
    """``on_call(caller, callee, method, outcome, body)`` hears of every call that came to an end."""

    def __init__(self, network: SimNetwork, book: dict[PeerId, SimRpc], on_call: Callable[..., None]) -> None:
        super().__init__(network)
        self._net = network
        self._book = book  # of all nodes that live
        self._on_call = on_call
        self._methods: dict[tuple[str, str], Method] = {}
        self._streams: dict[tuple[str, str], StreamMethod] = {}
        self._serving: Counter[PeerId] = Counter()
        book[network.peer_id] = self

    def serve(self, protocol: str, methods: Mapping[str, Method], streams: Mapping[str, StreamMethod] = {}) -> None:
        self._methods.update({(protocol, name): method for name, method in methods.items()})
        self._streams.update({(protocol, name): method for name, method in streams.items()})

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    # --- calling ----------------------------------------------------------------------------------------------------

    async def call(
        self, peer: PeerId, protocol: str, method: str, body: Mapping[str, object], *, timeout_s: float
    ) -> Any:
        if peer == self._net.peer_id:
            raise UsageError("a node opens no stream to itself")
        packed: bytes = msgpack.packb(dict(body))
        if len(packed) > limits.RPC_MAX_FRAME_BYTES:
            raise UsageError("a message is too large", hint=f"at most {limits.RPC_MAX_FRAME_BYTES} bytes")
        outcome = "cancelled"
        try:
            with trio.move_on_after(timeout_s):
                answer = await self._exchange(peer, protocol, method, packed, timeout_s)
                outcome = "ok"
                return answer
            outcome = "deadline"
            raise DeadlineError(f"{method} of {peer} was not answered within {timeout_s:g} s")
        except GolemError as exc:
            outcome = exc.code
            raise
        finally:
            self._on_call(self._net.index, self._net.hub.indexes.get(peer, -1), method, outcome, body)

    async def _exchange(self, peer: PeerId, protocol: str, method: str, packed: bytes, timeout_s: float) -> Any:
        await self._connect(peer)
        with trio.CancelScope() as scope, self._tied_to(peer, scope):
            await self._travel(self._net, peer, len(packed))
            remote = self._remote(peer)
            reply = await remote._answer(self._net.peer_id, protocol, method, packed, timeout_s)
            size = len(reply) if isinstance(reply, bytes) else len(reply.message) + len(reply.hint)
            await self._travel(remote._net, self._net.peer_id, size)
            if isinstance(reply, bytes):
                return msgpack.unpackb(reply)
            raise error_of(reply)
        raise NetworkError(f"the {protocol} stream to {peer} broke", hint="its connection was lost")

    async def _connect(self, peer: PeerId) -> None:
        if peer not in self._net.connections:
            await self._net.dial(peer)
        if self._net.closed:
            raise NetworkError("this node is gone")

    def _remote(self, peer: PeerId) -> SimRpc:
        found = self._book.get(peer)
        if found is None or found._net.closed:
            raise NetworkError(f"peer {peer} cannot be reached")
        return found

    class _Tie:
        def __init__(self, ties: list[dict[trio.CancelScope, None]], scope: trio.CancelScope) -> None:
            self._ties, self._scope = ties, scope

        def __enter__(self) -> None:
            for tie in self._ties:
                tie[self._scope] = None

        def __exit__(self, *_: object) -> None:
            for tie in self._ties:
                tie.pop(self._scope, None)

    def _tied_to(self, peer: PeerId, scope: trio.CancelScope) -> _Tie:
        """The end of the connection, seen from either side, cancels ``scope``."""
        remote = self._remote(peer)
        ours = self._net.exchanges.setdefault(peer, {})
        theirs = remote._net.exchanges.setdefault(self._net.peer_id, {})
        return self._Tie([ours, theirs], scope)

    async def _travel(self, sender: SimNetwork, to: PeerId, size: int) -> None:
        hub = sender.hub
        n_bytes = size + model.RPC_FRAME_BYTES
        sender._count("rpc", 1, n_bytes)
        index = hub.indexes[to]
        if hub.wires.is_lost():
            await trio.sleep_forever()  # the caller's deadline ends it
        await trio.sleep(hub.wires.delay_s(sender.base_s(index), sender.index, n_bytes, trio.current_time()))
        flow = hub.traffic[index].flows["rpc"]
        flow.received += 1
        flow.received_bytes += n_bytes

    # --- answering --------------------------------------------------------------------------------------------------

    async def _answer(
        self, caller: PeerId, protocol: str, method: str, packed: bytes, timeout_s: float
    ) -> bytes | Failure:
        """As rpc_server does. Never raises but Cancelled."""
        handler = self._methods.get((protocol, method))
        if handler is None:
            return Failure(0, "unknown_method", f"{protocol} has no method {method!r}")
        if self._serving[caller] >= limits.RPC_MAX_CONCURRENT:
            return Failure(0, "busy", "too many requests at the same time", f"at most {limits.RPC_MAX_CONCURRENT}")
        self._serving[caller] += 1
        try:
            with trio.fail_after(timeout_s):
                answer = await handler(caller, msgpack.unpackb(packed))
            return bytes(msgpack.packb(answer))
        except trio.TooSlowError:
            return Failure(0, "deadline", f"{method} was not done within {timeout_s:g} s")
        except Exception as exc:  # noqa: BLE001 - as the real server: told to nobody but the log
            return self._failure(exc, method)
        finally:
            self._serving[caller] -= 1
            if not self._serving[caller]:
                del self._serving[caller]

    def _failure(self, exc: Exception, method: str) -> Failure:
        if isinstance(exc, GolemError):
            return Failure(0, exc.code, exc.message, exc.hint)
        if isinstance(exc, pydantic.ValidationError):
            return Failure(0, "remote_protocol", f"field {exc.errors()[0]['loc']}: {exc.errors()[0]['msg']}")
        log.exception("rpc handler failed", method=method, error=repr(exc))
        return Failure(0, "internal", "internal error at the peer")

    # --- streams ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def stream(
        self, peer: PeerId, protocol: str, method: str, body: Mapping[str, object], *, timeout_s: float
    ) -> AsyncIterator[AsyncIterator[Any]]:
        with trio.move_on_after(timeout_s) as opening:
            await self._connect(peer)
            packed: bytes = msgpack.packb(dict(body))
            await self._travel(self._net, peer, len(packed))
        if opening.cancelled_caught:
            raise DeadlineError(f"{method} of {peer} was not answered within {timeout_s:g} s")
        remote = self._remote(peer)
        if peer not in self._net.connections:
            raise NetworkError(f"the {protocol} stream to {peer} broke", hint="its connection was lost")
        send, receive = trio.open_memory_channel[Piece](limits.RPC_STREAM_CREDIT)
        failure: list[BaseException] = []
        broken = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            with self._tied_to(peer, broken):
                nursery.start_soon(remote._serve_stream, self, protocol, method, packed, send, broken)
                try:
                    yield _Items(receive, peer, method, timeout_s)
                except (GolemError, StopAsyncIteration) as exc:  # kept out of the nursery, which would wrap it
                    failure.append(exc)
                nursery.cancel_scope.cancel()
        if failure:
            raise failure[0]

    async def _serve_stream(
        self,
        caller: SimRpc,
        protocol: str,
        method: str,
        packed: bytes,
        send: trio.MemorySendChannel[Piece],
        broken: trio.CancelScope,
    ) -> None:
        handler = self._streams.get((protocol, method))
        end: Failure | None = Failure(0, "unknown_method", f"{protocol} has no stream method {method!r}")

        async def send_item(item: object) -> None:
            data: bytes = msgpack.packb(item)
            await caller._travel(self._net, caller._net.peer_id, len(data))
            await send.send((data, None))

        with send:
            with broken:
                if handler is not None:
                    end = await self._run_stream(
                        handler, caller._net.peer_id, msgpack.unpackb(packed), send_item, method
                    )
            if broken.cancelled_caught:
                end = Failure(0, NetworkError.code, "the stream broke")
            await send.send((None, end))

    async def _run_stream(
        self, handler: StreamMethod, caller: PeerId, body: Any, send_item: SendItem, method: str
    ) -> Failure | None:
        try:
            await handler(caller, body, send_item)
        except Exception as exc:  # noqa: BLE001 - as the real server: told to nobody but the log
            return self._failure(exc, method)
        return None


Piece = tuple[bytes | None, Failure | None]


class _Items:
    """The caller's end of a stream method."""

    def __init__(self, receive: trio.MemoryReceiveChannel[Piece], peer: PeerId, method: str, timeout_s: float) -> None:
        self._receive, self._peer, self._method, self._timeout_s = receive, peer, method, timeout_s

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        with trio.move_on_after(self._timeout_s) as scope:
            data, end = await self._receive.receive()
        if scope.cancelled_caught:
            raise DeadlineError(f"{self._method} of {self._peer} was silent for {self._timeout_s:g} s")
        if data is not None:
            return msgpack.unpackb(data)
        if end is None:
            raise StopAsyncIteration
        if end.code == NetworkError.code:
            raise NetworkError(f"the stream to {self._peer} broke", hint="its connection was lost")
        raise error_of(end)
