"""Checking a receipt by doing the work again (`golemp2p verify --program`)."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

from golemp2p import limits
from golemp2p.core.receipt import Evidence, encode_evidence, parse_evidence
from golemp2p.errors import GolemError, UsageError
from golemp2p.runtimes.base import Deployment, Limits, RuntimeFailureError
from golemp2p.runtimes.wasm.cache import WASMTIME_VERSION
from golemp2p.runtimes.wasm.profiles import Profile
from golemp2p.runtimes.wasm.runtime import WORK, WasmInstance, WasmRuntime

# What must come out the same: the attribute and what people call it.
RESULTS: Final = (
    ("stdout", "standard output"),
    ("stderr", "standard error"),
    ("outputs", "files afterwards"),
    ("exit_code", "exit code"),
    ("reason", "reason of the end"),
    ("fuel", "fuel"),
)


async def rerun(
    claimed: Evidence, program: Path, inputs: Mapping[str, Path], cache_dir: Path, *, timeout_s: float
) -> Evidence:
    """The evidence of our own run of the same. ``inputs``: volume -> directory with the files that the receipt names.

    Raises UsageError when what is given is not what ran (or missing), RuntimeFailureError when it cannot be run here.
    """
    _require_same_engine(claimed)
    work_root = Path(tempfile.mkdtemp(prefix="golemp2p-verify-"))
    try:
        sha256 = await trio.to_thread.run_sync(_hash_file, program)
        if sha256 != claimed.program:
            raise UsageError(f"{program} is not what ran: its sha256 is {sha256}, the receipt says {claimed.program}")
        return await _run(claimed, program, inputs, cache_dir, work_root, timeout_s)
    finally:
        shutil.rmtree(work_root, ignore_errors=True)


def differences(claimed: Evidence, found: Evidence) -> list[str]:
    """In words; empty when all came out the same."""
    told = []
    for name, what in RESULTS:
        said, here = getattr(claimed, name), getattr(found, name)
        if name == "outputs":
            told += [f"{what}: {path} {change}" for path, change in _changes(said, here)]
        elif said != here:
            told.append(f"{what}: the receipt says {said}, here it is {here}")
    return told


def _changes(said: Mapping[str, Mapping[str, str]], here: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    one = {f"{volume}/{path}": entry for volume, files in said.items() for path, entry in files.items()}
    two = {f"{volume}/{path}": entry for volume, files in here.items() for path, entry in files.items()}
    words = {(True, False): "is missing here", (False, True): "is only here", (True, True): "differs"}
    return [
        (path, words[path in one, path in two])
        for path in sorted(one.keys() | two.keys())
        if one.get(path) != two.get(path)
    ]


def _require_same_engine(claimed: Evidence) -> None:
    ours = f"wasmtime {WASMTIME_VERSION}", Profile.DETERMINISTIC.config_id
    if (claimed.engine, claimed.config) != ours:
        raise RuntimeFailureError(
            f"the receipt is of {claimed.engine} ({claimed.config}), this is {ours[0]} ({ours[1]})",
            hint="fuel is not comparable: use the version of golemp2p that the provider had",
        )
    if claimed.memory_limit_bytes != limits.DETERMINISTIC_MEMORY_BYTES:
        raise RuntimeFailureError(f"the receipt is of a run with {claimed.memory_limit_bytes} bytes of memory")
    if not claimed.argv:
        raise RuntimeFailureError("the receipt has no command")
    if WORK not in claimed.inputs:
        raise RuntimeFailureError(f"the receipt has no volume {WORK}")


async def _run(
    claimed: Evidence,
    program: Path,
    inputs: Mapping[str, Path],
    cache_dir: Path,
    work_root: Path,
    timeout_s: float,
) -> Evidence:
    found: Evidence | None = None
    failure: GolemError | None = None
    async with trio.open_nursery() as nursery:
        deployment = Deployment(
            activity_id=os.urandom(16).hex(),
            package=program,
            package_sha256=claimed.program,
            work_dir=work_root,
            nursery=nursery,
            limits=Limits(fuel=claimed.fuel_limit, wall_s=timeout_s),
            env=dict(claimed.env),
            volumes=sorted(set(claimed.inputs) - {WORK}),
            deterministic=True,
        )
        try:
            found = await _in_instance(claimed, await WasmRuntime(cache_dir).deploy(deployment), inputs)
        except GolemError as exc:  # kept out of the nursery, which would wrap it in a group
            failure = exc
    if failure is not None or found is None:
        raise failure or RuntimeFailureError("the program was not run")
    return found


async def _in_instance(claimed: Evidence, instance: WasmInstance, inputs: Mapping[str, Path]) -> Evidence:
    try:
        for volume, files in claimed.inputs.items():
            lay_out = partial(_lay_out, volume, files, inputs.get(volume), instance.files.host(volume))
            await trio.to_thread.run_sync(lay_out)
        status = await instance.run(claimed.argv[0], claimed.argv[1:], _ignore)
    finally:
        await instance.terminate()
    if status.evidence is None:
        raise RuntimeFailureError(f"the program did not come to an end here: {status.message}")
    return parse_evidence(encode_evidence(status.evidence))


def _lay_out(volume: str, files: Mapping[str, str], source: Path | None, target: Path) -> None:
    """The files of one volume, each checked. Sorted names have a directory before what is in it."""
    for path, entry in sorted(files.items()):
        place = target / path
        if not entry.startswith(("directory", "link:")) and source is None:
            raise UsageError(f"the program had {volume}/{path}", hint=f"give the files: --input {volume}=DIR")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if entry == "directory":
                place.mkdir(exist_ok=True)
            elif entry.startswith("link:"):
                place.symlink_to(entry.removeprefix("link:"))
            elif source is not None:
                shutil.copyfile(source / path, place)
                if (found := _hash_file(place)) != entry:
                    raise UsageError(f"{source / path} is not what the program had: its sha256 is {found}, not {entry}")
        except OSError as exc:
            raise UsageError(f"cannot lay out {volume}/{path}: {exc}", hint="an input of the run") from exc


def _hash_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc


async def _ignore(_stream: str, _data: bytes) -> None:
    """Only its hash counts."""
