"""Clients that serve files, as the real ones do: a gftp process, and golem-js's WebSocket storage in a few lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from golemp2p.wire import gsb
from tests.e2e.net import NodeProcess, environment

GFTP = str(Path(sys.executable).parent / "gftp")
READING = ["GetMetadata", "GetChunk"]
WRITING = ["UploadChunk", "UploadFinished"]
Answer = Callable[[str, dict[str, Any]], Any]


class GftpProcess:
    """`gftp server`, spoken to as yapapi does: one request, one line."""

    def __init__(self, node: NodeProcess, **env: str) -> None:
        assert Path(GFTP).exists(), "the gftp command is not installed: pip install -e ."
        told = {"YAGNA_API_URL": str(node.facts["rest_url"]), "YAGNA_APPKEY": node.app_key, **env}
        self.process = subprocess.Popen(
            [GFTP, "server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(**told)
        )

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The whole answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"jsonrpc": "2.0", "id": uuid.uuid4().int, "method": method, "params": params}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert answer["id"] == request["id"]
        return answer

    def call(self, method: str, **params: Any) -> Any:
        answer = self.ask(method, **params)
        assert "result" in answer, answer
        return answer["result"]

    def publish(self, path: Path) -> str:
        return str(self.call("publish", files=[str(path)])[0]["url"])

    def receive(self, path: Path) -> str:
        return str(self.call("receive", output_file=str(path))["url"])

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> int:
        """End of its input; its exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        code = self.process.wait(10)
        self.process.stdout.close()
        return code


@contextmanager
def gftp(node: NodeProcess, **env: str) -> Iterator[GftpProcess]:
    process = GftpProcess(node, **env)
    try:
        yield process
    finally:
        process.end()


class Storage:
    """A program that binds names by REST and answers on one WebSocket each, in a thread each."""

    def __init__(self, node: NodeProcess) -> None:
        self._url, self._key = str(node.facts["rest_url"]), node.app_key
        self._address = node.address
        self._sockets: list[ClientConnection] = []
        self._threads: list[threading.Thread] = []
        self.asked: list[str] = []

    def bind(self, components: list[str], name: str | None = None) -> tuple[str, str]:
        """(URL for transfers, id of the service)."""
        name = name or str(uuid.uuid4())
        body = {"listen": {"on": f"/public/gftp/{name}", "components": components}}
        answer = httpx.post(
            f"{self._url}/gsb-api/v1/services", json=body, headers={"Authorization": f"Bearer {self._key}"}
        )
        assert answer.status_code == 201, answer.text
        return f"gftp://{self._address}/{name}", str(answer.json()["servicesId"])

    def unbind(self, services_id: str) -> int:
        return httpx.delete(
            f"{self._url}/gsb-api/v1/services/{services_id}", headers={"Authorization": f"Bearer {self._key}"}
        ).status_code

    def socket(self, services_id: str) -> ClientConnection:
        found = connect(
            f"{self._url.replace('http', 'ws')}/gsb-api/v1/services/{services_id}?authToken={self._key}",
            subprotocols=[gsb.SUBPROTOCOL],  # type: ignore[list-item] # a NewType of str
            max_size=None,
            proxy=None,
        ).__enter__()
        assert found.subprotocol == gsb.SUBPROTOCOL
        self._sockets.append(found)
        return found

    def serve(self, services_id: str, answer: Answer) -> ClientConnection:
        """``answer`` gives the payload; what it raises becomes the program's error; ConnectionClosed ends all."""
        socket = self.socket(services_id)

        def run() -> None:
            with suppress(ConnectionClosed):
                while True:
                    request = gsb.decode(bytes(socket.recv()))  # type: ignore[arg-type] # frames are binary
                    self.asked.append(str(request["component"]))
                    try:
                        payload = answer(str(request["component"]), request["payload"])  # type: ignore[arg-type]
                    except OSError as exc:
                        socket.send(gsb.encode({"id": request["id"], "error": {"ReadError": str(exc)}}))
                    else:
                        socket.send(gsb.encode({"id": request["id"], "payload": payload}))

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()
        return socket

    def publish(self, path: Path) -> str:
        url, services_id = self.bind(READING)
        file = os.open(path, os.O_RDONLY)

        def answer(component: str, payload: dict[str, Any]) -> Any:
            if component == "GetMetadata":
                return {"fileSize": path.stat().st_size}
            offset, size = gsb.whole_number(payload["offset"]), gsb.whole_number(payload["size"])
            return {"content": os.pread(file, size, offset), "offset": offset}

        self.serve(services_id, answer)
        return url

    def receive(self, path: Path) -> str:
        """As golem-js: appends what comes, in the order in which it comes."""
        url, services_id = self.bind(WRITING)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def answer(component: str, payload: dict[str, Any]) -> Any:
            if component == "UploadChunk":
                os.write(file, payload["chunk"]["content"])

        self.serve(services_id, answer)
        return url

    def close(self) -> None:
        for socket in self._sockets:
            socket.close()
        for thread in self._threads:
            thread.join(5)


@contextmanager
def storage(node: NodeProcess) -> Iterator[Storage]:
    found = Storage(node)
    try:
        yield found
    finally:
        found.close()
