"""What a provider is to run: runtime, program, and what the machine must have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from golemp2p.client import NodeClient
from golemp2p.core.constraints import parse
from golemp2p.errors import UsageError

_WASM_MAGIC = b"\0asm"


@dataclass(frozen=True)
class Payload:
    """Made by :func:`wasm`. ``env`` is set for every command.

    ``constraints`` are further clauses that the offer must meet, such as ``(golem.inf.cpu.threads>=2)``.
    """

    runtime: str
    source: Path | bytes = field(repr=False)
    constraints: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()

    async def publish(self, client: NodeClient) -> str:
        """Give the program to the node; the value of ``golem.srv.comp.task_package``."""
        file = await client.files.publish(self.source)
        return f"hash:sha3:{file.sha3_256}:{file.url}"


async def wasm(
    program: str | Path | bytes,
    *,
    min_memory_gib: float = 0.0,
    constraints: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Payload:
    """A WASI preview 1 program, by path or as bytes.

    Raises UsageError: the file cannot be read, is no WebAssembly module; a constraint is malformed.
    """
    source: Path | bytes = program if isinstance(program, bytes) else Path(program)
    if isinstance(source, bytes):
        head = source[:4]
    else:
        try:
            async with await anyio.open_file(source, "rb") as file:
                head = await file.read(4)
        except OSError as exc:
            raise UsageError(f"cannot read {source}: {exc.strerror}") from exc
    if head != _WASM_MAGIC:
        name = "the program" if isinstance(source, bytes) else str(source)
        raise UsageError(f"{name} is not a WebAssembly module", hint="WAT text must be compiled to .wasm first")
    clauses = list(constraints)
    for clause in clauses:
        parse(clause)
    if min_memory_gib > 0:
        clauses.append(f"(golem.inf.mem.gib>={min_memory_gib:g})")
    return Payload("wasmtime", source, tuple(clauses), tuple((env or {}).items()))
