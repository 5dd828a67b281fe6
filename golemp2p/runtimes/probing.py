"""Trying a runtime out: one real payload from deploy to terminate, timed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from time import perf_counter

import trio

from golemp2p import limits
from golemp2p.errors import GolemError
from golemp2p.runtimes.base import Deployment, Probe, Runtime


async def probe_by_running(runtime: Runtime, package: bytes, *command: str) -> Probe:
    """Deploy ``package``, start it, run ``command`` twice. ``start_s`` is from deploy to the end of the first run."""
    with tempfile.TemporaryDirectory(prefix="golemp2p-probe-") as directory:
        work = Path(directory) / "work"
        work.mkdir(mode=0o700)
        path = Path(directory) / "package"
        await trio.Path(path).write_bytes(package)
        deployment = Deployment(os.urandom(16).hex(), path, hashlib.sha256(package).hexdigest(), work)
        began = perf_counter()
        try:
            with trio.fail_after(limits.PROBE_TIMEOUT_S):
                instance = await runtime.deploy(deployment)
                try:
                    await instance.start([])
                    for attempt in range(2):
                        run_began = perf_counter()
                        status = await instance.run(command[0], command[1:], _ignore)
                        if status.code != 0:
                            return Probe(False, f"the trial program ended with {status.code}: {status.message}")
                        if attempt == 0:
                            start_s = perf_counter() - began
                finally:
                    await instance.terminate()
        except trio.TooSlowError:
            return Probe(False, f"the trial program did not end within {limits.PROBE_TIMEOUT_S:g} s")
        except (GolemError, OSError) as exc:
            return Probe(False, str(exc))
        return Probe(True, measured={"start_s": round(start_s, 3), "run_s": round(perf_counter() - run_began, 4)})


async def _ignore(_stream: str, _data: bytes) -> None:
    """The trial's output is of no interest."""
