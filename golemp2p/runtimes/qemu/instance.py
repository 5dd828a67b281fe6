"""One activity's virtual machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import structlog
import trio

from golemp2p import limits
from golemp2p.images import ImageConfig
from golemp2p.runtimes.base import Deployment, ExitStatus, OutputSink, RuntimeFailureError, Usage
from golemp2p.runtimes.exits import cpu_limit, judge_guest, wall_limit
from golemp2p.runtimes.guest.files import SessionFiles
from golemp2p.runtimes.guest.session import GuestSession, RunLimits, open_session
from golemp2p.runtimes.link import host_names
from golemp2p.runtimes.qemu.leftovers import Leftovers
from golemp2p.runtimes.qemu.machine import Machine, MachinePlan, start_machine
from golemp2p.runtimes.qemu.meter import CpuMeter

log = structlog.get_logger(__name__)

WORK: Final = "/golem/work"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class QemuInstance:
    """A deployed image; ``start`` boots it."""

    def __init__(self, deployment: Deployment, config: ImageConfig, plan: MachinePlan, leftovers: Leftovers) -> None:
        self._deployment = deployment
        self._config = config
        self._plan = plan
        self._leftovers = leftovers
        self._volumes = tuple(dict.fromkeys([WORK, *config.volumes, *deployment.volumes]))
        self._machine: Machine | None = None
        self._session: GuestSession | None = None
        self._files: SessionFiles | None = None
        self._meter = CpuMeter()
        self._lost = trio.Event()
        self._reason = ""
        self._terminated = False

    @property
    def files(self) -> SessionFiles:
        if self._files is None:
            raise RuntimeFailureError("the virtual machine is not started", hint="start comes before transfers")
        return self._files

    @property
    def disk(self) -> Sequence[Path]:
        return () if self._plan.scratch is None else (self._plan.scratch,)

    async def start(self, args: Sequence[str]) -> None:
        """Boot and enter the image; ``args`` have no meaning here. Raises RuntimeFailureError."""
        if self._machine is not None:
            raise RuntimeFailureError("the virtual machine was started before")
        session = await self._boot()
        agreed = self._deployment.limits
        await session.setup(
            hostname=self._deployment.hostname or "golem",
            user=self._config.user,
            volumes=self._volumes,
            memory_bytes=agreed.memory_bytes or limits.DEFAULT_GUEST_MEMORY_BYTES,
            processes=agreed.processes or limits.VM_PROCESSES,
            cpu_percent=0 if agreed.cpus is None else max(1, math.ceil(agreed.cpus * 100)),
            scratch=self._plan.scratch is not None,
        )
        for number, link in enumerate(self._deployment.networks):
            await session.add_network(number, link, self._deployment.nursery)
        deployment = self._deployment
        if deployment.outbound is not None:
            await session.add_outbound(deployment.outbound, deployment.nursery)
        names = host_names(deployment.hostname, deployment.hosts, deployment.networks)
        await session.seal(hosts=[f"{address}\t{name}" for name, address in names.items()])
        self._files = session.files(self._volumes, spool_dir=self._deployment.work_dir)

    async def run(self, entry_point: str, args: Sequence[str], output: OutputSink) -> ExitStatus:
        session = self._alive()
        agreed = self._deployment.limits
        env = {"PATH": PATH, **dict(self._config.env), **self._deployment.env}
        bounds = RunLimits(cpu_s=agreed.cpu_s)
        cwd = self._config.workdir or WORK
        try:
            with trio.move_on_after(math.inf if agreed.wall_s is None else agreed.wall_s) as wall:
                ended = await session.run([entry_point, *args], env=env, cwd=cwd, limits=bounds, output=output)
        except RuntimeFailureError as exc:
            if session.is_lost:
                raise RuntimeFailureError(f"the virtual machine is gone: {await self._why(exc.message)}") from None
            raise
        finally:
            self._meter.settle()
        if wall.cancelled_caught:
            return wall_limit(agreed.wall_s or 0.0)
        if ended.cpu_limit and agreed.cpu_s is not None:
            return cpu_limit(agreed.cpu_s)
        return judge_guest(ended.code, ended.signal, agreed, out_of_memory=ended.out_of_memory)

    async def connect(self, port: int, address: IPv4Address | None = None) -> trio.abc.HalfCloseableStream:
        return await self._alive().connect(port, address)

    async def lost(self) -> str:
        await self._lost.wait()
        return self._reason

    def usage(self) -> Usage:
        """CPU time is the host's count. The memory peak is the payload's, by the guest's word, as far as that can be
        true: never more than the whole machine had.
        """
        machine_bytes = self._machine.memory_peak_bytes() if self._machine is not None else 0
        told_bytes = self._session.memory_peak_bytes if self._session is not None else 0
        return Usage(self._meter.read(), 0, min(told_bytes or machine_bytes, machine_bytes), 0)

    async def terminate(self) -> None:
        if self._terminated:
            return
        self._terminated = True
        if self._machine is None:
            return
        self._meter.settle()
        await self._bury(self._machine)
        if self._session is not None:
            self._session.lose("the virtual machine was stopped")

    def _alive(self) -> GuestSession:
        if self._session is None:
            raise RuntimeFailureError("the virtual machine is not started")
        return self._session

    async def _boot(self) -> GuestSession:
        """A machine whose agent answers; one that hangs on the way is replaced once. Raises RuntimeFailureError."""
        why = ""
        for _ in range(limits.VM_BOOTS):
            machine = self._machine = start_machine(self._plan, self._deployment.work_dir)
            self._leftovers.note(machine.child.pid)
            self._meter.follow(machine.child.cpu_s)
            self._deployment.nursery.start_soon(machine.listen)
            try:
                session = await open_session(machine.stream, self._deployment.nursery, hello_timeout_s=limits.VM_BOOT_S)
            except RuntimeFailureError as exc:
                ended = await _end_of(machine)
                await self._bury(machine)
                why = ended or f"{exc.message}; {machine.last_words()}"
                if ended:
                    break
                log.warning("machine_hung_at_boot", activity_id=self._deployment.activity_id, reason=why)
            else:
                self._session = session
                self._deployment.nursery.start_soon(self._watch, machine, session)
                return session
        raise RuntimeFailureError(f"the virtual machine did not start: {why}")

    async def _bury(self, machine: Machine) -> None:
        await machine.aclose()
        self._leftovers.forget(machine.child.pid)

    async def _watch(self, machine: Machine, session: GuestSession) -> None:
        """Until the session ends, as it does with qemu; then the instance is lost, unless that was our wish."""
        reason = await session.lost()
        ended = await _end_of(machine)
        self._meter.settle()
        self._be_lost(ended or reason)

    def _be_lost(self, reason: str) -> None:
        if not self._lost.is_set() and not self._terminated:
            log.warning("machine_lost", activity_id=self._deployment.activity_id, reason=reason)
            self._reason = reason
            self._lost.set()

    async def _why(self, otherwise: str) -> str:
        """What the watcher finds out, when it does so soon."""
        with trio.move_on_after(2 * limits.VM_LAST_WORDS_S):
            await self._lost.wait()
        return self._reason or otherwise


async def _end_of(machine: Machine) -> str:
    """How qemu ended, if it does so now, with its last words; else nothing."""
    with trio.move_on_after(limits.VM_LAST_WORDS_S):
        ended = await machine.child.wait()
        with trio.move_on_after(limits.VM_LAST_WORDS_S / 2):
            await machine.heard.wait()
        how = f"by signal {-ended.code}" if ended.code < 0 else f"with status {ended.code}"
        words = machine.last_words()
        return f"qemu ended {how}" + (f", its last words: {words}" if words else "")
    return ""
