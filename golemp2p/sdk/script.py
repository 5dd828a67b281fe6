"""Scripts: what a worker asks of its activity, and the handles on which the answers arrive."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import anyio
import anyio.to_thread

from golemp2p import limits
from golemp2p.archives import pack, unpack
from golemp2p.client import NodeClient
from golemp2p.errors import GolemError, UsageError

T = TypeVar("T")

WORK_DIR: Final = "/golem/work"  # where relative guest paths are

# (stream, chunk): stream is "stdout" or "stderr". May be async; the payload does not wait for it unless buffers fill.
OnOutput = Callable[[str, bytes], Awaitable[None] | None]


@dataclass(frozen=True)
class CommandOutput:
    """Of one ``run``. Each stream is kept up to MAX_CAPTURE_BYTES (8 MiB); ``on_output`` sees all of it.

    ``message`` explains an end that was not the program's own choice (a trap, no memory left); else it is "".
    ``receipt`` is what the provider signed for a deterministic run (protocols/receipts.md): save it as JSON and check
    it with ``golemp2p verify``.
    """

    exit_code: int
    stdout_bytes: bytes
    stderr_bytes: bytes
    message: str = ""
    receipt: Mapping[str, Any] | None = None

    @property
    def stdout(self) -> str:
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode("utf-8", "replace")


class Handle(Generic[T]):
    """The answer to one command: ``await`` it after the script was yielded."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._value: tuple[T] | None = None
        self._error: GolemError | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._get().__await__()

    async def _get(self) -> T:
        if self._error is not None:
            raise self._error
        if self._value is None:
            raise UsageError(f"{self._what} has not been done yet", hint="yield its script before awaiting it")
        return self._value[0]

    def resolve(self, value: T) -> None:
        self._value = (value,)

    def fail(self, error: GolemError) -> None:
        self._error = error


class Step(ABC):
    """One command: prepared before the batch is sent, collected when it has succeeded, closed in any case."""

    name: str
    last_of_batch = False

    @abstractmethod
    async def prepare(self, client: NodeClient) -> dict[str, Any]:
        """What the exe script says."""

    async def collect(self, client: NodeClient) -> None:
        del client

    async def close(self, client: NodeClient) -> None:
        del client

    async def hear(self, stream: str, data: bytes) -> None:
        del stream, data


class Script:
    """A list of commands that run in order; the first that fails ends it.

    Guest paths are absolute, or relative to the work directory ``/golem/work``, which is also where programs start.
    """

    def __init__(self) -> None:
        self._steps: list[Step] = []

    def upload_file(self, local: str | Path, remote: str) -> None:
        self._steps.append(_Upload(Path(local), remote))

    def upload_bytes(self, data: bytes, remote: str) -> None:
        self._steps.append(_Upload(data, remote))

    def upload_directory(self, local: str | Path, remote: str) -> None:
        """All files, directories and links of ``local`` into the guest's directory ``remote``."""
        self._steps.append(_UploadDirectory(Path(local), remote))

    def download_directory(self, remote: str, local: str | Path, *, max_bytes: int = limits.MAX_TRANSFER_BYTES) -> None:
        """The guest's directory ``remote`` as the new directory ``local``."""
        self._steps.append(_DownloadDirectory(remote, Path(local), max_bytes))

    def run(
        self,
        program: str,
        *args: str,
        check: bool = True,
        on_output: OnOutput | None = None,
    ) -> Handle[CommandOutput]:
        """Run the payload with ``program`` as argv[0].

        With ``check`` an exit code other than 0 raises CommandFailedError at the worker's ``yield``. Output arrives
        exactly as the program wrote it.
        """
        step = RunStep(program, args, check=check, on_output=on_output)
        self._steps.append(step)
        return step.handle

    def download_bytes(self, remote: str) -> Handle[bytes]:
        handle: Handle[bytes] = Handle(f"download of {remote}")
        self._steps.append(_Download(remote, None, handle))
        return handle

    def download_file(self, remote: str, local: str | Path) -> None:
        """``local`` appears whole or not at all."""
        self._steps.append(_Download(remote, Path(local), None))

    def batches(self) -> list[list[Step]]:
        """Cut after each ``run`` that may fail without ending the script, since a batch ends at its first failure."""
        if not self._steps:
            raise UsageError("the script has no command")
        found: list[list[Step]] = [[]]
        for step in self._steps:
            if found[-1] and found[-1][-1].last_of_batch:
                found.append([])
            found[-1].append(step)
        return found


def guest_path(remote: str) -> str:
    return remote if remote.startswith("/") else f"{WORK_DIR}/{remote}"


