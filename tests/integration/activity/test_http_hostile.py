"""http transfers with servers and URLs that mean harm."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard

from golemp2p.activity.http import HttpTransfers
from golemp2p.errors import GolemError, PolicyError, RemoteProtocolError

MIB = 1024 * 1024


class Bomber(BaseHTTPRequestHandler):
    """Sends packed what was asked for plain."""

    def do_GET(self) -> None:
        packing = self.path.rpartition("/")[2]
        plain = bytes(256 * MIB)
        body = gzip.compress(plain, 6) if packing == "gzip" else zstandard.ZstdCompressor().compress(plain)
        self.send_response(200)
        self.send_header("Content-Encoding", packing)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Bomber) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
async def test_a_body_that_is_packed_though_nobody_asked_is_not_unpacked(
    server: str, tmp_path: Path, packing: str
) -> None:
    transfers = HttpTransfers([f"{server}/open/"])
    with pytest.raises(RemoteProtocolError, match=packing):
        await transfers.download(f"{server}/open/{packing}", tmp_path / "file", max_bytes=512 * MIB)


@pytest.mark.parametrize(
    "path",
    [
        "/open/../secret",
        "/open/%2e%2e/secret",
        "/open/%2E./secret",
        "/open/..%2fsecret",
        "/open/%252e%252e/secret",
        "/open/..%5csecret",
        "/open/..\\secret",
        "/open/..;/secret",
        "/open/x/..",
    ],
)
def test_a_path_that_a_server_may_read_as_climbing_is_refused(path: str) -> None:
    with pytest.raises(PolicyError):
        HttpTransfers(["http://host/open/"]).check(f"http://host{path}")


@pytest.mark.parametrize("url", ["http://host/open/\u0001", "http://host/open/a b\r\nX: y", "http://host/open/\x7f"])
async def test_a_url_that_is_none_is_an_error_of_ours(url: str, tmp_path: Path) -> None:
    with pytest.raises(GolemError):
        await HttpTransfers(["http://host/open/"]).download(url, tmp_path / "file", max_bytes=MIB)


def test_names_with_dots_and_escapes_are_let_through() -> None:
    transfers = HttpTransfers(["http://host/open/"])
    for path in ("a..b/c.tar.gz", "%20x/..y", "a%2Fb", "?q=/../", "..."):
        transfers.check(f"http://host/open/{path}")
