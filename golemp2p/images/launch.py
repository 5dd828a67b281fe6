"""The node's end of the conversion worker: a child process with limits, a deadline, and an end in every case."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import structlog
import trio

from golemp2p import limits
from golemp2p.images.model import ImageConfig, ImageError

log = structlog.get_logger(__name__)
Form = Literal["docker-archive", "squashfs"]
_MAX_OUTCOME_BYTES: Final = 16 * limits.MIB  # a configuration of at most MAX_IMAGE_JSON_BYTES, escaped


async def convert_image(path: Path, target: Path, to: Form, *, name: str) -> ImageConfig:
    """Make a docker-archive (with the one tag ``name``) or a squashfs of the image; the image's configuration.

    ``target`` appears when it is complete, by rename. Raises ImageError; cancelling kills the child.
    """
    scratch = target.with_name(f".{secrets.token_hex(8)}.scratch")
    scratch.mkdir(mode=0o700)
    part = scratch / "image"
    order = {
        "op": "convert",
        "image": str(path),
        "target": str(part),
        "to": to,
        "name": name,
        "scratch": str(scratch),
    }
    started_s = trio.current_time()
    try:
        outcome = await _work(order)
        part.replace(target)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: shutil.rmtree(scratch, ignore_errors=True))
    log.info("image_converted", to=to, file=target.name, seconds=round(trio.current_time() - started_s, 3))
    return ImageConfig.from_json(outcome["config"])


async def inspect_config(path: Path) -> ImageConfig:
    """The configuration of the image, read by the worker. Raises ImageError."""
    outcome = await _work({"op": "inspect", "image": str(path)})
    return ImageConfig.from_json(outcome["config"])


async def _work(job: Mapping[str, str]) -> dict[str, Any]:
    order = {
        **job,
        "memory_bytes": limits.IMAGE_CONVERT_MEMORY_BYTES,
        "cpu_s": limits.IMAGE_CONVERT_CPU_S,
        "file_bytes": limits.MAX_IMAGE_BYTES + limits.MAX_IMAGE_BYTES // 2,  # headers and padding on top of the data
    }
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    try:
        process = await _start(theirs)
        answer = b""
        try:
            with trio.move_on_after(limits.IMAGE_CONVERT_WALL_S) as wall:
                with contextlib.suppress(trio.BrokenResourceError):  # it died: the missing answer says so
                    await stream.send_all(json.dumps(order).encode() + b"\n")
                    while len(answer) < _MAX_OUTCOME_BYTES and (chunk := await stream.receive_some(65_536)):
                        answer += chunk
        finally:
            await _reap(process)
    finally:
        await trio.aclose_forcefully(stream)
    if wall.cancelled_caught:
        raise ImageError(f"converting the image took longer than {limits.IMAGE_CONVERT_WALL_S:g} s")
    if not answer.endswith(b"\n"):
        raise ImageError(
            f"converting the image failed ({_status(process.returncode)})",
            hint=f"budget: {limits.IMAGE_CONVERT_CPU_S} CPU-s, {limits.IMAGE_CONVERT_MEMORY_BYTES // limits.MIB} MiB",
        )
    outcome: dict[str, Any] = json.loads(answer)
    if "error" in outcome:
        raise ImageError(str(outcome["error"]), hint=str(outcome["hint"]))
    return outcome


async def _start(control: socket.socket) -> trio.Process:
    with control:
        try:
            return await trio.lowlevel.open_process(
                [sys.executable, "-I", "-m", "golemp2p.images.worker", str(control.fileno())],
                # Nothing of the node's environment but where programs are: it may hold secrets.
                env={"LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[control.fileno()],
                start_new_session=True,
            )
        except OSError as exc:
            raise ImageError(f"cannot start the process that converts images: {exc}") from exc


async def _reap(process: trio.Process) -> None:
    """Kill the group (mksquashfs may be in it) and wait for the worker."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with trio.CancelScope(shield=True):
        await process.wait()


def _status(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"
