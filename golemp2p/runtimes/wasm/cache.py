"""Compiled modules on disk, shared by all nodes of a user.

A serialized module is native code, so nothing but our own compile worker ever writes here; files get their name by an
atomic rename, and the key names all that the code depends on. Compiling cannot be interrupted from inside (CPython's
25 MiB take 5 s, a hostile module any time), hence the worker with its own CPU, memory and wall budget.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import signal
import time
from contextlib import AbstractAsyncContextManager
from importlib import metadata
from pathlib import Path
from typing import Final

import structlog
import trio

from golemp2p import limits
from golemp2p.filelock import locked
from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.runtimes.wasm.launch import start_worker
from golemp2p.runtimes.wasm.profiles import Profile

log = structlog.get_logger()
WASMTIME_VERSION: Final = metadata.version("wasmtime")
_OUTPUT: Final = "module"


class _BudgetError(RuntimeFailureError):
    """Compiling took more than it may: worth remembering."""


class ModuleCache:
    """Get-or-compile. One compilation of a module at a time, across processes; few at a time in this one.

    What went beyond the budget is not tried again for a while: else one small module could keep a core busy for ever.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.chmod(0o700)
        self._directory = directory
        self._compiling = trio.CapacityLimiter(limits.COMPILES_AT_ONCE)
        self._too_dear: dict[Path, tuple[float, str]] = {}  # by the name that it would have: until when, and why

    def path_of(self, sha256: str, profile: Profile) -> Path:
        """Where the compiled form of this program is, or would be."""
        return self._directory / f"{sha256}-{WASMTIME_VERSION}-{profile.config_id}-{platform.machine()}.cwasm"

    async def link(self, package: Path, sha256: str, target: Path, profile: Profile) -> bool:
        """Make ``target`` a private name of the compiled module; True when it had to be compiled.

        A name of its own survives eviction. Raises RuntimeFailureError.
        """
        cached = self.path_of(sha256, profile)
        if self._take(cached, target):
            return False
        async with self._locked(cached.with_suffix(".lock")):
            if self._take(cached, target):  # another node did it while we waited
                return False
            self._refuse_again(cached)
            try:
                async with self._compiling:
                    await self._compile(package, cached, profile)
            except _BudgetError as exc:
                self._remember(cached, exc.message)
                raise
            if not self._take(cached, target):
                raise RuntimeFailureError("the compiled module vanished from the cache")
        self._evict()
        return True

    def forget(self, sha256: str, profile: Profile) -> None:
        """Drop an entry that does not load (a changed processor, a damaged disk)."""
        self.path_of(sha256, profile).unlink(missing_ok=True)

    def _refuse_again(self, cached: Path) -> None:
        until_s, why = self._too_dear.get(cached, (0.0, ""))
        if trio.current_time() < until_s:
            raise RuntimeFailureError(why, hint="tried a short while ago, and not again now")

    def _remember(self, cached: Path, why: str) -> None:
        self._too_dear.pop(cached, None)
        while len(self._too_dear) >= limits.MAX_COMPILE_FAILURES:
            del self._too_dear[next(iter(self._too_dear))]
        self._too_dear[cached] = trio.current_time() + limits.COMPILE_FAILURE_KEEP_S, why

    def _take(self, cached: Path, target: Path) -> bool:
        try:
            os.link(cached, target)
        except FileNotFoundError:
            return False
        except OSError:  # another file system
            part = target.with_suffix(".part")
            part.write_bytes(cached.read_bytes())
            part.rename(target)
        with contextlib.suppress(OSError):
            os.utime(cached)  # least recently used goes first
        return True

    async def _compile(self, package: Path, cached: Path, profile: Profile) -> None:
        package = package.absolute()  # noqa: ASYNC240 - for the worker, which is elsewhere; asks for the cwd alone
        # The compiler may write nowhere but here: it reads what a stranger wrote, and the cache holds native code.
        part = cached.with_name(f".{secrets.token_hex(8)}.part")
        part.mkdir(mode=0o700)
        started_s = trio.current_time()
        worker = start_worker(self._directory)
        try:
            with trio.move_on_after(limits.COMPILE_WALL_S) as wall:
                await worker.send(
                    {
                        "op": "compile",
                        "package": str(package),
                        "output": str(part / _OUTPUT),
                        "profile": profile.value,
                        "readable": [str(package)],
                        "writable": [str(part)],
                        "data_bytes": limits.COMPILE_MEMORY_BYTES,
                        "cpu_s": limits.COMPILE_CPU_S,
                        "file_bytes": limits.MAX_COMPILED_BYTES,
                        "open_files": limits.WORKER_OPEN_FILES,
                    }
                )
                # Nothing reads the worker's pipes: what it says there is at most a panic's few lines.
                ended = await worker.child.wait()
            if wall.cancelled_caught:
                raise _BudgetError(f"compiling the module took longer than {limits.COMPILE_WALL_S:g} s")
            outcome = await worker.outcome()
            if outcome is None:
                raise _BudgetError(
                    f"compiling the module failed ({_why(ended.code)})",
                    hint=f"budget: {limits.COMPILE_CPU_S} CPU-s, {limits.COMPILE_MEMORY_BYTES // limits.MIB} MiB",
                )
            if "error" in outcome:
                raise RuntimeFailureError(str(outcome["error"]))
            (part / _OUTPUT).rename(cached)
            log.info("module_compiled", file=cached.name, seconds=round(trio.current_time() - started_s, 3))
        finally:
            await worker.aclose()
            shutil.rmtree(part, ignore_errors=True)

    def remove_leftovers(self) -> None:
        """What compilers of killed nodes left. Blocks."""
        for path in self._directory.glob(".*.part"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > 2 * limits.COMPILE_WALL_S:  # else another node is at it
                    shutil.rmtree(path)

    def _locked(self, path: Path) -> AbstractAsyncContextManager[None]:
        """Other nodes of this user may be compiling the very same module."""
        busy = RuntimeFailureError("another node keeps compiling this module")
        return locked(path, timeout_s=limits.COMPILE_WALL_S * 2, otherwise=busy)

    def _evict(self) -> None:
        """Drop the least recently used modules beyond the budget."""
        entries = sorted(self._directory.glob("*.cwasm"), key=lambda path: path.stat().st_mtime, reverse=True)
        total_bytes = 0
        for path in entries:
            total_bytes += path.stat().st_size
            if total_bytes > limits.MODULE_CACHE_BYTES:
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)


def _why(status: int) -> str:
    if status == -signal.SIGXCPU:
        return "out of CPU time"
    if status in (-signal.SIGABRT, -signal.SIGSEGV):  # how Rust and the C library end when an allocation fails
        return "most likely out of memory"
    return f"status {status}"
