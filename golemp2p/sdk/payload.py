"""What a provider is to run: runtime, program or image, what the machine must have and how much of it may be used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import anyio

from golemp2p import limits
from golemp2p.client import NodeClient
from golemp2p.core.constraints import parse
from golemp2p.core.properties import PropertyValue
from golemp2p.errors import UsageError

_WASM_MAGIC: Final = b"\0asm"
_LIMIT: Final = "golem.!exp.golemp2p.limit."
DETERMINISTIC: Final = "golem.!exp.golemp2p.deterministic"
Isolation = Literal["container", "gvisor", "microvm"]


@dataclass(frozen=True)
class Payload:
    """Made by :func:`wasm`, :func:`vm` and :func:`custom`. ``env`` is set for every command.

    ``source`` is a file, its bytes, or a task_package link. ``constraints`` are clauses that the offer must meet, such
    as ``(golem.inf.cpu.threads>=2)``; ``demand`` are properties of the demand.
    """

    runtime: str
    source: Path | bytes | str = field(repr=False)
    constraints: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    demand: tuple[tuple[str, PropertyValue], ...] = ()

    async def publish(self, client: NodeClient) -> str:
        """Give the program to the node; the value of ``golem.srv.comp.task_package``."""
        if isinstance(self.source, str):
            return self.source
        file = await client.files.publish(self.source)
        return f"hash:sha3:{file.sha3_256}:{file.url}"


async def wasm(
    program: str | Path | bytes,
    *,
    min_memory_gib: float = 0.0,
    memory_gib: float | None = None,
    storage_gib: float | None = None,
    deterministic: bool = False,
    constraints: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Payload:
    """A WASI program (preview 1 module or preview 2 component), by path or as bytes.

    ``deterministic``: the same input gives the same output and fuel everywhere, and each result carries the provider's
    signed receipt. Raises UsageError: the file cannot be read, is no WebAssembly; a constraint is malformed.
    """
    source: Path | bytes = program if isinstance(program, bytes) else Path(program)
    if await _head(source, len(_WASM_MAGIC)) != _WASM_MAGIC:
        name = "the program" if isinstance(source, bytes) else str(source)
        raise UsageError(f"{name} is not a WebAssembly module", hint="WAT text must be compiled to .wasm first")
    if deterministic:  # what every such run has
        min_memory_gib = max(min_memory_gib, limits.DETERMINISTIC_MEMORY_BYTES / 1024**3)
    clauses, demand = _machine(
        constraints, min_memory_gib=min_memory_gib, memory_gib=memory_gib, storage_gib=storage_gib
    )
    if deterministic:
        demand.append((DETERMINISTIC, True))
        clauses.append("(golem.runtime.capabilities=deterministic)")
    return Payload("wasmtime", source, tuple(clauses), tuple((env or {}).items()), tuple(demand))


async def vm(
    image: str | Path,
    *,
    min_memory_gib: float = 0.0,
    memory_gib: float | None = None,
    cpus: float | None = None,
    storage_gib: float | None = None,
    isolation: Isolation | None = None,
    backend: Literal["docker", "qemu"] | None = None,
    constraints: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Payload:
    """A container or VM image: a file (OCI or docker archive, .gvmi) or a link.

    A link is ``hash:sha3:<hex>:<url>``, or ``docker://NAME@sha256:…`` for providers that pull that image.
    ``memory_gib``, ``cpus`` and ``storage_gib`` are what it needs and no more than what it gets. ``isolation`` and
    ``backend`` are demanded of the provider. Raises UsageError.
    """
    source: Path | str
    if _is_link(image):
        source = str(image)
    else:
        source = Path(image)
        await _head(source, 1)
    clauses, demand = _machine(
        constraints, min_memory_gib=min_memory_gib, memory_gib=memory_gib, cpus=cpus, storage_gib=storage_gib
    )
    if isolation is not None:
        clauses.append(f"(golem.!exp.golemp2p.isolation={isolation})")
    if str(source).startswith("docker://"):
        if not re.search(r"@sha256:[0-9a-f]{64}$", str(source)):
            raise UsageError(f"{str(source)[:200]!r} names no digest", hint="docker://NAME@sha256:…")
        clauses.append("(golem.runtime.capabilities=pull)")
    if backend is not None:
        clauses.append(f"(golem.!exp.golemp2p.backend={backend})")
    return Payload("vm", source, tuple(clauses), tuple((env or {}).items()), tuple(demand))


async def custom(
    runtime: str,
    package: str | Path | bytes,
    *,
    constraints: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Payload:
    """A package for a third party's ``runtime``: a file, its bytes, or a link ``hash:sha3:<hex>:<url>``."""
    if not re.fullmatch(r"[A-Za-z0-9._/-]{1,64}", runtime):
        raise UsageError(f"runtime {runtime[:80]!r} is no runtime's name")
    source: Path | bytes | str
    if isinstance(package, bytes):
        source = package
    elif _is_link(package):
        source = str(package)
    else:
        source = Path(package)
        await _head(source, 1)
    clauses, demand = _machine(constraints)
    return Payload(runtime, source, tuple(clauses), tuple((env or {}).items()), tuple(demand))


def _is_link(source: str | Path) -> bool:
    return isinstance(source, str) and source.startswith(("hash:", "docker://"))


def _machine(
    constraints: Sequence[str],
    *,
    min_memory_gib: float = 0.0,
    memory_gib: float | None = None,
    cpus: float | None = None,
    storage_gib: float | None = None,
) -> tuple[list[str], list[tuple[str, PropertyValue]]]:
    """Clauses and demand properties for what the payload needs."""
    for clause in constraints:
        parse(clause)
    clauses = list(constraints)
    demand: list[tuple[str, PropertyValue]] = []
    for name, wanted in (("memory_gib", memory_gib), ("cpus", cpus), ("storage_gib", storage_gib)):
        if wanted is not None:
            if not wanted > 0:
                raise UsageError(f"{name} must be more than 0, not {wanted}")
            demand.append((f"{_LIMIT}{name}", float(wanted)))
    least_gib = max(min_memory_gib, memory_gib or 0)
    if least_gib > 0:
        clauses.append(f"(golem.inf.mem.gib>={least_gib:g})")
    if cpus:
        clauses.append(f"(golem.inf.cpu.threads>={cpus:g})")
    if storage_gib:
        clauses.append(f"(golem.inf.storage.gib>={storage_gib:g})")
    return clauses, demand


async def _head(source: Path | bytes, size: int) -> bytes:
    if isinstance(source, bytes):
        return source[:size]
    try:
        async with await anyio.open_file(source, "rb") as file:
            return await file.read(size)
    except OSError as exc:
        raise UsageError(f"cannot read {source}: {exc.strerror}") from exc
