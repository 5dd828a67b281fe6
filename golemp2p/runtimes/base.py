"""The runtime port: what the supervisor (activity.provider) needs of anything that can run a payload.

Life of an instance: ``Runtime.deploy`` -> ``start`` -> ``run`` any number of times -> ``terminate``. The supervisor
calls one ``run`` at a time, moves files in and out through ``volumes``, and calls ``terminate`` in every case,
shielded, at the end. Cancelling ``run`` kills the process it started before it returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from golemp2p.errors import GolemError


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


# (message, done, total or None, unit): for people, while a command takes long.
ProgressSink = Callable[[str, int, int | None, str], Awaitable[None]]


@dataclass(frozen=True)
class Deployment:
    """What the supervisor hands over. ``package`` is a verified local file; ``work_dir`` is private and empty."""

    activity_id: str
    package: Path
    package_sha256: str
    work_dir: Path
    limits: Limits = Limits()
    env: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()  # further guest paths that must exist and be writable, absolute and normalised
    progress: ProgressSink | None = None  # told of what takes long


@dataclass(frozen=True)
class ExitStatus:
    """``code`` is what the process returned (128 + signal when killed by one); ``message`` explains abnormal ends."""

    code: int
    reason: EndReason = EndReason.EXITED
    message: str = ""


@dataclass(frozen=True)
class Usage:
    """Cumulative for the instance, in the units of golem.usage.*."""

    cpu_s: float = 0.0
    fuel: int = 0
    memory_peak_bytes: int = 0
    storage_bytes: int = 0


# (stream, chunk): stream is "stdout" or "stderr". Awaiting it is the back-pressure: the payload waits with us.
OutputSink = Callable[[str, bytes], Awaitable[None]]


class RuntimeInstance(Protocol):
    @property
    def volumes(self) -> Mapping[str, Path]:
        """Guest path -> host directory, for ``container:`` transfers; the longest prefix wins."""
        ...

    async def start(self, args: Sequence[str]) -> None: ...

    async def run(self, entry_point: str, args: Sequence[str], output: OutputSink) -> ExitStatus:
        """One process to its end. Raises RuntimeFailureError when it cannot even start."""
        ...

    def usage(self) -> Usage: ...

    async def terminate(self) -> None:
        """Stop and remove everything of this instance. Never raises; idempotent."""
        ...


class Runtime(Protocol):
    @property
    def name(self) -> str:
        """``golem.runtime.name`` of the offer."""
        ...

    @property
    def version(self) -> str: ...

    def offer_properties(self) -> Mapping[str, str | float | bool | list[str]]:
        """Properties of the offer that describe this runtime (not hardware, price or node)."""
        ...

    async def deploy(self, deployment: Deployment) -> RuntimeInstance:
        """Prepare the payload (compile, unpack). Raises RuntimeFailureError."""
        ...
