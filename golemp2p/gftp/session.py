"""The socket to the node: names are bound on it, and the node asks for their files. A cut connection is made again."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from golemp2p.errors import GolemError, NetworkError, PolicyError, UsageError
from golemp2p.gftp.files import FileFault, Handler

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

PREFIX: Final = "/public/gftp/"
_PATH: Final = "/golemp2p/v1/gftp"
_CALL_TIMEOUT_S: Final = 30.0
_OPEN_TIMEOUT_S: Final = 10.0
_RETRY_MIN_S: Final = 0.2
_RETRY_MAX_S: Final = 5.0
_MAX_FRAME_BYTES: Final = 4 * 1024 * 1024


class _CutError(NetworkError):
    """The connection broke under a call."""


class Session:
    """Used by one thread; another serves. Connects with the first name."""

    def __init__(self, url: str, app_key: str) -> None:
        self._url, self._app_key = url, app_key
        self._handlers: dict[str, tuple[Handler, bool]] = {}
        self._socket: ClientConnection | None = None
        self._answers: dict[str, tuple[threading.Event, dict[str, Any]]] = {}
        self._lock = threading.Lock()  # of the three above
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None  # it connects again when need be, and nobody else
        self._up = threading.Event()

    def bind(self, name: str, handler: Handler, *, anybody: bool = False) -> str:
        """Serve ``name`` with ``handler`` instead of an earlier one; the node's address.

        Raises NetworkError (no node), UsageError (it refused).
        """
        with self._lock:
            before = self._handlers.get(name)
            self._handlers[name] = handler, anybody
        binding = {"bind": _binding(name, handler, anybody)}
        try:
            try:
                answer = self._call(self._connected(), binding)
            except _CutError:  # the node may have been started again; binding twice changes nothing
                answer = self._call(self._connected(), binding)
        except GolemError:
            with self._lock:
                self._handlers.pop(name, None)
            raise
        if before is not None:
            before[0].close()
        return str(answer.get("address"))

    def unbind(self, name: str) -> bool:
        """Whether it was bound."""
        with self._lock:
            found = self._handlers.pop(name, None)
            socket = self._socket
        if found is None:
            return False
        if socket is not None:
            with contextlib.suppress(NetworkError):  # then it went with the socket
                self._call(socket, {"unbind": PREFIX + name})
        found[0].close()
        return True

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            socket, handlers = self._socket, list(self._handlers.values())
            self._handlers.clear()
        if socket is not None:
            socket.close()
        for handler, _ in handlers:
            handler.close()

    # --- the connection ---------------------------------------------------------------------------------------------
    def _connected(self) -> ClientConnection:
        """Raises NetworkError, PolicyError."""
        deadline_s = time.monotonic() + _OPEN_TIMEOUT_S
        while True:
            with self._lock:
                if self._socket is not None:
                    return self._socket
                if self._thread is None:
                    break
            if not self._up.wait(deadline_s - time.monotonic()):
                raise NetworkError(f"the connection to {self._url} was cut", hint="is the node running?")
        socket = self._connect()
        with self._lock:
            self._socket = socket
            self._thread = thread = threading.Thread(target=self._run, args=(socket,), daemon=True, name="gftp")
            self._up.set()
        thread.start()
        return socket

    def _connect(self) -> ClientConnection:
        # Imported late: `version` and the start do without them.
        from websockets.exceptions import InvalidStatus, WebSocketException
        from websockets.sync.client import connect

        url = self._url.replace("http", "ws", 1).rstrip("/") + _PATH
        try:
            # Entered here, left by close(): a connection outlives this call.
            return connect(
                url,
                additional_headers={"Authorization": f"Bearer {self._app_key}"},
                compression=None,
                max_size=_MAX_FRAME_BYTES,
                open_timeout=_OPEN_TIMEOUT_S,
                close_timeout=1.0,
                ping_interval=None,
                proxy=None,
            ).__enter__()
        except InvalidStatus as exc:
            if exc.response.status_code in (401, 403):
                raise PolicyError(
                    f"the node at {self._url} refuses the app-key", hint="set YAGNA_APPKEY to one of its keys"
                ) from exc
            raise NetworkError(f"{self._url} answered {exc.response.status_code}: is it a golemp2p node?") from exc
        except (OSError, TimeoutError, WebSocketException) as exc:
            raise NetworkError(f"no node answers at {self._url}", hint="start one with: golemp2p run") from exc

    def _call(self, socket: ClientConnection, fields: dict[str, Any]) -> dict[str, Any]:
        call_id = str(uuid.uuid4())
        entry: tuple[threading.Event, dict[str, Any]] = (threading.Event(), {})
        with self._lock:
            self._answers[call_id] = entry
        try:
            self._send(socket, {"id": call_id, **fields})
            if not entry[0].wait(_CALL_TIMEOUT_S):
                raise NetworkError(f"the node did not answer within {_CALL_TIMEOUT_S:g} s")
        finally:
            with self._lock:
                self._answers.pop(call_id, None)
        if not entry[1]:
            raise _CutError("the connection to the node was cut")
        if "error" in entry[1]:
            raise UsageError(str(entry[1]["error"]))
        return entry[1]

    @staticmethod
    def _send(socket: ClientConnection, fields: dict[str, Any]) -> None:
        from websockets.exceptions import ConnectionClosed

        from golemp2p.wire import gsb as wire

        try:
            socket.send(wire.encode(fields))
        except (ConnectionClosed, OSError) as exc:
            raise _CutError("the connection to the node was cut") from exc

    # --- the serving thread -----------------------------------------------------------------------------------------
    def _run(self, socket: ClientConnection) -> None:
        found: ClientConnection | None = socket
        while found is not None:
            self._serve(found)
            with self._lock:
                self._socket = None
                self._up.clear()
                for event, _ in self._answers.values():
                    event.set()
                if not self._handlers:  # the next name connects again
                    self._thread = None
                    return
            found = self._again()

    def _serve(self, socket: ClientConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        from golemp2p.wire import gsb as wire

        with contextlib.suppress(ConnectionClosed, OSError, NetworkError):
            while not self._closing.is_set():
                data = socket.recv()
                frame = wire.decode(data if isinstance(data, bytes) else data.encode())
                if "component" in frame:
                    self._answer(socket, frame)
                    continue
                with self._lock:
                    entry = self._answers.get(str(frame.get("id")))
                if entry is not None:
                    entry[1].update(frame)
                    entry[0].set()

    def _answer(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        name, payload = str(frame.get("on")).removeprefix(PREFIX), frame.get("payload")
        with self._lock:
            handler = self._handlers.get(name, (_CLOSED, False))[0]
        answer: dict[str, Any] = {"id": frame.get("id")}
        try:
            answer["payload"] = handler.answer(str(frame["component"]), payload if isinstance(payload, dict) else {})
        except FileFault as exc:
            answer["error"] = {exc.name: str(exc)}
        except OSError as exc:  # closed by the other thread just now
            answer["error"] = {"ReadError": str(exc.strerror)}
        self._send(socket, answer)

    def _again(self) -> ClientConnection | None:
        """A new connection with all names, however long it takes: the node may be starting again."""
        pause_s = _RETRY_MIN_S
        while not self._closing.is_set():
            with contextlib.suppress(GolemError):
                socket = self._connect()
                with self._lock:
                    self._socket, handlers = socket, dict(self._handlers)
                    self._up.set()
                for name, (handler, anybody) in handlers.items():
                    self._send(socket, {"id": str(uuid.uuid4()), "bind": _binding(name, handler, anybody)})
                return socket
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MAX_S)
        return None


class _Closed:
    components: tuple[str, ...] = ()

    def answer(self, _component: str, _payload: dict[str, object]) -> dict[str, object] | None:
        raise FileFault("InternalError", "the file was closed")

    def close(self) -> None:
        pass


_CLOSED: Final = _Closed()


def _binding(name: str, handler: Handler, anybody: bool) -> dict[str, Any]:
    return {"name": PREFIX + name, "components": list(handler.components), "anybody": anybody}
