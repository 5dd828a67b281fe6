"""A runtime that is an executable with Golem's runtime CLI (protocols/runtimes.md), start mode "empty".

What it isolates the payload by is its own affair; this side bounds its processes, finds all of them again by a mark
in their environment, and ends them. The requestor's environment reaches it as JSON in one variable, never as
variables: LD_PRELOAD would make the provider's own executable do anything.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from golemp2p import limits
from golemp2p.errors import UsageError
from golemp2p.runtimes.base import (
    Deployment,
    EndReason,
    ExitStatus,
    Limits,
    OutputSink,
    Probe,
    RuntimeFailureError,
    Usage,
)
from golemp2p.runtimes.custom import commands
from golemp2p.runtimes.custom.context import RuntimeContext
from golemp2p.runtimes.custom.protocol import BLOCKING, DeployAnswer, parse_deploy, parse_offer_template
from golemp2p.runtimes.custom.sessions import MARK, kill_all, kill_marked, marked, measure
from golemp2p.runtimes.exits import cpu_limit, killed_from_outside, wall_limit
from golemp2p.runtimes.hostfiles import HostFiles
from golemp2p.runtimes.process import Child, ChildExit

ENV_VARIABLE: Final = "GOLEMP2P_ENV"
_SETTINGS: Final = frozenset({"command", "version", "env"})
_GIB: Final = 1024**3


class ExecutableRuntime:
    """``command``: the executable (absolute) and arguments that come first; ``env``: further variables for it."""

    def __init__(
        self, name: str, command: Sequence[str], version: str, env: Mapping[str, str], work_root: Path
    ) -> None:
        self._name = name
        self._command = tuple(command)
        self._version = version
        self._env = dict(env)
        self._work_root = work_root
        self._properties: dict[str, str | float | bool | list[str]] = {}

    @classmethod
    def from_context(cls, context: RuntimeContext) -> ExecutableRuntime:
        """Settings ``command`` (path or list), ``version``, ``env`` (table). Raises UsageError."""
        given = context.settings
        where = f"runtime.{context.name}"
        if unknown := sorted(set(given) - _SETTINGS):
            raise UsageError(f"setting {where}.{unknown[0]} is unknown", hint=f"known: {', '.join(sorted(_SETTINGS))}")
        command = given["command"]
        command = [command] if isinstance(command, str) else command
        if not isinstance(command, list) or not command or not all(isinstance(part, str) for part in command):
            raise UsageError(f"setting {where}.command is neither a path nor a list of texts")
        if not Path(command[0]).is_absolute() or not os.access(command[0], os.X_OK):
            raise UsageError(f"setting {where}.command: {command[0]!r} is no executable", hint="give its absolute path")
        env = given.get("env", {})
        if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
            raise UsageError(f"setting {where}.env is no table of texts")
        return cls(context.name, command, str(given.get("version", "0")), env, context.work_root)

    @property
    def id(self) -> str:
        return self._name

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._version

    def offer_properties(self) -> Mapping[str, str | float | bool | list[str]]:
        """Its offer template's, once :meth:`probe` has asked for it."""
        return {**self._properties, "golem.runtime.name": self.name, "golem.runtime.version": self.version}

    async def probe(self) -> Probe:
        """Its ``test`` and ``offer-template``. A package to try is not known here."""
        began_s = time.perf_counter()
        ask = partial(commands.ask, env=self._environment(None), cwd=Path("/"), timeout_s=limits.PROBE_TIMEOUT_S / 2)
        try:
            await ask([*self._command, "test"])
            self._properties = parse_offer_template(await ask([*self._command, "offer-template"]))
        except RuntimeFailureError as exc:
            return Probe(False, str(exc), hint=f"try: {' '.join(self._command)} test")
        return Probe(True, measured={"test_s": round(time.perf_counter() - began_s, 3)})

    async def clean_up(self) -> None:
        """Processes of this node's activities that outlived it, whichever executable runtime started them."""
        await trio.to_thread.run_sync(partial(kill_marked, self._work_root, below=True))

    async def deploy(self, deployment: Deployment) -> ExecutableInstance:
        if deployment.deterministic:
            raise RuntimeFailureError(f"runtime {self._name!r} has no deterministic mode")
        work = deployment.work_dir
        instance = ExecutableInstance(self._command, self._environment(deployment), deployment)
        try:
            text = await instance.ask("deploy", timeout_s=limits.CUSTOM_DEPLOY_S)
            answer = parse_deploy(text)
            _require_empty_mode(answer)
            instance.set_volumes(await trio.to_thread.run_sync(_make_volumes, work, answer, deployment.volumes))
        except BaseException:
            await instance.terminate()
            raise
        return instance

    def _environment(self, deployment: Deployment | None) -> dict[str, str]:
        """Nothing of the node's own but PATH: it may hold secrets."""
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **self._env}
        if deployment is not None:
            env |= {MARK: str(deployment.work_dir), ENV_VARIABLE: json.dumps(dict(deployment.env))}
        return env


