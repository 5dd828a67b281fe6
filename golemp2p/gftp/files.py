"""The two kinds of files: published ones, read by offset, and ones to come, which appear when they are complete."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from golemp2p.errors import UsageError

_BLOCK_BYTES: Final = 1024 * 1024
READING: Final[tuple[str, ...]] = ("GetMetadata", "GetChunk")
WRITING: Final[tuple[str, ...]] = ("UploadChunk", "UploadFinished")
_SETTLED_S: Final = 2.0  # a file written so recently may change again without a change of its times
_MAX_KNOWN: Final = 1_000
Reply = dict[str, object] | None


class _State(NamedTuple):
    """By which a change of a file is seen."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


KnownDigests = dict[_State, str]


class FileFault(Exception):
    """``name`` is one of yagna's: ReadError, WriteError, IntegrityError."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class Handler(Protocol):
    """What answers the questions about one name."""

    components: tuple[str, ...]

    def answer(self, component: str, payload: dict[str, object]) -> Reply:
        """Raises FileFault."""
        ...

    def close(self) -> None: ...


def _number(payload: dict[str, object], key: str) -> int:
    value = payload.get(key)
    if not isinstance(value, int | float) or value < 0:
        raise FileFault("InternalError", f"{key} is missing")
    return int(value)


class Published:
    """An open file. It may be removed; when it is changed, nothing more is read from it."""

    components = READING

    def __init__(self, path: Path, known: KnownDigests | None = None) -> None:
        """Hash it, 2 s for each GB, unless ``known`` has it as it is now; then it is noted there.

        Raises UsageError (no regular file, not readable, changed meanwhile).
        """
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            raise UsageError(f"cannot open {path}: {exc.strerror}") from exc
        try:
            self._state = self._look()
            known = {} if known is None else known
            is_file = stat.S_ISREG(os.fstat(self._file).st_mode)
            self.sha3_256 = (known.get(self._state) or self._hash()) if is_file else ""
            steady = self._look()[2:4] == self._state[2:4]
        except BaseException:  # Ctrl-C in a long hash too: nobody has the descriptor yet
            os.close(self._file)
            raise
        if not self.sha3_256 or not steady:
            os.close(self._file)
            raise UsageError(f"{path} changes while it is published" if self.sha3_256 else f"{path} is no file")
        if time.time() - self._state.mtime_ns / 1e9 > _SETTLED_S:
            while len(known) >= _MAX_KNOWN:
                del known[next(iter(known))]
            known[self._state] = self.sha3_256

    def _look(self) -> _State:
        found = os.fstat(self._file)
        return _State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def _hash(self) -> str:
        hasher, offset = hashlib.sha3_256(), 0
        while block := os.pread(self._file, _BLOCK_BYTES, offset):
            hasher.update(block)
            offset += len(block)
        return hasher.hexdigest()

    def answer(self, component: str, payload: dict[str, object]) -> Reply:
        if self._look()[2:4] != self._state[2:4]:  # removing a name of it changes its ctime
            raise FileFault("ReadError", "the file was changed after it was published")
        if component == "GetMetadata":
            return {"fileSize": self._state.size}
        if component != "GetChunk":
            raise FileFault("InternalError", f"no {component} of a published file")
        offset = _number(payload, "offset")
        size = min(_number(payload, "size"), _BLOCK_BYTES)
        if offset > self._state.size:
            raise FileFault("ReadError", f"{offset} is behind the end of the file ({self._state.size})")
        try:
            return {"offset": offset, "content": os.pread(self._file, size, offset)}
        except OSError as exc:
            raise FileFault("ReadError", str(exc.strerror)) from exc

    def close(self) -> None:
        os.close(self._file)


class Receiving:
    """A file to come. What arrives goes into a hidden file beside it, which takes its place in the end."""

    components = WRITING

    def __init__(self, path: Path) -> None:
        """Raises UsageError when it could not be written."""
        self._path = Path(os.path.realpath(path))
        self._part = self._path.with_name(f".gftp-{secrets.token_hex(8)}.part")
        # What is no plain file (a device, a pipe), or lies where nothing new may be made, is written in place.
        exists = self._path.exists()
        self._in_place = exists and not (self._path.is_file() and os.access(self._path.parent, os.W_OK))
        self._file: int | None = None
        self._hasher, self._offset = hashlib.sha3_256(), 0
        if self._path.is_dir():
            raise UsageError(f"{path} is a directory")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
            self._drop()
        except OSError as exc:
            raise UsageError(f"cannot write {path}: {exc.strerror}") from exc

    def _open(self) -> None:
        target = self._path if self._in_place else self._part
        create = 0 if self._in_place else os.O_CREAT
        self._file = os.open(target, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | create, 0o666)
        if not self._in_place and self._path.exists():  # it keeps who may read it
            os.fchmod(self._file, stat.S_IMODE(self._path.stat().st_mode))
        self._hasher, self._offset = hashlib.sha3_256(), 0

    def answer(self, component: str, payload: dict[str, object]) -> Reply:
        try:
            match component, payload:
                case "UploadChunk", {"chunk": {"content": bytes(content), "offset": int() | float() as offset}}:
                    self._write(int(offset), content)
                case "UploadFinished", {"hash": str() | None as expected}:
                    self._finish(expected)
                case _:
                    raise FileFault("InternalError", f"no {component} of a file to come")
        except OSError as exc:
            self._drop()
            raise FileFault("WriteError", f"{self._path}: {exc.strerror}") from exc
        return None

    def _write(self, offset: int, content: bytes) -> None:
        if offset == 0:  # a new beginning, whatever came before
            self._drop()
            self._open()
        if self._file is None or offset != self._offset:
            raise FileFault("WriteError", f"a chunk at {offset} does not follow {self._offset}")
        left = memoryview(content)
        while left:
            left = left[os.write(self._file, left) :]
        self._hasher.update(content)
        self._offset += len(content)

    def _finish(self, expected: str | None) -> None:
        if self._file is None:  # an empty file comes without chunks
            self._open()
        if expected is not None and expected.lower() != self._hasher.hexdigest():
            self._drop()
            raise FileFault("IntegrityError", f"the file has sha3-256 {self._hasher.hexdigest()}, not {expected}")
        if not self._in_place:
            self._part.replace(self._path)
        self._drop()

    def _drop(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if not self._in_place:
            self._part.unlink(missing_ok=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._drop()
