"""Trying a runtime out: one real payload from deploy to terminate, timed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from time import perf_counter
from typing import Final

import structlog
import trio

from golemp2p import limits
from golemp2p.errors import GolemError, PolicyError
from golemp2p.runtimes.base import Deployment, Probe, Runtime
from golemp2p.runtimes.link import GuestLink
from golemp2p.runtimes.outbound import OutboundPort

log = structlog.get_logger(__name__)

_PREFIX: Final = "golemp2p-probe-"
_TRIAL_ADDRESS: Final = IPv4Interface("192.0.2.1/24")  # of a range for documentation (RFC 5737)


def drop_dead_probes(drop: Callable[[Path], None]) -> None:
    """Trials whose node was killed in the middle: ``drop`` is given their work directories before they are removed."""
    for place in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        number = place.name.removeprefix(_PREFIX).partition("-")[0]
        facts = place.lstat()
        # Everybody may make names there.
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and number.isdecimal() and not _runs(number):
            drop(place / "work")
            shutil.rmtree(place, ignore_errors=True)


def _runs(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


async def probe_with_network(runtime: Runtime, package: bytes, *command: str) -> tuple[Probe, list[str]]:
    """As :func:`probe_by_running`, with a network device in the payload and a way outside; what fails is left out.

    Also which of the capabilities ``vpn`` and ``inet`` the runtime has.
    """
    found = Probe(False)
    for capabilities in (["vpn", "inet"], ["vpn"], []):
        networks = [GuestLink(_TRIAL_ADDRESS, lambda _packet: None)] if "vpn" in capabilities else []
        outbound = _TrialOutbound() if "inet" in capabilities else None
        found = await probe_by_running(runtime, package, *command, networks=networks, outbound=outbound)
        if found.works:
            measured = {**found.measured, "vpn": float("vpn" in capabilities), "inet": float("inet" in capabilities)}
            return replace(found, measured=measured), capabilities
        log.info("runtime_trial_failed", runtime=runtime.id, tried=capabilities, reason=found.reason)
    return found, []


class _TrialOutbound:
    """A way outside that leads nowhere."""

    ports = (80, 443)
    routes = (IPv4Network("198.51.100.0/24"),)  # for documentation, too
    resolver = IPv4Address("198.51.100.1")

    async def dial(self, address: IPv4Address, port: int) -> trio.abc.HalfCloseableStream:
        raise PolicyError(f"a trial connects to nothing, not even {address}:{port}")

    def answer(self, query: bytes) -> bytes | None:
        return None


async def probe_by_running(
    runtime: Runtime,
    package: bytes,
    *command: str,
    steps: int = 0,
    networks: Sequence[GuestLink] = (),
    outbound: OutboundPort | None = None,
) -> Probe:
    """Deploy ``package``, start it, run ``command`` three times: ``start_s`` is until the first one's end, ``run_s``
    the best of the others. A command that prints ``cpu_score=NUMBER`` (millions of xorshift steps a second) has that
    reported, too; for one that cannot print it, ``steps`` says how many it makes.
    """
    # What cannot be removed must not turn the verdict into an error.
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as directory:
        work = Path(directory) / "work"
        work.mkdir(mode=0o700)
        path = Path(directory) / "package"
        await trio.Path(path).write_bytes(package)
        sha256 = hashlib.sha256(package).hexdigest()
        outcome = Probe(False, f"the trial program did not end within {limits.PROBE_TIMEOUT_S:g} s")
        try:
            with trio.move_on_after(limits.PROBE_TIMEOUT_S):
                async with trio.open_nursery() as nursery:
                    activity = os.urandom(16).hex()
                    deployment = Deployment(activity, path, sha256, work, nursery, networks=networks, outbound=outbound)
                    outcome = await _try(runtime, deployment, command, steps)
                    nursery.cancel_scope.cancel()
        except ExceptionGroup as group:  # of the instance's own tasks
            outcome = Probe(False, f"the trial broke the runtime: {group.exceptions[0]}")
        return outcome


async def _try(runtime: Runtime, deployment: Deployment, command: Sequence[str], steps: int) -> Probe:
    began = perf_counter()
    ended = []
    said = bytearray()

    async def listen(_stream: str, data: bytes) -> None:
        said.extend(data[: 1000 - len(said)])

    try:
        instance = await runtime.deploy(deployment)
        try:
            await instance.start([])
            for _ in range(3):
                status = await instance.run(command[0], command[1:], listen)
                ended.append(perf_counter())
                if status.code != 0:
                    return Probe(False, f"the trial program ended with {status.code}: {status.message}")
        finally:
            with trio.CancelScope(shield=True):  # our time may be up: it ends all the same
                await instance.terminate()
    except (GolemError, OSError) as exc:
        return Probe(False, str(exc))
    run_s = min(ended[1] - ended[0], ended[2] - ended[1])
    measured = {"start_s": round(ended[0] - began, 3), "run_s": round(run_s, 4)}
    if found := re.search(rb"cpu_score=(\d+(?:\.\d+)?)", said):
        measured["cpu_score"] = float(found[1])
    elif steps:
        measured["cpu_score"] = round(steps / 1e6 / run_s, 1)
    return Probe(True, measured=measured)
