"""Between the node and a stranger's runtime: whatever that raises becomes an error with its name, never a crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.errors import GolemError, UsageError
from golemp2p.runtimes.base import (
    Deployment,
    ExitStatus,
    GuestFiles,
    OutputSink,
    Probe,
    Runtime,
    RuntimeFailureError,
    RuntimeInstance,
    Usage,
)

log = structlog.get_logger()

_RUNTIME: Final = ("id", "name", "version", "offer_properties", "probe", "clean_up", "deploy")
# Properties that the node itself is answerable for: a runtime does not say what the machine has or what it costs.
_NOT_ITS: Final = ("golem.com.", "golem.inf.", "golem.node.", "golem.srv.")
_STRANGE: Final = (Exception, SystemExit)  # a SystemExit of a library would end the node


class GuardedRuntime:
    """A Runtime around another one. ``source`` names where that comes from, for people."""

    def __init__(self, runtime: Any, source: str) -> None:
        missing = [name for name in _RUNTIME if not hasattr(runtime, name)]
        if missing:
            raise UsageError(
                f"what {source} gives is no runtime: it has no {', '.join(missing)}", hint="see protocols/runtimes.md"
            )
        self._runtime: Runtime = runtime
        self._source = source

    @property
    def inner(self) -> Runtime:
        return self._runtime

    @property
    def id(self) -> str:
        return str(self._runtime.id)

    @property
    def name(self) -> str:
        return str(self._runtime.name)

    @property
    def version(self) -> str:
        return str(self._runtime.version)

    def offer_properties(self) -> Mapping[str, str | float | bool | list[str]]:
        with _guarded(self._source, "offer_properties"):
            found = dict(self._runtime.offer_properties())
        for name, value in list(found.items()):
            if not isinstance(name, str) or not _is_property(value) or name.startswith(_NOT_ITS):
                log.warning("runtime_property_dropped", runtime=self.id, source=self._source, property=str(name)[:100])
                del found[name]
        return {
            "golem.!exp.golemp2p.isolation": "unknown",
            **found,
            "golem.runtime.name": self.name,
            "golem.runtime.version": self.version,
        }

    async def probe(self) -> Probe:
        try:
            with trio.fail_after(limits.PROBE_TIMEOUT_S):
                found = await self._runtime.probe()
        except trio.TooSlowError:
            return Probe(False, f"{self._source} did not answer within {limits.PROBE_TIMEOUT_S:g} s")
        except _STRANGE as exc:
            log.warning("runtime_probe_failed", source=self._source, exc_info=True)
            return Probe(False, f"{self._source} failed: {type(exc).__name__}: {exc}")
        return found if isinstance(found, Probe) else Probe(False, f"{self._source} gave no verdict")

    async def clean_up(self) -> None:
        with trio.move_on_after(limits.CUSTOM_CLEAN_UP_S) as scope:
            try:
                await self._runtime.clean_up()
            except _STRANGE:
                log.warning("runtime_clean_up_failed", source=self._source, exc_info=True)
        if scope.cancelled_caught:
            log.warning("runtime_clean_up_too_slow", source=self._source, seconds=limits.CUSTOM_CLEAN_UP_S)

    async def deploy(self, deployment: Deployment) -> RuntimeInstance:
        with _guarded(self._source, "deploy"):
            return _GuardedInstance(await self._runtime.deploy(deployment), self._source)


class _GuardedInstance:
    def __init__(self, instance: RuntimeInstance, source: str) -> None:
        self._instance = instance
        self._source = source
        self._usage = Usage()

    @property
    def files(self) -> GuestFiles:
        return _GuardedFiles(self._instance.files, self._source)

    @property
    def disk(self) -> Sequence[Path]:
        with _guarded(self._source, "disk"):
            return self._instance.disk

    async def start(self, args: Sequence[str]) -> None:
        with _guarded(self._source, "start"):
            await self._instance.start(args)

    async def run(self, entry_point: str, args: Sequence[str], output: OutputSink) -> ExitStatus:
        with _guarded(self._source, "run"):
            status = await self._instance.run(entry_point, args, output)
        if not isinstance(status, ExitStatus):
            raise RuntimeFailureError(f"{self._source}: run gave {type(status).__name__}, not an ExitStatus")
        return status

    async def connect(self, port: int) -> trio.abc.HalfCloseableStream:
        with _guarded(self._source, "connect"):
            return await self._instance.connect(port)

    async def lost(self) -> str:
        try:
            return str(await self._instance.lost())
        except _STRANGE as exc:
            log.warning("runtime_failed", source=self._source, what="lost", exc_info=True)
            return f"{self._source} failed: {type(exc).__name__}: {exc}"

    def usage(self) -> Usage:
        """Never decreases, whatever the runtime says: bills are made of it."""
        try:
            told, before = self._instance.usage(), self._usage
            self._usage = Usage(
                max(float(told.cpu_s), before.cpu_s),
                max(int(told.fuel), before.fuel),
                max(int(told.memory_peak_bytes), before.memory_peak_bytes),
                max(int(told.storage_bytes), before.storage_bytes),
            )
        except _STRANGE:
            log.warning("runtime_failed", source=self._source, what="usage", exc_info=True)
        return self._usage

    async def terminate(self) -> None:
        with trio.move_on_after(limits.CUSTOM_CLEAN_UP_S) as scope:
            try:
                await self._instance.terminate()
            except _STRANGE:
                log.warning("runtime_failed", source=self._source, what="terminate", exc_info=True)
        if scope.cancelled_caught:
            log.warning("runtime_terminate_too_slow", source=self._source, seconds=limits.CUSTOM_CLEAN_UP_S)


class _GuardedFiles:
    def __init__(self, files: GuestFiles, source: str) -> None:
        self._files = files
        self._source = source

    @property
    def volumes(self) -> Sequence[str]:
        with _guarded(self._source, "volumes"):
            return self._files.volumes

    async def put(self, path: str, source: Path) -> None:
        with _guarded(self._source, "put"):
            await self._files.put(path, source)

    @asynccontextmanager
    async def reading(self, path: str, *, max_bytes: int) -> AsyncIterator[Path]:
        with _guarded(self._source, "reading"):
            context = self._files.reading(path, max_bytes=max_bytes)
            place = await context.__aenter__()
        try:
            yield place  # what is raised in here is not the runtime's doing
        finally:
            with _guarded(self._source, "reading"):
                await context.__aexit__(None, None, None)

    async def put_tree(self, path: str, source: Path) -> None:
        with _guarded(self._source, "put_tree"):
            await self._files.put_tree(path, source)

    async def get_tree(self, path: str, target: Path, *, max_bytes: int, max_files: int) -> None:
        with _guarded(self._source, "get_tree"):
            await self._files.get_tree(path, target, max_bytes=max_bytes, max_files=max_files)


@contextmanager
def _guarded(source: str, what: str) -> Iterator[None]:
    try:
        yield
    except GolemError:
        raise
    except _STRANGE as exc:
        log.warning("runtime_failed", source=source, what=what, exc_info=True)
        raise RuntimeFailureError(f"{source} failed in {what}: {type(exc).__name__}: {exc}") from exc


def _is_property(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return isinstance(value, str | int | float | bool)
