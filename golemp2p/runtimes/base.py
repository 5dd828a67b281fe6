"""The runtime port: what the supervisor (activity.supervisor) needs of anything that can run a payload.

Life of an instance: ``Runtime.deploy`` -> ``start`` -> ``run`` any number of times -> ``terminate``. The supervisor
calls one ``run`` at a time, moves files in and out through ``files``, watches ``lost``, and calls ``terminate`` in
every case, shielded, at the end. Cancelling ``run`` kills the process it started before it returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

import trio

from golemp2p.errors import GolemError
from golemp2p.runtimes.link import GuestLink
from golemp2p.runtimes.outbound import OutboundPort


class RuntimeFailureError(GolemError):
    """The payload cannot be deployed or run; the message is shown to the requestor."""

    code = "runtime"


class EndReason(StrEnum):
    """Why a process ended, when it was not by itself."""

    EXITED = "exited"
    TRAP = "trap"
    OUT_OF_FUEL = "out_of_fuel"
    OUT_OF_MEMORY = "out_of_memory"
    CPU_LIMIT = "cpu_limit"
    WALL_LIMIT = "wall_limit"
    KILLED = "killed"


@dataclass(frozen=True)
class Limits:
    """What one instance may use. ``None`` means the runtime's own default."""

    memory_bytes: int | None = None
    cpu_s: float | None = None  # per run
    wall_s: float | None = None  # per run
    fuel: int | None = None  # per run
    storage_bytes: int | None = None
    cpus: float | None = None  # how many cores' worth of time it gets
    processes: int | None = None  # processes and threads alive at a time


# (message, done, total or None, unit): for people, while a command takes long.
ProgressSink = Callable[[str, int, int | None, str], Awaitable[None]]


@dataclass(frozen=True)
class Deployment:
    """What the supervisor hands over. ``package`` is a verified local file; ``work_dir`` is private and empty.

    ``nursery`` lives at least until ``terminate`` was called, or is cancelled before: the place for an instance's own
    tasks. What they raise ends the activity.
    """

    activity_id: str
    package: Path
    package_sha256: str
    work_dir: Path
    nursery: trio.Nursery = field(repr=False)
    limits: Limits = Limits()
    env: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()  # further guest paths that must exist and be writable, absolute and normalised
    progress: ProgressSink | None = None  # told of what takes long
    deterministic: bool = False  # results must be repeatable elsewhere; refused where that cannot be had
    metered: bool = True  # whether anybody wants to know Usage.fuel; counting may cost speed
    hostname: str | None = None
    reference: str = ""  # a registry's NAME@sha256:… instead of a package; only for runtimes that offer "pull"
    networks: Sequence[GuestLink] = ()  # eth0, eth1, … of the payload; only for runtimes that offer "vpn"
    hosts: Mapping[str, str] = field(default_factory=dict)  # further names in /etc/hosts
    outbound: OutboundPort | None = None  # to the outside; only for runtimes that offer "inet"


@dataclass(frozen=True)
class ExitStatus:
    """``code`` is what the process returned (128 + signal when killed by one); ``message`` explains abnormal ends."""

    code: int
    reason: EndReason = EndReason.EXITED
    message: str = ""
    evidence: Mapping[str, object] | None = None  # of a deterministic run: what another provider can check


@dataclass(frozen=True)
class Usage:
    """Cumulative for the instance, in the units of golem.usage.*."""

    cpu_s: float = 0.0
    fuel: int = 0
    memory_peak_bytes: int = 0
    storage_bytes: int = 0


# (stream, chunk): stream is "stdout" or "stderr". Awaiting it is the back-pressure: the payload waits with us.
OutputSink = Callable[[str, bytes], Awaitable[None]]


class GuestFiles(Protocol):
    """The volumes of one instance. Paths are absolute guest paths; neither they nor links in the guest lead out.

    All raise GuestPathError (runtimes.volumes) for paths that lead nowhere or out, RuntimeFailureError when the guest
    does not answer.
    """

    @property
    def volumes(self) -> Sequence[str]:
        """Guest paths of directories that files may be moved in and out of; the longest prefix wins."""
        ...

    async def put(self, path: str, source: Path) -> None:
        """Copy the host's file to ``path``: makes missing directories, replaces a file of that name at once."""
        ...

    def reading(self, path: str, *, max_bytes: int) -> AbstractAsyncContextManager[Path]:
        """A host path by which the regular file ``path`` can be read while inside. UsageError when larger."""
        ...

    async def put_tree(self, path: str, source: Path) -> None:
        """Copy the directory ``source`` (files, directories, links that stay inside) into the directory ``path``."""
        ...

    async def get_tree(self, path: str, target: Path, *, max_bytes: int, max_files: int) -> None:
        """Copy the directory ``path`` into the new directory ``target``; special files are left out."""
        ...


class RuntimeInstance(Protocol):
    @property
    def files(self) -> GuestFiles: ...

    @property
    def disk(self) -> Sequence[Path]:
        """Host files and directories whose space counts as this instance's; never one within another."""
        ...

    async def start(self, args: Sequence[str]) -> None: ...

    async def run(self, entry_point: str, args: Sequence[str], output: OutputSink) -> ExitStatus:
        """One process to its end, whoever still holds its pipes. RuntimeFailureError when it cannot even start."""
        ...

    async def connect(self, port: int) -> trio.abc.HalfCloseableStream:
        """A TCP connection to ``port`` on the payload's own loopback. Raises RuntimeFailureError (refused, none)."""
        ...

    async def lost(self) -> str:
        """Wait until the instance has died by itself (engine stopped, machine killed); the reason, for people."""
        ...

    def usage(self) -> Usage: ...

    async def terminate(self) -> None:
        """Stop and remove everything of this instance. Never raises; idempotent."""
        ...


class NetworkedInstance(RuntimeInstance, Protocol):
    """Of a runtime that offers "vpn": it gave the payload a device for each of ``Deployment.networks``."""

    async def connect(self, port: int, address: IPv4Address | None = None) -> trio.abc.HalfCloseableStream:
        """As above, to ``address`` of the payload where one is given."""
        ...


@dataclass(frozen=True)
class Probe:
    """What came of really trying a runtime on this machine. ``measured`` are numbers with their unit in the name."""

    works: bool
    reason: str = ""  # why not
    hint: str = ""  # what to install or to set
    measured: Mapping[str, float] = field(default_factory=dict)


class Runtime(Protocol):
    @property
    def id(self) -> str:
        """What this provider's settings call it: ``wasmtime``, ``vm/docker``, ``vm/qemu``, a custom one's name."""
        ...

    @property
    def name(self) -> str:
        """``golem.runtime.name`` of the offer; two backends may share it."""
        ...

    @property
    def version(self) -> str: ...

    def offer_properties(self) -> Mapping[str, str | float | bool | list[str]]:
        """Properties of the offer that describe this runtime (not hardware, price or node)."""
        ...

    async def probe(self) -> Probe:
        """Run something small, for real. Never raises; bounded by limits.PROBE_TIMEOUT_S."""
        ...

    async def clean_up(self) -> None:
        """Remove what a killed node left behind (found by label or directory). Never raises; before any deploy."""
        ...

    async def deploy(self, deployment: Deployment) -> RuntimeInstance:
        """Prepare the payload (compile, unpack). Raises RuntimeFailureError."""
        ...
