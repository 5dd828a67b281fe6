"""`gftp download` and `gftp upload`: files of other nodes, by plain HTTP requests to our own."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from golemp2p.errors import NetworkError, RemoteError, UsageError

_TIMEOUT_S: Final = 3_700.0  # a whole transfer between nodes, and a little
_BLOCK_BYTES: Final = 1024 * 1024


class Remote:
    """Of the node at ``url``."""

    def __init__(self, url: str, app_key: str) -> None:
        self._url = urlsplit(url)
        self._headers = {"Authorization": f"Bearer {app_key}"}

    def download(self, url: str, target: Path) -> None:
        """Raises RemoteError (what the node says), NetworkError, UsageError (the file cannot be written)."""
        digest = self._json("/golemp2p/v1/gftp/fetch", {"url": url})["sha3_256"]
        part = target.with_name(f".gftp-{secrets.token_hex(8)}.part")
        try:
            with self._request("GET", f"/golemp2p/v1/files/{digest}") as response, part.open("wb") as file:
                while block := response.read(_BLOCK_BYTES):
                    file.write(block)
            part.replace(target)
        except OSError as exc:
            raise UsageError(f"cannot write {target}: {exc.strerror or exc}") from exc
        finally:
            part.unlink(missing_ok=True)

    def upload(self, source: Path, url: str) -> None:
        """Raises as :meth:`download`."""
        try:
            with source.open("rb") as file, self._request("PUT", "/golemp2p/v1/files", body=file) as response:
                digest = json.loads(response.read())["sha3_256"]
        except OSError as exc:
            raise UsageError(f"cannot read {source}: {exc.strerror or exc}") from exc
        self._json("/golemp2p/v1/gftp/push", {"url": url, "sha3_256": digest})

    def _json(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        with self._request("POST", path, body=json.dumps(body).encode(), headers=headers) as response:
            found: dict[str, Any] = json.loads(response.read() or b"{}")
            return found

    @contextmanager
    def _request(
        self, method: str, path: str, *, body: Any = None, headers: dict[str, str] | None = None
    ) -> Iterator[HTTPResponse]:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=_TIMEOUT_S)
        try:
            try:
                connection.request(method, path, body=body, headers=self._headers | (headers or {}))
                response = connection.getresponse()
                if response.status >= 400:
                    raise RemoteError(_message(response.read(10_000)) or f"the node answered {response.status}")
            except (ConnectionError, TimeoutError, HTTPException) as exc:
                raise NetworkError(f"no node answers at {self._url.geturl()}", hint="is it running?") from exc
            yield response
        finally:
            connection.close()


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")[:500]
