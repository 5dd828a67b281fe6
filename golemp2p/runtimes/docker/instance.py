"""One activity's container."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.runtimes.base import Deployment, ExitStatus, OutputSink, RuntimeFailureError, Usage
from golemp2p.runtimes.docker.attach import AttachedStream
from golemp2p.runtimes.docker.cgroups import Cgroup, cgroup_of
from golemp2p.runtimes.docker.engine import Engine, EngineError
from golemp2p.runtimes.docker.processes import TooManyOpenFilesError, deleted_bytes, tree_cpu_s
from golemp2p.runtimes.docker.workvolume import IMAGE, drop_volume
from golemp2p.runtimes.exits import cpu_limit, judge_guest, wall_limit
from golemp2p.runtimes.guest.session import GuestSession, RunLimits, open_session
from golemp2p.runtimes.hostfiles import HostFiles

log = structlog.get_logger(__name__)

WORK: Final = "/golem/work"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DAC_OVERRIDE: Final = 1 << 1
AS_THE_CONTAINER: Final = RunLimits(open_files=None)  # which has its ulimits and its control group


def _or_ever(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


def _is_visible(directory: Path) -> bool:
    try:
        return os.access(directory, os.R_OK | os.X_OK) and directory.is_dir()
    except OSError:
        return False


def _hand_over(pid: int, directories: Sequence[Path], kept: int) -> None:
    """Give the volumes to the user that the container runs as, where we may; what is put into them follows.

    A root that keeps the rights (``kept``) of root gets none that the image gives to another: a service it starts.
    """
    try:
        # Not the owner of /proc/PID, who is root: the agent lets nobody look into it.
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        uid, gid = (int(line.split()[1]) for name in ("Uid:", "Gid:") for line in lines if line.startswith(name))
        for directory in directories:
            if uid == 0 and kept & DAC_OVERRIDE and directory.stat().st_uid != 0:
                continue
            os.chown(directory, uid, gid)
    except (OSError, ValueError) as exc:
        log.info("volumes_not_handed_over", error=str(exc))


def _open_up(directories: Sequence[Path]) -> None:
    """For whatever user the container runs as, which we cannot know."""
    for directory in directories:
        directory.chmod(0o777)


@dataclass(frozen=True)
class Machine:
    """A created container: ``volumes`` guest path -> host directory, ``env`` and ``cwd`` as the image has them.

    ``seed`` fills the volumes with what the image has there.
    """

    engine: Engine
    container: str
    volumes: Mapping[str, Path]
    env: Mapping[str, str]
    cwd: str
    seed: Callable[[], Awaitable[None]]
    user: str = ""  # of the payload, where the agent is started as another
    kept: int = 0  # capabilities that root then has still, as a bit set


class DockerInstance:
    """``ended`` is told at the end whether the container is removed."""

    def __init__(self, deployment: Deployment, machine: Machine, ended: Callable[[bool], None]) -> None:
        self._ended = ended
        self._deployment = deployment
        self._machine = machine
        self._files = HostFiles(machine.volumes)
        self._session: GuestSession | None = None
        self._cgroup = Cgroup({})
        self._upper: Path | None = None
        self._started = trio.Event()
        self._terminated = False
        self._sampled = Usage()
        self._overdrawn = ""  # what it took too much of

    @property
    def files(self) -> HostFiles:
        return self._files

    @property
    def disk(self) -> Sequence[Path]:
        """The volumes' image (or directories), and what the container wrote elsewhere, where we may see it."""
        image = self._deployment.work_dir / IMAGE
        own = [image] if image.exists() else [self._deployment.work_dir / "volumes"]
        return [*own, self._upper] if self._upper is not None else own

    async def start(self, args: Sequence[str]) -> None:
        """Start the container; ``args`` have no meaning here."""
        if self._session is not None:
            raise RuntimeFailureError("the container was started before")
        facts: Mapping[str, Any] = {}
        failures: list[RuntimeFailureError] = []  # kept out of the nursery, which would wrap them in a group
        async with trio.open_nursery() as nursery:

            async def seed() -> None:
                """Beside the start, which takes as long: no payload runs yet."""
                try:
                    await self._machine.seed()
                except RuntimeFailureError as exc:
                    failures.append(exc)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(seed)
            try:
                facts, self._session = await self._begin()
            except RuntimeFailureError as exc:
                failures.append(exc)
                nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]
        session = self._alive()
        await self._connect_networks(session)
        pid = int(facts["State"]["Pid"])
        self._cgroup = cgroup_of(pid, self._machine.container)
        if self._cgroup.readable:  # the process is one of this machine
            await trio.to_thread.run_sync(_hand_over, pid, list(self._machine.volumes.values()), self._machine.kept)
        else:
            await trio.to_thread.run_sync(_open_up, list(self._machine.volumes.values()))
        upper = (facts.get("GraphDriver", {}).get("Data") or {}).get("UpperDir")
        if upper and await trio.to_thread.run_sync(_is_visible, Path(upper)):
            self._upper = Path(upper)
        else:
            self._deployment.nursery.start_soon(self._watch_written, session)
        if not self._cgroup.readable:
            self._deployment.nursery.start_soon(self._sample, pid)
        elif self._upper is not None:
            self._deployment.nursery.start_soon(self._watch_deleted, pid, session)
        self._started.set()

    async def _begin(self) -> tuple[Mapping[str, Any], GuestSession]:
        """Start the container; what the engine says of it, and its agent's session."""
        engine, container = self._machine.engine, self._machine.container
        connection = await engine.attach(container)
        stream = AttachedStream(connection, container)
        try:
            await engine.start(container)
            facts = await engine.inspect(container)
            session = await open_session(stream, self._deployment.nursery, hello_timeout_s=limits.GUEST_HELLO_TIMEOUT_S)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return facts, session

    async def run(self, entry_point: str, args: Sequence[str], output: OutputSink) -> ExitStatus:
        session = self._alive()
        agreed = self._deployment.limits
        env = {"PATH": PATH, **self._machine.env, **self._deployment.env}
        before = self._cgroup.counters()
        failure: RuntimeFailureError | None = None
        with trio.CancelScope() as cpu, trio.move_on_after(_or_ever(agreed.wall_s)) as wall:
            async with trio.open_nursery() as nursery:
                if agreed.cpu_s is not None:
                    nursery.start_soon(self._watch_cpu, before.cpu_s + agreed.cpu_s, cpu)
                try:
                    ended = await session.run(
                        [entry_point, *args], env=env, cwd=self._machine.cwd, limits=AS_THE_CONTAINER, output=output
                    )
                except RuntimeFailureError as exc:  # kept out of the nursery, which would wrap it in a group
                    failure = exc
                nursery.cancel_scope.cancel()
        if failure is not None:
            if session.is_lost:
                raise RuntimeFailureError(await self.lost()) from failure
            raise failure
        if cpu.cancelled_caught:
            return cpu_limit(agreed.cpu_s or 0.0)
        if wall.cancelled_caught:
            return wall_limit(agreed.wall_s or 0.0)
        out_of_memory = self._cgroup.counters().oom_kills > before.oom_kills
        return judge_guest(ended.code, ended.signal, agreed, out_of_memory=out_of_memory)

    async def connect(self, port: int, address: IPv4Address | None = None) -> trio.abc.HalfCloseableStream:
        return await self._alive().connect(port, address)

    async def _connect_networks(self, session: GuestSession) -> None:
        """With networks the agent was started as root with the rights to make them; all of them end here."""
        deployment = self._deployment
        if not deployment.networks and deployment.outbound is None:
            return
        for number, link in enumerate(deployment.networks):
            await session.add_network(number, link, deployment.nursery)
        if deployment.outbound is not None:
            await session.add_outbound(deployment.outbound, deployment.nursery)
        await session.seal(kept=self._machine.kept, user=self._machine.user)

    async def lost(self) -> str:
        await self._started.wait()
        why = await self._alive().lost()
        if self._overdrawn:
            return self._overdrawn
        try:
            state = (await self._machine.engine.inspect(self._machine.container))["State"]
        except EngineError as exc:
            return f"the container engine stopped or lost the container: {exc.message}"
        if state.get("OOMKilled"):
            return "the container was killed for using more memory than agreed"
        if state.get("Running"):
            return f"the container's agent broke: {why}"
        return f"the container ended (status {state.get('ExitCode')}): {why}"

    def usage(self) -> Usage:
        if not self._cgroup.readable:
            return self._sampled
        counted = self._cgroup.counters()
        return Usage(counted.cpu_s, 0, counted.memory_peak_bytes, 0)

    async def terminate(self) -> None:
        if self._terminated:
            return
        self._terminated = True
        self.usage()  # the counters go with the container
        try:
            await self._machine.engine.remove(self._machine.container)
            removed = True
        except EngineError as exc:  # it is found by its label, later
            removed = False
            log.warning("container_not_removed", container=self._machine.container[:12], error=str(exc))
        self._ended(removed)
        if self._session is not None:
            await self._session.aclose()
        await trio.to_thread.run_sync(drop_volume, self._deployment.work_dir)

    def _alive(self) -> GuestSession:
        if self._session is None:
            raise RuntimeFailureError("the container is not started")
        return self._session

    async def _watch_cpu(self, until_s: float, stop: trio.CancelScope) -> None:
        while self.usage().cpu_s < until_s:  # noqa: ASYNC110 - the kernel's counter has no event
            await trio.sleep(limits.GUEST_USAGE_POLL_S)
        stop.cancel()

    async def _watch_written(self, session: GuestSession) -> None:
        """Where we may not look at what the container writes outside of its volumes (a node that is not root's)."""
        most_bytes = self._deployment.limits.storage_bytes or limits.DEFAULT_ACTIVITY_DISK_BYTES
        while not self._terminated and not session.is_lost:
            await trio.sleep(limits.ENGINE_SIZE_POLL_S)
            try:
                found = await self._machine.engine.written_bytes(self._machine.container)
            except EngineError as exc:  # its end is noticed elsewhere
                log.info("container_not_measured", container=self._machine.container[:12], error=str(exc))
                continue
            if found > most_bytes:
                self._overdrawn = (
                    f"the payload wrote {found // limits.MIB} MiB outside of its volumes, more than the "
                    f"{most_bytes // limits.MIB} MiB of disk that the offer has"
                )
                session.lose(self._overdrawn)

    async def _watch_deleted(self, pid: int, session: GuestSession) -> None:
        """End it when files that it deleted and still holds open take more than its disk: no directory shows them."""
        most_bytes = self._deployment.limits.storage_bytes or limits.DEFAULT_ACTIVITY_DISK_BYTES
        while not self._terminated and not session.is_lost:
            await trio.sleep(limits.DISK_POLL_S)
            look = partial(deleted_bytes, self._cgroup.processes(), pid)
            try:
                found = await trio.to_thread.run_sync(look)
            except TooManyOpenFilesError as exc:
                self._overdrawn = f"the payload has {exc}"
            else:
                if found <= most_bytes:
                    continue
                self._overdrawn = (
                    f"the payload held {found // limits.MIB} MiB in deleted files, more than the "
                    f"{most_bytes // limits.MIB} MiB of disk that the offer has"
                )
            session.lose(self._overdrawn)

    async def _sample(self, pid: int) -> None:
        """Without control groups that we can read: the processes if they are this machine's, else the engine's word."""
        local = await trio.Path(f"/proc/{pid}/stat").exists()
        while not self._terminated:
            if local:
                cpu_s, peak = await trio.to_thread.run_sync(tree_cpu_s, pid), 0
            else:
                try:
                    found = await self._machine.engine.stats(self._machine.container)
                except EngineError:
                    return
                cpu_s = found.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0) / 1e9
                memory = found.get("memory_stats", {})
                peak = int(memory.get("max_usage") or memory.get("usage") or 0)
            past = self._sampled
            self._sampled = Usage(max(past.cpu_s, cpu_s), 0, max(past.memory_peak_bytes, peak), 0)
            await trio.sleep(limits.ENGINE_STATS_POLL_S)
