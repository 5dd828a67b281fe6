"""Files from and to http(s) URLs, for `transfer` commands. Off unless the provider's settings name the URL's prefix.

An allowed prefix is the whole policy: redirects are not followed (they would lead out of it), proxies and credentials
of the provider's environment are not used. A download that breaks goes on where it was (Range) when the server can.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import httpx
import tenacity
import trio

from golemp2p import limits
from golemp2p.errors import DeadlineError, NetworkError, PolicyError, RemoteProtocolError, UsageError

OnProgress = Callable[[int, int], None]
_BLOCK_BYTES: Final = 1024 * 1024
_MAX_ESCAPES: Final = 4  # escapes of escapes; honest URLs have one


class HttpTransfers:
    """``allowed``: URL prefixes such as ``https://data.example.org/public/``."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = [_checked(prefix) for prefix in allowed]

    def check(self, url: str) -> None:
        """Raises PolicyError for a URL that is under no allowed prefix."""
        parts = urlsplit(url)
        for prefix in self._allowed:
            same_place = (parts.scheme, parts.netloc) == (prefix.scheme, prefix.netloc)
            if same_place and parts.path.startswith(prefix.path or "/") and not _may_climb(parts.path):
                return
        raise PolicyError(
            f"{parts.scheme} transfers to {parts.netloc[:100]!r} are not allowed by this provider",
            hint="its owner allows them with provider.http_transfers; or publish the file by gftp instead",
        )

    async def download(self, url: str, target: Path, *, max_bytes: int, on_progress: OnProgress | None = None) -> None:
        """A GET's body into ``target``. Raises PolicyError, NetworkError, DeadlineError; UsageError (too large)."""
        self.check(url)
        with _deadline(url):
            async with _client() as client:
                async for attempt in _attempts():
                    with attempt:
                        await _get(client, url, target, max_bytes, on_progress)

    async def upload(self, source: Path, url: str, *, on_progress: OnProgress | None = None) -> None:
        """PUT ``source``. Raises PolicyError, NetworkError, DeadlineError."""
        self.check(url)
        total = (await trio.Path(source).stat()).st_size

        async def body() -> AsyncIterator[bytes]:
            done = 0
            async with await trio.open_file(source, "rb") as file:
                while block := await file.read(_BLOCK_BYTES):
                    yield block
                    done += len(block)
                    if on_progress is not None:
                        on_progress(done, total)

        with _deadline(url):
            async with _client() as client:
                async for attempt in _attempts():
                    with attempt:
                        try:
                            answer = await client.put(url, content=body(), headers={"Content-Length": str(total)})
                        except httpx.InvalidURL as exc:
                            raise UsageError(f"{url[:200]!r} is no URL: {exc}") from None
                        except httpx.HTTPError as exc:
                            raise NetworkError(f"the upload to {url[:200]} broke: {_words(exc)}") from None
                        _check_status(answer.status_code, url)


async def _get(
    client: httpx.AsyncClient, url: str, target: Path, max_bytes: int, on_progress: OnProgress | None
) -> None:
    path = trio.Path(target)
    offset = (await path.stat()).st_size if await path.exists() else 0
    try:
        async with client.stream("GET", url, headers={"Range": f"bytes={offset}-"} if offset else {}) as answer:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                return  # we have all of it
            _check_status(answer.status_code, url)
            packing = answer.headers.get("Content-Encoding", "identity")
            if packing.lower() not in ("identity", ""):
                # Nobody asked for it, and a few kB of it may be gigabytes.
                raise RemoteProtocolError(
                    f"{url[:200]} was sent as {packing[:40]}", hint="the server must send it plain"
                )
            if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                offset = 0
            left = int(answer.headers.get("Content-Length", 0))
            total = offset + left if left else 0
            if total > max_bytes:
                raise UsageError(f"{url[:200]} has {total} bytes", hint=f"at most {max_bytes}")
            async with await trio.open_file(target, "r+b" if offset else "wb") as file:
                await file.seek(offset)
                async for block in answer.aiter_raw(_BLOCK_BYTES):
                    offset += len(block)
                    if offset > max_bytes:
                        raise UsageError(f"{url[:200]} has more than {max_bytes} bytes")
                    await file.write(block)
                    if on_progress is not None:
                        on_progress(offset, total)
    except httpx.InvalidURL as exc:
        raise UsageError(f"{url[:200]!r} is no URL: {exc}") from None
    except httpx.HTTPError as exc:
        raise NetworkError(f"the download of {url[:200]} broke: {_words(exc)}") from None


def _client() -> httpx.AsyncClient:
    timeout = httpx.Timeout(limits.HTTP_STALL_S)
    # As it is: a packed body would be unpacked here without a limit.
    return httpx.AsyncClient(
        trust_env=False, follow_redirects=False, timeout=timeout, headers={"Accept-Encoding": "identity"}
    )


def _attempts() -> tenacity.AsyncRetrying:
    return tenacity.AsyncRetrying(
        sleep=trio.sleep,
        stop=tenacity.stop_after_attempt(limits.HTTP_ATTEMPTS),
        wait=tenacity.wait_exponential(0.5),
        retry=tenacity.retry_if_exception_type(NetworkError),
        reraise=True,
    )


@contextmanager
def _deadline(url: str) -> Iterator[None]:
    try:
        with trio.fail_after(limits.TRANSFER_TIMEOUT_S):
            yield
    except trio.TooSlowError:
        raise DeadlineError(f"{url[:200]} took longer than {limits.TRANSFER_TIMEOUT_S:g} s") from None


def _check_status(status: int, url: str) -> None:
    if status < 300:
        return
    if status < 400:
        raise PolicyError(f"{url[:200]} redirects elsewhere, which is not followed", hint="give the final URL")
    kind = NetworkError if status >= 500 else RemoteProtocolError
    raise kind(f"{url[:200]} answered {status}")


def _may_climb(path: str) -> bool:
    """Whether any server could read ``..`` in it: servers undo escapes, some twice, and some cut off parameters."""
    for _ in range(_MAX_ESCAPES):
        if any(part.partition(";")[0] == ".." for part in re.split(r"[/\\]", path)):
            return True
        plain = unquote(path)
        if plain == path:
            return False
        path = plain
    return True


def _checked(prefix: str) -> SplitResult:
    parts = urlsplit(prefix)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"provider.http_transfers: {prefix!r} is no URL prefix", hint="https://host/path/")
    return parts


def _words(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