def _require_empty_mode(answer: DeployAnswer) -> None:
    if answer.start_mode == BLOCKING:
        raise RuntimeFailureError(
            f"the runtime wants start mode {BLOCKING!r}, which is not supported",
            hint="runtimes with start mode 'empty' are",
        )


def _make_volumes(work: Path, answer: DeployAnswer, wanted: Sequence[str]) -> dict[str, Path]:
    volumes = {}
    for path, name in answer.volumes.items():
        host = work / name
        host.mkdir(exist_ok=True)
        if host.is_symlink():
            raise RuntimeFailureError(f"the runtime's volume {name!r} is a symbolic link")
        volumes[path] = host
    if missing := [path for path in wanted if path not in volumes]:
        raise RuntimeFailureError(f"the runtime does not give the volume {missing[0]!r}")
    return volumes


class ExecutableInstance:
    """One deployed package."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], deployment: Deployment) -> None:
        self._env = dict(env)
        self._deployment = deployment
        self._files = HostFiles({})
        self._prefix = [*command, "--workdir", str(deployment.work_dir), "--task-package", str(deployment.package)]
        self._prefix += _bounds_as_options(deployment.limits)
        if deployment.volumes:
            override: dict[str, object] = {path: {"host": {}} for path in deployment.volumes}
            self._prefix += ["--volume-override", json.dumps(override)]
        if deployment.hostname:
            self._prefix += ["--hostname", deployment.hostname]
        self._past = Usage()
        self._live_s = 0.0  # CPU seconds of the running command's processes, as last seen
        self._background: dict[int, float] = {}  # what earlier commands left running: pid -> CPU seconds, as last seen
        self._running: Child | None = None

    def set_volumes(self, volumes: Mapping[str, Path]) -> None:
        self._files = HostFiles(volumes)

    @property
    def files(self) -> HostFiles:
        return self._files

    @property
    def disk(self) -> Sequence[Path]:
        return (self._deployment.work_dir,)

    async def ask(self, *command: str, timeout_s: float) -> str:
        """A command that answers with text. Raises RuntimeFailureError."""
        argv = [*self._prefix, *command]
        return await commands.ask(argv, env=self._env, cwd=self._deployment.work_dir, timeout_s=timeout_s)

    async def start(self, args: Sequence[str]) -> None:
        await self.ask("start", *args, timeout_s=limits.CUSTOM_START_S)

    async def run(self, entry_point: str, args: Sequence[str], output: OutputSink) -> ExitStatus:
        """Background processes of the command go on until ``terminate``, as in a container."""
        if self._running is not None:
            raise RuntimeFailureError("another command is running in this activity")
        agreed = self._deployment.limits
        argv = [*self._prefix, "run", "--entrypoint", entry_point, "--", *args]
        bounds = {
            "cpu_s": None if agreed.cpu_s is None else math.ceil(agreed.cpu_s),
            "file_bytes": agreed.storage_bytes,
            "data_bytes": agreed.memory_bytes,
        }
        child = self._running = commands.start(argv, env=self._env, cwd=self._deployment.work_dir, bounds=bounds)
        killed, self._live_s = False, 0.0
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sample)
                with trio.move_on_after(math.inf if agreed.wall_s is None else agreed.wall_s) as wall:
                    ended = await commands.pump(child, partial(output, "stdout"), partial(output, "stderr"))
                nursery.cancel_scope.cancel()
                if wall.cancelled_caught:
                    killed = True
                    ended = await self._finish(child, kill=True)
        finally:
            await self._finish(child, kill=not child.has_ended())
        if killed and agreed.wall_s is not None:
            return wall_limit(agreed.wall_s)
        return judge(ended, agreed)

    async def connect(self, port: int) -> trio.abc.HalfCloseableStream:
        raise RuntimeFailureError(f"an executable runtime says nothing of networks: port {port} cannot be reached")

    async def lost(self) -> str:
        """Never: nothing of it has to be alive between two commands."""
        return await trio.sleep_forever()

    def usage(self) -> Usage:
        live_s = 0.0 if self._running is None else max(self._running.cpu_s(), self._live_s)
        return _plus_cpu(self._past, live_s + sum(self._background.values()))

    async def terminate(self) -> None:
        with trio.CancelScope(shield=True):
            if self._running is not None:
                await self._running.aclose()
            await trio.to_thread.run_sync(kill_marked, self._deployment.work_dir)

    async def _finish(self, child: Child, *, kill: bool) -> ChildExit:
        """The end of a command, accounted for once. What it left behind is background from now on, unless killed."""
        with trio.CancelScope(shield=True):
            if self._running is child:
                await trio.to_thread.run_sync(self._look)
                ended = await child.aclose()  # kills the session only if the command is still running
                left = await trio.to_thread.run_sync(self._strangers)
                left_s = {pid: measure([pid])[0] for pid in left}
                # The kernel's number has the children that were waited for, what was seen has the others.
                self._past = _plus_cpu(self._past, max(ended.cpu_s, self._live_s - sum(left_s.values())))
                self._background |= left_s
                if kill:
                    kill_all(left)
                self._running, self._live_s = None, 0.0
        return await child.wait()

    async def _sample(self) -> None:
        """What cannot be known after the end: memory, and CPU time of children that nobody waits for."""
        while True:
            await trio.to_thread.run_sync(self._look)
            await trio.sleep(limits.CUSTOM_SAMPLE_S)

    def _look(self) -> None:
        """Called by one thread at a time."""
        pids = list(marked(self._deployment.work_dir))
        live_s, _ = measure(pid for pid in pids if pid not in self._background)
        self._live_s = max(self._live_s, live_s)
        for pid in self._background.keys() & set(pids):
            self._background[pid] = max(self._background[pid], measure([pid])[0])
        past, peak_bytes = self._past, measure(pids)[1]
        self._past = Usage(past.cpu_s, past.fuel, max(past.memory_peak_bytes, peak_bytes), past.storage_bytes)

    def _strangers(self) -> list[int]:
        return [pid for pid in marked(self._deployment.work_dir) if pid not in self._background]


def judge(ended: ChildExit, agreed: Limits) -> ExitStatus:
    """How a command ended. A shell in between turns a signal into 128 + its number."""
    code = ended.code if ended.code >= 0 else 128 - ended.code
    if agreed.cpu_s is not None and code == 128 + signal.SIGXCPU:
        return cpu_limit(agreed.cpu_s)
    if ended.code == -signal.SIGKILL:
        return killed_from_outside()
    if ended.code < 0:
        return ExitStatus(code, EndReason.TRAP, f"died of {signal.Signals(-ended.code).name}")
    return ExitStatus(code)


def _bounds_as_options(agreed: Limits) -> list[str]:
    options: list[tuple[str, Any]] = [
        ("--cpu-cores", None if agreed.cpus is None else max(math.ceil(agreed.cpus), 1)),
        ("--mem-gib", None if agreed.memory_bytes is None else agreed.memory_bytes / _GIB),
        ("--storage-gib", None if agreed.storage_bytes is None else agreed.storage_bytes / _GIB),
    ]
    return [text for name, value in options if value is not None for text in (name, str(value))]


def _plus_cpu(used: Usage, cpu_s: float) -> Usage:
    return Usage(used.cpu_s + cpu_s, used.fuel, used.memory_peak_bytes, used.storage_bytes)
