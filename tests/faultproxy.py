"""A JSON-RPC proxy that misbehaves to order, in front of a real chain: slow, silent, busy, lying, on another chain.

    async with fault_proxy(chain.rpc_url) as proxy:
        proxy.fault = drop("eth_getTransactionReceipt")     # or several: proxy.faults = [delay(1), busy(after_s=2)]
        ...
        proxy.fault = None
        assert proxy.calls["eth_sendRawTransaction"] == 1

It runs in threads of its own, so it answers whatever the test's event loop does.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import trio

Json = Any
Lie = Callable[[str, list[Any], Json], Json]
LONG_S = 60.0  # a client that waits for so long has no deadline of its own


@dataclass
class Fault:
    """``methods``: which calls it hits; none: all. ``times``: how often, then it is over."""

    methods: frozenset[str]
    times: float
    delay_s: float = 0.0
    status: int = 0  # an HTTP status instead of the answer; -1 is a cut connection
    after_s: float | None = None  # with a status: Retry-After
    body: bytes | None = None  # instead of the answer
    error: str = ""  # a JSON-RPC error instead of the result
    forward: bool = False  # the chain gets the call before the status
    lie: Lie | None = None

    def hits(self, method: str) -> bool:
        return self.times > 0 and (not self.methods or method in self.methods)


def _fault(methods: tuple[str, ...], times: float, **what: Any) -> Fault:
    return Fault(frozenset(methods), times, **what)


def delay(seconds: float, *methods: str, times: float = float("inf")) -> Fault:
    return _fault(methods, times, delay_s=seconds)


def drop(*methods: str, times: float = float("inf")) -> Fault:
    """The connection is cut without an answer; the chain never hears of the call."""
    return _fault(methods, times, status=-1)


def silent(*methods: str) -> Fault:
    """No answer, ever."""
    return _fault(methods, float("inf"), delay_s=LONG_S)


def busy(*methods: str, after_s: float | None = None, times: float = float("inf")) -> Fault:
    return _fault(methods, times, status=429, after_s=after_s)


def after_accepting(*methods: str, times: float = float("inf"), status: int = 502) -> Fault:
    """The chain gets the transaction; its sender gets an error."""
    return _fault(methods or ("eth_sendRawTransaction",), times, status=status, forward=True)


def garbage(*methods: str, body: bytes = b"<html>maintenance</html>", times: float = float("inf")) -> Fault:
    return _fault(methods, times, body=body)


def refuse(message: str, *methods: str, times: float = float("inf")) -> Fault:
    return _fault(methods, times, error=message)


def lie(change: Lie, *methods: str, times: float = float("inf")) -> Fault:
    """``change(method, params, result)`` is answered; a ValueError that it raises is a JSON-RPC error."""
    return _fault(methods, times, lie=change)


def wrong_chain(chain_id: int) -> Fault:
    return lie(lambda _method, _params, _result: hex(chain_id), "eth_chainId", "net_version")


def stale(age_s: float) -> Fault:
    """The head's time stamp is so old."""

    def aged(_method: str, params: list[Any], block: Json) -> Json:
        return {**block, "timestamp": hex(int(time.time() - age_s))} if params[0] == "latest" else block

    return lie(aged, "eth_getBlockByNumber")


@dataclass
class FaultProxy:
    """``calls``: how often each method was asked for, faults included; ``requests``: HTTP requests."""

    url: str
    upstream: str
    faults: list[Fault] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    batches: bool = True  # False: refuses several calls in one request, as some free endpoints do
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def fault(self) -> Fault | None:
        return self.faults[0] if self.faults else None

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self.faults = [] if fault is None else [fault]

    def freeze(self) -> None:
        """From now on its newest block is the one that is the newest now."""
        block = self.ask("eth_getBlockByNumber", ["latest", False])

        def frozen(method: str, params: list[Any], result: Json) -> Json:
            if method == "eth_blockNumber":
                return block["number"]
            return block if params[0] == "latest" else result

        self.faults = [*self.faults, lie(frozen, "eth_blockNumber", "eth_getBlockByNumber")]

    def ask(self, method: str, params: list[Any]) -> Json:
        """Blocking, of the chain itself."""
        return json.loads(self.forward({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))["result"]

    def forward(self, request: Json) -> bytes:
        parts = urlsplit(self.upstream)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=LONG_S)
        try:
            connection.request("POST", "/", json.dumps(request), {"Content-Type": "application/json"})
            return connection.getresponse().read()
        finally:
            connection.close()

    def take(self, methods: list[str]) -> list[Fault]:
        """The faults that hit one HTTP request."""
        hit = [fault for fault in self.faults if any(fault.hits(method) for method in methods)]
        for fault in hit:
            fault.times -= 1
        return hit


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 64 * 1024  # head and body in one packet: two wait 40 ms for each other
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            single = isinstance(request, dict)
            calls = [request] if single else request
            methods = [call["method"] for call in calls]
            proxy.requests += 1
            if not single and not proxy.batches:
                return self._send(400, b"{}")
            proxy.calls.update(methods)
            faults = proxy.take(methods)
            if any(proxy.closing.wait(f.delay_s) for f in faults if f.delay_s):
                return self._cut()
            for fault in faults:
                if fault.status:
                    if fault.forward:
                        self._upstream(request)
                    return self._cut() if fault.status < 0 else self._send(fault.status, b"{}", fault.after_s)
                if fault.body is not None:
                    return self._send(200, fault.body)
            answer = self._upstream(request)
            if answer is None:
                return self._cut()
            replies = json.loads(answer)
            changed = [
                self._changed(c, r, faults) for c, r in zip(calls, [replies] if single else replies, strict=True)
            ]
            return self._send(200, json.dumps(changed[0] if single else changed).encode())

        def _changed(self, call: Json, reply: Json, faults: list[Fault]) -> Json:
            for fault in faults:
                if fault.methods and call["method"] not in fault.methods:
                    continue
                if fault.error:
                    reply = self._error(call, fault.error)
                elif fault.lie is not None and "result" in reply:
                    try:
                        result = fault.lie(call["method"], call.get("params") or [], reply["result"])
                    except ValueError as exc:
                        reply = self._error(call, str(exc))
                    else:
                        reply = {**reply, "result": result}
            return reply

        @staticmethod
        def _error(call: Json, message: str) -> Json:
            return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": -32000, "message": message}}

        def _upstream(self, request: Json) -> bytes | None:
            try:
                return proxy.forward(request)
            except (OSError, HTTPException):
                return None

        def _cut(self) -> None:
            self.close_connection = True

        def _send(self, status: int, body: bytes, after_s: float | None = None) -> None:
            try:
                self.send_response(status)
                if after_s is not None:
                    self.send_header("Retry-After", f"{after_s:g}")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:  # the client did not wait for it
                self.close_connection = True

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
            """Quiet."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


@asynccontextmanager
async def fault_proxy(upstream: str) -> AsyncIterator[FaultProxy]:
    """A proxy on a free port of loopback."""
    proxy = FaultProxy("", upstream)
    server = _Server(("127.0.0.1", 0), _handler(proxy))
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(server.shutdown)
        server.server_close()