class RunStep(Step):
    def __init__(self, program: str, args: tuple[str, ...], *, check: bool, on_output: OnOutput | None) -> None:
        self.name = f"run {program}"
        self.handle: Handle[CommandOutput] = Handle(self.name)
        self.last_of_batch = not check
        self._command = (program, args)
        self._on_output = on_output
        self.kept = {"stdout": bytearray(), "stderr": bytearray()}

    @property
    def check(self) -> bool:
        return not self.last_of_batch

    async def prepare(self, client: NodeClient) -> dict[str, Any]:
        del client
        program, args = self._command
        capture = {"stream": {"format": "base64"}}
        return {
            "run": {
                "entry_point": program,
                "args": list(args),
                "capture": {"stdout": capture, "stderr": capture},
            }
        }

    async def hear(self, stream: str, data: bytes) -> None:
        kept = self.kept[stream]
        kept += data[: limits.MAX_CAPTURE_BYTES - len(kept)]
        if self._on_output is not None:
            waiting = self._on_output(stream, data)
            if inspect.isawaitable(waiting):
                await waiting

    def output(self, exit_code: int, message: str, receipt: Mapping[str, Any] | None = None) -> CommandOutput:
        return CommandOutput(exit_code, bytes(self.kept["stdout"]), bytes(self.kept["stderr"]), message, receipt)


class _Upload(Step):
    def __init__(self, source: Path | bytes, remote: str) -> None:
        self.name = f"upload to {remote}"
        self._source = source
        self._target = guest_path(remote)

    async def prepare(self, client: NodeClient) -> dict[str, Any]:
        try:
            file = await client.files.publish(self._source)
        except OSError as exc:
            raise UsageError(f"cannot upload {self._source!r}: {exc.strerror}") from exc
        return {"transfer": {"from": file.url, "to": f"container:{self._target}"}}


class _Download(Step):
    """Into ``local``, or into ``handle`` when that is None."""

    def __init__(self, remote: str, local: Path | None, handle: Handle[bytes] | None) -> None:
        self.name = f"download of {remote}"
        self._source = guest_path(remote)
        self._local = local
        self._handle = handle
        self._slot = ""

    async def prepare(self, client: NodeClient) -> dict[str, Any]:
        slot = await client.files.open_slot()
        self._slot = slot.slot
        return {"transfer": {"from": f"container:{self._source}", "to": slot.url}}

    async def collect(self, client: NodeClient) -> None:
        if self._handle is not None:
            self._handle.resolve(await client.files.read_slot(self._slot, timeout_s=limits.SDK_SLOT_TIMEOUT_S))
        elif self._local is not None:
            try:
                await client.files.save_slot(self._slot, self._local, timeout_s=limits.SDK_SLOT_TIMEOUT_S)
            except OSError as exc:
                raise UsageError(f"cannot write {self._local}: {exc.strerror}") from exc

    async def close(self, client: NodeClient) -> None:
        if self._slot:
            slot, self._slot = self._slot, ""
            await client.files.close_slot(slot)


_FORM: Final = "tar.gz"


class _UploadDirectory(Step):
    def __init__(self, source: Path, remote: str) -> None:
        self.name = f"upload to {remote}"
        self._source = source
        self._target = guest_path(remote)

    async def prepare(self, client: NodeClient) -> dict[str, Any]:
        if not await anyio.Path(self._source).is_dir():
            raise UsageError(f"{self._source} is no directory")
        async with _temporary() as directory:
            archive = directory / "upload"
            await anyio.to_thread.run_sync(pack, self._source, archive, _FORM)
            file = await client.files.publish(archive)
        return {"transfer": {"from": file.url, "to": f"container:{self._target}", "format": _FORM}}


class _DownloadDirectory(Step):
    def __init__(self, remote: str, local: Path, max_bytes: int) -> None:
        self.name = f"download of {remote}"
        self._source = guest_path(remote)
        self._local = local
        self._max_bytes = max_bytes
        self._slot = ""

    async def prepare(self, client: NodeClient) -> dict[str, Any]:
        slot = await client.files.open_slot()
        self._slot = slot.slot
        return {"transfer": {"from": f"container:{self._source}", "to": slot.url, "format": _FORM}}

    async def collect(self, client: NodeClient) -> None:
        """Unpacked beside its place, then moved there whole."""
        async with _temporary(self._local.absolute().parent) as directory:
            archive, tree = directory / "archive", directory / "tree"
            await client.files.save_slot(self._slot, archive, timeout_s=limits.SDK_SLOT_TIMEOUT_S)
            await anyio.to_thread.run_sync(partial(unpack, archive, tree, _FORM, max_bytes=self._max_bytes))
            try:
                await anyio.to_thread.run_sync(_publish, tree, self._local.absolute())
            except OSError as exc:
                raise UsageError(f"cannot make the directory {self._local}: {exc.strerror}") from exc

    async def close(self, client: NodeClient) -> None:
        if self._slot:
            slot, self._slot = self._slot, ""
            await client.files.close_slot(slot)


def _publish(tree: Path, target: Path) -> None:
    """``tree`` was private while it grew; it gets the mode of a directory that anybody makes."""
    target.mkdir()
    mode = target.stat().st_mode
    tree.rename(target)  # takes the place of an empty directory at once
    target.chmod(mode)


@asynccontextmanager
async def _temporary(parent: Path | None = None) -> AsyncIterator[Path]:
    try:
        made = await anyio.to_thread.run_sync(partial(tempfile.mkdtemp, prefix=".golemp2p-", dir=parent))
    except OSError as exc:
        raise UsageError(f"cannot write into {parent or 'the temporary directory'}: {exc.strerror}") from exc
    try:
        yield Path(made)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(shutil.rmtree, made, ignore_errors=True))
