"""GuestFiles over a guest session: the volumes of a container or a virtual machine.

The agent resolves paths below a volume's directory without leaving it. What it tells us of names and sizes is checked
here all the same: a guest that lies writes into a fresh directory of ours and nowhere else.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

import trio

from golemp2p import limits
from golemp2p.errors import UsageError
from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.runtimes.guest import protocol
from golemp2p.runtimes.guest.channel import Channel
from golemp2p.runtimes.guest.protocol import Ask, FileFacts, ListEntry, Refusal, Tell, text, u32
from golemp2p.runtimes.volumes import GuestPathError

_T = TypeVar("_T")

_BLOCK_BYTES: Final = 1024 * 1024
_PATH_ERRORS: Final = frozenset(
    {errno.ENOENT, errno.EXDEV, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.ENAMETOOLONG}
)


class SessionPort(Protocol):
    """What files need of a session."""

    def channel(self, window_bytes: int) -> AbstractAsyncContextManager[Channel]: ...

    async def request(self, channel: Channel, kind: Ask, body: bytes) -> None: ...

    async def send(self, frame: bytes) -> None: ...


class SessionFiles:
    """Made by GuestSession.files."""

    def __init__(self, session: SessionPort, volumes: Sequence[str], spool_dir: Path) -> None:
        self._session = session
        self._volumes = tuple(dict.fromkeys(volumes))
        self._spool_dir = spool_dir

    @property
    def volumes(self) -> Sequence[str]:
        return self._volumes

    async def put(self, path: str, source: Path) -> None:
        root, inner = self._split(path)
        if not inner or path.endswith("/"):
            raise GuestPathError(f"{path!r} names a directory, not a file")
        await self._put_file(root, inner, source, 0o644)

    @asynccontextmanager
    async def reading(self, path: str, *, max_bytes: int) -> AsyncIterator[Path]:
        root, inner = self._split(path)
        # Without a name: gone with its descriptor, whatever happens to us.
        with tempfile.TemporaryFile(dir=self._spool_dir, buffering=0) as spool:
            await self._get_file(root, inner, spool.fileno(), max_bytes)
            yield Path(f"/proc/self/fd/{spool.fileno()}")

    async def put_tree(self, path: str, source: Path) -> None:
        root, inner = self._split(path)
        todo = [(inner, source)]
        await self._call(Ask.MKDIR, root, inner, u32(0o755))
        while todo:
            above, directory = todo.pop()
            for entry in await trio.to_thread.run_sync(_scan, directory):
                name = f"{above}/{entry.name}" if above else entry.name
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    await self._call(
                        Ask.SYMLINK, root, name, text(await trio.to_thread.run_sync(os.readlink, entry.path))
                    )
                elif stat.S_ISDIR(mode):
                    await self._call(Ask.MKDIR, root, name, u32(0o755))
                    todo.append((name, Path(entry.path)))
                elif stat.S_ISREG(mode):
                    await self._put_file(root, name, Path(entry.path), stat.S_IMODE(mode) & 0o777)

    async def get_tree(self, path: str, target: Path, *, max_bytes: int, max_files: int) -> None:
        root, inner = self._split(path)
        left_bytes, left_files = max_bytes, max_files
        todo = [(inner, target, 0)]
        while todo:
            name, here, depth = todo.pop()
            if depth > limits.MAX_ACTIVITY_DIR_DEPTH:
                raise UsageError(f"{path!r} is nested deeper than {limits.MAX_ACTIVITY_DIR_DEPTH} directories")
            entries = await self._list(root, name, left_files, path, max_files)
            left_files -= len(entries)
            # Every name is made anew, so a name that comes twice (a link first, say) is an error and never followed.
            _made(partial(here.mkdir, mode=0o700), path)
            for entry in entries:
                inside = f"{name}/{entry.name}" if name else entry.name
                copy = here / entry.name
                if entry.facts.kind == "l":
                    _made(partial(copy.symlink_to, entry.link), path)
                elif entry.facts.kind == "d":
                    todo.append((inside, copy, depth + 1))
                elif entry.facts.kind == "f":
                    left_bytes -= await self._get_new_file(root, inside, copy, entry.facts, left_bytes, path)

    # --- one request each ---------------------------------------------------------------------------------------------

    async def _put_file(self, root: str, inner: str, source: Path, mode: int) -> None:
        async with self._session.channel(0) as channel:
            channel.credit_bytes = protocol.INBOUND_CREDIT_BYTES
            await self._session.request(channel, Ask.PUT, text(root) + text(inner) + u32(mode))
            async with await trio.open_file(source, "rb") as file:
                while not channel.refused and (block := await file.read(_BLOCK_BYTES)):
                    with _stalling(f"{root}/{inner}"):
                        await channel.send_data(block)
            if not channel.refused:
                await self._session.send(protocol.frame(Ask.END, channel.id))
            answer = await channel.answer()
            channel.ended = True
            if isinstance(answer, Refusal):
                raise _refused("write", f"{root}/{inner}", answer)

    async def _get_file(self, root: str, inner: str, spool: int, max_bytes: int) -> int:
        """Copies into the descriptor ``spool``; the size in bytes."""
        path = f"{root}/{inner}"
        async with self._session.channel(limits.GUEST_FILE_WINDOW_BYTES) as channel:
            await self._session.request(channel, Ask.GET, u32(channel.window_bytes) + text(root) + text(inner))
            answer = await channel.answer()
            if isinstance(answer, Refusal):
                raise _refused("read", path, answer)
            size_bytes = channel.parse(protocol.read_facts, answer).size_bytes
            if size_bytes > max_bytes:
                raise UsageError(f"{path!r} has {size_bytes} bytes", hint=f"at most {max_bytes}")
            total = 0
            while chunk := await _more_of(channel, path):
                total += len(chunk)
                if total > max_bytes:
                    raise UsageError(f"{path!r} grows beyond {max_bytes} bytes")
                await trio.to_thread.run_sync(_write_all, spool, chunk)
        return total

    async def _get_new_file(
        self, root: str, inner: str, copy: Path, facts: FileFacts, left_bytes: int, what: str
    ) -> int:
        mode = facts.mode & 0o777 | 0o600
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        spool = _made(partial(os.open, copy, flags, 0o600), what)
        try:
            size_bytes = await self._get_file(root, inner, spool, left_bytes)
            os.fchmod(spool, mode)
        finally:
            os.close(spool)
        return size_bytes

    async def _list(self, root: str, inner: str, left: int, what: str, max_files: int) -> list[ListEntry]:
        entries: list[ListEntry] = []
        async with self._session.channel(limits.GUEST_FILE_WINDOW_BYTES) as channel:
            await self._session.request(channel, Ask.LIST, u32(channel.window_bytes) + text(root) + text(inner))
            answer = await channel.answer()
            if isinstance(answer, Refusal):
                raise _refused("list", f"{root}/{inner}", answer)
            while chunk := await _more_of(channel, what):
                entries.extend(channel.parse(protocol.read_entries, chunk))
                if len(entries) > left:
                    raise UsageError(f"{what!r} holds more than {max_files} files")
        return sorted(entries, key=lambda entry: entry.name)

    async def _call(self, kind: Ask, root: str, inner: str, more: bytes) -> None:
        async with self._session.channel(0) as channel:
            await self._session.request(channel, kind, text(root) + text(inner) + more)
            answer = await channel.answer()
            channel.ended = True
            if isinstance(answer, Refusal):
                raise _refused("make", f"{root}/{inner}", answer)

    def _split(self, path: str) -> tuple[str, str]:
        """The longest volume that holds ``path``, and the path below it without a slash in front."""
        if not path.startswith("/"):
            raise GuestPathError(f"container path {path!r} is not absolute")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise GuestPathError(f"container path {path!r} has '..': paths may not climb")
        if any("\0" in part or len(os.fsencode(part)) > 255 for part in parts) or len(os.fsencode(path)) > 4000:
            raise GuestPathError(f"container path {path[:80]!r} is no file name")
        holding = [v for v in self._volumes if parts[: len(_parts(v))] == _parts(v)]
        if not holding:
            known = ", ".join(sorted(self._volumes)) or "none"
            raise GuestPathError(f"container path {path!r} is in no volume", hint=f"volumes: {known}")
        volume = max(holding, key=lambda v: len(_parts(v)))
        return volume, "/".join(parts[len(_parts(volume)) :])


async def _more_of(channel: Channel, what: str) -> bytes:
    """The next data; empty at the end. Raises what GuestFiles may."""
    while True:
        with _stalling(what):
            frame = await channel.get()
            await channel.consumed(frame)
        if frame.kind is Tell.DATA and frame.body:
            return frame.body
        if frame.kind is not Tell.DATA:
            channel.ended = True
            if frame.kind is Tell.END:
                return b""
            raise _refused("read", what, channel.parse(protocol.read_refusal, frame.body))


@contextmanager
def _stalling(what: str) -> Iterator[None]:
    """A deadline for one step of a transfer."""
    with trio.move_on_after(limits.GUEST_STALL_S) as scope:
        yield
    if scope.cancelled_caught:
        raise RuntimeFailureError(f"the guest moved nothing of {what!r} for {limits.GUEST_STALL_S:g} s")


def _refused(verb: str, path: str, refusal: Refusal) -> Exception:
    if refusal.errno == errno.ENOENT:
        return GuestPathError(f"there is no file {path!r}")
    if refusal.errno == errno.EXDEV:
        return GuestPathError(f"{path!r} leads out of its volume by a symbolic link")
    if refusal.errno in _PATH_ERRORS:
        return GuestPathError(f"cannot {verb} {path!r}: {refusal.message}")
    return RuntimeFailureError(f"cannot {verb} {path!r} in the guest: {refusal.message}")


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _scan(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as found:
        return sorted(found, key=lambda entry: entry.name)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _made(make: Callable[[], _T], what: str) -> _T:
    try:
        return make()
    except FileExistsError:
        raise RuntimeFailureError(f"the guest names a file twice in {what!r}") from None
    except OSError as exc:
        raise RuntimeFailureError(f"cannot copy {what!r} out of the guest: {exc.strerror}") from exc
