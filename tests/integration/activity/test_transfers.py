"""Files and directories between a payload's volumes, the requestor and http servers; the real services, no payload."""

from __future__ import annotations

import bz2
import hashlib
import os
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trio

from golemp2p.activity.http import HttpTransfers
from golemp2p.activity.transfers import Transfers
from golemp2p.archives import ArchiveError, pack, unpack
from golemp2p.core.exescript import Transfer
from golemp2p.errors import GolemError, NetworkError, PolicyError, UsageError
from golemp2p.runtimes.hostfiles import HostFiles
from tests.integration.activity.harness import Pair, open_pair

MIB = 1024 * 1024


class Web(BaseHTTPRequestHandler):
    """/file with ranges; /cut ends after 1 MiB of the first answers; /moved redirects; PUT keeps the body."""

    data = os.urandom(3 * MIB)
    asked: list[tuple[str, str]]
    kept: dict[str, bytes]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.asked.append((self.path, wanted))
        if self.path == "/open/moved":
            self.send_response(302)
            self.send_header("Location", "/open/file")
            self.end_headers()
            return
        if self.path not in ("/open/file", "/open/cut", "/secret/file"):
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = self.data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:MIB] if self.path == "/open/cut" else body)
        self.close_connection = True

    def do_PUT(self) -> None:
        self.kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def web() -> Iterator[tuple[str, type[Web]]]:
    handler = type("Handler", (Web,), {"asked": [], "kept": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with open_pair(tmp_path) as both:
        yield both


@pytest.fixture
def files(tmp_path: Path) -> HostFiles:
    (tmp_path / "volume").mkdir()
    return HostFiles({"/golem/work": tmp_path / "volume"})


def transfers(pair: Pair, tmp_path: Path, *allowed: str, max_bytes: int = 64 * MIB) -> Transfers:
    agreement = pair.provider.agreements[pair.agree("gftp://none")]
    provider = pair.provider
    return Transfers(
        agreement,
        provider.content,
        provider.data,
        max_bytes=max_bytes,
        staging=tmp_path / "staging",
        http=HttpTransfers(allowed),
    )


def some_tree(root: Path) -> Path:
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "file").write_bytes(b"x" * 100_000)
    (root / "tool").write_text("#!/bin/sh\n")
    (root / "tool").chmod(0o755)
    (root / "link").symlink_to("deep/file")
    return root


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
async def test_a_directory_comes_from_the_requestor_and_goes_back(
    pair: Pair, files: HostFiles, tmp_path: Path, form: str
) -> None:
    pack(some_tree(tmp_path / "tree"), tmp_path / "archive", form)
    sent = await pair.requestor.content.add_file(tmp_path / "archive")
    address = pair.provider.agreements[pair.agree("gftp://none")].requestor_address
    mover = transfers(pair, tmp_path)
    await mover.transfer(Transfer(f"gftp://{address}/{sent.sha3_256}", "container:/golem/work/in", format=form), files)
    assert (tmp_path / "volume/in/deep/file").read_bytes() == b"x" * 100_000
    assert (tmp_path / "volume/in/tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "volume/in/link").readlink() == Path("deep/file")

    await mover.transfer(Transfer("container:/golem/work/in", "container:/golem/work/copy", format=form), files)
    slot = pair.requestor.content.open_slot("slot-1", max_bytes=MIB, peer=pair.provider.key.peer_id)
    await mover.transfer(Transfer("container:/golem/work/copy", f"gftp://{address}/{slot.slot_id}", format=form), files)
    with trio.fail_after(10):
        content = await pair.requestor.content.wait_finished(slot.slot_id)
    unpack(content.path, tmp_path / "back", form, max_bytes=MIB)
    assert (tmp_path / "back/deep/file").read_bytes() == b"x" * 100_000
    assert not (tmp_path / "staging").exists()


async def test_a_hostile_archive_changes_nothing_outside_and_nothing_inside(
    pair: Pair, files: HostFiles, tmp_path: Path
) -> None:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("fine"))
        archive.addfile(tarfile.TarInfo("../evil"))
    (tmp_path / "bad").write_bytes(buffer.getvalue())
    sent = await pair.requestor.content.add_file(tmp_path / "bad")
    address = pair.provider.agreements[pair.agree("gftp://none")].requestor_address
    command = Transfer(f"gftp://{address}/{sent.sha3_256}", "container:/golem/work/in", format="tar")
    with pytest.raises(ArchiveError, match="leads out"):
        await transfers(pair, tmp_path).transfer(command, files)
    assert not list((tmp_path / "volume").iterdir())
    assert not (tmp_path / "staging").exists()


async def test_http_is_refused_but_for_what_the_owner_allows(pair: Pair, files: HostFiles, tmp_path: Path) -> None:
    with web() as (url, server):
        for allowed in ([], [f"{url}/open/"]):
            mover = transfers(pair, tmp_path, *allowed)
            for target in ("/secret/file", "/open/../secret/file"):
                with pytest.raises(PolicyError, match="provider"):
                    await mover.transfer(Transfer(f"{url}{target}", "container:/golem/work/x"), files)
        assert server.asked == []
        mover = transfers(pair, tmp_path, f"{url}/open/")
        await mover.transfer(Transfer(f"{url}/open/file", "container:/golem/work/x"), files)
        assert (tmp_path / "volume" / "x").read_bytes() == Web.data
        await mover.transfer(Transfer("container:/golem/work/x", f"{url}/open/put"), files)
        assert server.kept["/open/put"] == Web.data
        with pytest.raises(PolicyError, match="redirects"):
            await mover.transfer(Transfer(f"{url}/open/moved", "container:/golem/work/y"), files)
        with pytest.raises(GolemError, match="404"):
            await mover.transfer(Transfer(f"{url}/open/missing", "container:/golem/work/y"), files)
        with pytest.raises(UsageError, match="at most 1000"):
            small = transfers(pair, tmp_path, f"{url}/open/", max_bytes=1000)
            await small.transfer(Transfer(f"{url}/open/file", "container:/golem/work/y"), files)
        assert not (tmp_path / "volume" / "y").exists()


async def test_a_download_that_is_cut_goes_on_where_it_was(pair: Pair, files: HostFiles, tmp_path: Path) -> None:
    with web() as (url, server):
        mover = transfers(pair, tmp_path, url)
        await mover.transfer(Transfer(f"{url}/open/cut", "container:/golem/work/x"), files)
        assert (tmp_path / "volume" / "x").read_bytes() == Web.data
        assert [wanted for _, wanted in server.asked] == ["", f"bytes={MIB}-", f"bytes={2 * MIB}-"]


async def test_a_server_that_is_not_there_is_a_network_error(pair: Pair, files: HostFiles, tmp_path: Path) -> None:
    mover = transfers(pair, tmp_path, "http://127.0.0.1:9/")
    with pytest.raises(NetworkError, match="broke"):
        await mover.transfer(Transfer("http://127.0.0.1:9/x", "container:/golem/work/x"), files)


async def test_a_package_link_with_a_web_address_works_as_in_golem(pair: Pair, tmp_path: Path) -> None:
    """hash:sha3:<hex>:<http url>: from the store, else from the requestor, else from the address if it is allowed."""
    digest = hashlib.sha3_224(Web.data).hexdigest()
    with web() as (url, server):
        link = f"hash:sha3:{digest}:{url}/open/file"

        def mover(package: str, *allowed: str) -> Transfers:
            agreement = pair.provider.agreements[pair.agree(package)]
            provider = pair.provider
            return Transfers(
                agreement, provider.content, provider.data, staging=tmp_path / "staging", http=HttpTransfers(allowed)
            )

        with pytest.raises(PolicyError, match="http_transfers"):
            await mover(link).package()
        assert server.asked == []
        with pytest.raises(UsageError, match="the agreement says"):
            await mover(f"hash:sha3:{'0' * 56}:{url}/open/file", url).package()
        with pytest.raises(UsageError, match="needs its hash"):
            await mover(f"{url}/open/file", url).package()
        found = await mover(link, url).package()
        assert await trio.Path(found.path).read_bytes() == Web.data
        server.asked.clear()
        await mover(link).package()  # it is in the store now
        assert server.asked == []


async def test_the_requestor_is_asked_before_the_web(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "package").write_bytes(b"package")
    await pair.requestor.content.add_file(tmp_path / "package", also=("sha3-224",))
    agreement = pair.agree(f"hash:sha3:{hashlib.sha3_224(b'package').hexdigest()}:http://127.0.0.1:9/x")
    provider = pair.provider
    mover = Transfers(provider.agreements[agreement], provider.content, provider.data, staging=tmp_path / "staging")
    assert await trio.Path((await mover.package()).path).read_bytes() == b"package"


async def test_a_cancelled_transfer_does_not_unpack_to_the_end(pair: Pair, files: HostFiles, tmp_path: Path) -> None:
    """A few hundred kB that bzip2 takes a minute for: the activity ends before that."""
    plain = bytes(512 * MIB)
    info = tarfile.TarInfo("zeros")
    info.size = len(plain)
    archive = bz2.compress(info.tobuf() + plain, 1)
    url, content = await pair.publish(archive, tmp_path)
    await pair.provider.content.add_file(content.path)
    moving = transfers(pair, tmp_path, max_bytes=1024 * MIB)
    command = Transfer(source=url, target="container:/golem/work", format="tar.bz2")
    with trio.fail_after(30), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(moving.transfer, command, files)
            with trio.fail_after(10):
                while not (tmp_path / "staging" / "tree" / "zeros").exists():  # noqa: ASYNC110 - a thread's work
                    await trio.sleep(0.01)
            began_s = trio.current_time()
            scope.cancel()
    assert trio.current_time() - began_s < 0.5
    assert not (tmp_path / "staging").exists()
