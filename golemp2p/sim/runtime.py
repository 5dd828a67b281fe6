"""A runtime that runs nothing: a task takes its time and says what its right answer is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from golemp2p.errors import UsageError
from golemp2p.runtimes.base import Deployment, ExitStatus, OutputSink, Probe, RuntimeFailureError, Usage

NAME: Final = "simulated"
PACKAGE_SHA3: Final = hashlib.sha3_256(b"").hexdigest()  # the empty file: the one package that there is
PACKAGE: Final = f"hash:sha3:{PACKAGE_SHA3}:http://packages.invalid/empty"


def right_answer(task: str) -> str:
    return hashlib.sha256(f"answer to {task}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class EmptyPackage:
    path: Path = Path("/dev/null")
    sha256: str = hashlib.sha256(b"").hexdigest()
    size_bytes: int = 0


class Content:
    """A content store that has the empty file."""

    def lookup(self, alg: str, digest_hex: str, /) -> EmptyPackage | None:
        return EmptyPackage() if digest_hex == PACKAGE_SHA3 else None

    async def add_file(self, source: Path, /, *, also: tuple[str, ...] = ()) -> EmptyPackage:
        raise UsageError("simulated nodes keep no files")


class Data:
    """Files do not travel in simulations."""

    async def fetch(
        self,
        peer: str,
        alg: str,
        digest_hex: str,
        destination: Path | None = None,
        /,
        *,
        max_bytes: int,
        timeout_s: float,
        on_progress: Callable[[int, int], None] | None = None,
        shared: bool = False,
    ) -> EmptyPackage:
        raise UsageError("simulated nodes move no files")

    async def fetch_named(
        self,
        peer: str,
        name: str,
        destination: Path,
        *,
        max_bytes: int,
        timeout_s: float,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        raise UsageError("simulated nodes move no files")

    async def push(
        self,
        peer: str,
        slot: str,
        source: Path,
        *,
        timeout_s: float,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> str:
        raise UsageError("simulated nodes move no files")


class _Files:
    volumes: Sequence[str] = ()

    async def put(self, path: str, source: Path) -> None:
        raise UsageError("simulated payloads have no files")

    def reading(self, path: str, *, max_bytes: int) -> AbstractAsyncContextManager[Path]:
        raise UsageError("simulated payloads have no files")

    async def put_tree(self, path: str, source: Path) -> None:
        raise UsageError("simulated payloads have no files")

    async def get_tree(self, path: str, target: Path, *, max_bytes: int, max_files: int) -> None:
        raise UsageError("simulated payloads have no files")


class Instance:
    def __init__(self, runtime: SimRuntime) -> None:
        self._runtime = runtime
        self._cpu_s = 0.0
        self.files = _Files()
        self.disk: Sequence[Path] = ()

    async def start(self, args: Sequence[str]) -> None:
        await trio.sleep(self._runtime.start_s)

    async def run(self, entry_point: str, args: Sequence[str], output: OutputSink) -> ExitStatus:
        """``task`` TASK SECONDS: works for SECONDS, then says the answer."""
        if entry_point != "task" or len(args) != 2:
            raise RuntimeFailureError(f"simulated payloads have no {entry_point!r}")
        work_s = float(args[1]) / self._runtime.speed
        begun = trio.current_time()
        try:
            await trio.sleep(work_s)
        finally:
            self._cpu_s += trio.current_time() - begun
        answer = right_answer(args[0]) if self._runtime.honest else "0" * 32
        await output("stdout", answer.encode())
        return ExitStatus(0)

    async def connect(self, port: int) -> trio.abc.HalfCloseableStream:
        raise RuntimeFailureError("simulated payloads have no network")

    async def lost(self) -> str:
        await trio.sleep_forever()
        raise AssertionError  # pragma: no cover - never reached

    def usage(self) -> Usage:
        return Usage(cpu_s=self._cpu_s)

    async def terminate(self) -> None:
        await trio.lowlevel.checkpoint()


class SimRuntime:
    """``honest``: its answers are right. ``speed``: of the machine, against a usual one."""

    id = NAME
    name = NAME
    version = "1.0.0"

    def __init__(self, *, honest: bool = True, speed: float = 1.0, start_s: float = 0.5) -> None:
        self.honest, self.speed, self.start_s = honest, speed, start_s

    def offer_properties(self) -> Mapping[str, str | float | bool | list[str]]:
        return {"golem.runtime.name": NAME, "golem.runtime.version": self.version}

    async def probe(self) -> Probe:
        return Probe(works=True)

    async def clean_up(self) -> None:
        await trio.lowlevel.checkpoint()

    async def deploy(self, deployment: Deployment) -> Instance:
        await trio.sleep(self.start_s)
        return Instance(self)
