"""What a deterministic run can be judged by: hashes of all that went in and came out (protocols/receipts.md)."""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from golemp2p import limits
from golemp2p.runtimes.base import EndReason, ExitStatus, OutputSink, RuntimeFailureError
from golemp2p.runtimes.wasm.cache import WASMTIME_VERSION
from golemp2p.runtimes.wasm.profiles import Profile

# Ends that come from the program and its input alone. Limits of time and kills come from the machine.
REPEATABLE: Final = frozenset({EndReason.EXITED, EndReason.TRAP, EndReason.OUT_OF_FUEL, EndReason.OUT_OF_MEMORY})
Listing = dict[str, dict[str, str]]


def list_volumes(volumes: Mapping[str, Path]) -> Listing:
    """Volume -> path in it -> sha256 of the file, "directory" or "link:<target>". Blocks; follows no link.

    Raises RuntimeFailureError for more than a receipt can hold.
    """
    listing: Listing = {}
    room = [limits.MAX_EVIDENCE_FILES, limits.MAX_EVIDENCE_BYTES]
    for guest, host in volumes.items():
        found: dict[str, str] = {}
        _list(host, "", found, room, depth=0)
        listing[guest] = dict(sorted(found.items()))
    return listing


def _list(directory: Path, prefix: str, found: dict[str, str], room: list[int], *, depth: int) -> None:
    if depth > limits.MAX_ACTIVITY_DIR_DEPTH:
        raise RuntimeFailureError(f"directories are nested deeper than {limits.MAX_ACTIVITY_DIR_DEPTH}")
    with os.scandir(directory) as entries:
        for entry in entries:
            _add(entry, prefix + entry.name, found, room, depth)


def _add(entry: os.DirEntry[str], path: str, found: dict[str, str], room: list[int], depth: int) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise RuntimeFailureError(f"file name {path!r} is no UTF-8: a receipt cannot name it") from None
    room[0] -= 1
    if room[0] < 0:
        raise RuntimeFailureError(
            "too many files for a receipt", hint=f"at most {limits.MAX_EVIDENCE_FILES} in all volumes"
        )
    if entry.is_symlink():
        found[path] = f"link:{os.readlink(entry.path)}"  # noqa: PTH115 - the text as it is
    elif entry.is_dir(follow_symlinks=False):
        found[path] = "directory"
        _list(Path(entry.path), f"{path}/", found, room, depth=depth + 1)
    else:
        found[path] = _hash(entry.path, room)


def _hash(path: str, room: list[int]) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise RuntimeFailureError(f"{Path(path).name!r} is no regular file")
        room[1] -= info.st_size
        if room[1] < 0:
            raise RuntimeFailureError(
                "too much data for a receipt", hint=f"at most {limits.MAX_EVIDENCE_BYTES} bytes in all volumes"
            )
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Recorder:
    """Hashes both output streams on their way to ``sink``, then puts the evidence together."""

    sink: OutputSink
    streams: dict[str, Any] = field(default_factory=lambda: {n: hashlib.sha256() for n in ("stdout", "stderr")})

    async def __call__(self, stream: str, data: bytes) -> None:
        self.streams[stream].update(data)
        await self.sink(stream, data)

    def evidence(
        self,
        *,
        program_sha256: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        inputs: Listing,
        outputs: Listing,
        status: ExitStatus,
        fuel: int,
        fuel_limit: int | None,
        memory_limit_bytes: int,
    ) -> dict[str, object]:
        """Texts, whole numbers, lists and objects only, so that there is one way to write it as JSON."""
        return {
            "program": program_sha256,
            "argv": list(argv),
            "env": [list(pair) for pair in env.items()],
            "inputs": inputs,
            "outputs": outputs,
            "stdout": self.streams["stdout"].hexdigest(),
            "stderr": self.streams["stderr"].hexdigest(),
            "exitCode": status.code,
            "reason": status.reason.value,
            "fuel": fuel,
            "fuelLimit": fuel_limit,
            "memoryLimit": memory_limit_bytes,
            "engine": f"wasmtime {WASMTIME_VERSION}",
            "config": Profile.DETERMINISTIC.config_id,
            "architecture": platform.machine(),
        }
