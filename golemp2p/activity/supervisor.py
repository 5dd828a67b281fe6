"""The owner of one activity on the provider's side: runs its batches, keeps its state, ends it in every case.

One task (:meth:`Supervisor.run`) owns everything. Others only put batches in the queue and ask it to end.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import structlog
import trio

from golemp2p import limits
from golemp2p.activity.batch import Batch
from golemp2p.activity.disk import TooManyFilesError, remove_tree, used_bytes
from golemp2p.activity.ports import JoinedPort, VpnPort
from golemp2p.activity.receipts import Notary, wants_receipts
from golemp2p.activity.transfers import Transfers
from golemp2p.activity.usage import GIB, STORAGE_COUNTER, limits_of, usage_vector, wants_fuel
from golemp2p.core.activity import (
    ACTIVITY,
    RETURN_CODE_FAILED,
    ActivityEvent,
    ActivityState,
    Progress,
    failure_message,
    rule_of,
)
from golemp2p.core.agreement import Agreement
from golemp2p.core.exescript import Command, Deploy, Run, Sign, Start, Terminate, Transfer, parse_script
from golemp2p.core.ids import ActivityId, BatchId
from golemp2p.core.receipt import Receipt
from golemp2p.errors import ConflictError, GolemError, GoneError, NotFoundError, UsageError
from golemp2p.runtimes.base import Deployment, EndReason, NetworkedInstance, Runtime, RuntimeInstance, Usage
from golemp2p.runtimes.link import GuestLink
from golemp2p.runtimes.outbound import OutboundPort

log = structlog.get_logger()

STOPPED = "stopped by a terminate command"


class Supervisor:
    """``work_dir`` is this activity's own; ``changed`` is awaited after every change worth storing.

    ``disk_scans`` bounds the threads that look at the disks of all activities. ``notary`` signs deterministic runs.
    """

    def __init__(
        self,
        activity_id: ActivityId,
        agreement: Agreement,
        runtime: Runtime,
        transfers: Transfers,
        work_dir: Path,
        *,
        now: Callable[[], float],
        changed: Callable[[Supervisor], Awaitable[None]],
        disk_scans: trio.CapacityLimiter | None = None,
        notary: Notary | None = None,
        vpn: VpnPort | None = None,
    ) -> None:
        self.id = activity_id
        self.agreement = agreement
        self.state = ACTIVITY.initial
        self.reason: str | None = None
        self.created_at = now()
        self.ended_at: float | None = None
        self.gone = trio.Event()  # ended, cleaned up, stored
        self._runtime = runtime
        self._transfers = transfers
        self._work_dir = work_dir
        self._now = now
        self._changed = changed
        self._disk_scans = disk_scans
        self._notary = notary
        self._vpn = vpn
        self._joined: JoinedPort | None = None
        self._disk_bytes = 0  # the most that was seen
        self._instance: RuntimeInstance | None = None
        self._watching = trio.CancelScope()  # of the instance's unexpected end
        self._past = Usage()  # of instances that a terminate command ended
        self._batches: dict[BatchId, Batch] = {}
        self._queue: deque[Batch] = deque()
        self._running: Batch | None = None
        self._more = trio.Event()
        self._ending = trio.Event()
        self._nursery: trio.Nursery
        self._contact_s = trio.current_time()

    # --- what others may do -----------------------------------------------------------------------------------------

    def touch(self) -> None:
        """The requestor was heard of."""
        self._contact_s = trio.current_time()

    def submit(self, batch_id: BatchId, text: str) -> Batch:
        """Queue a script; idempotent by id. A script that starts with ``terminate`` stops the others at once."""
        self.touch()
        known = self._batches.get(batch_id)
        if known is not None:
            return known
        self._refuse_when_ended()
        if len(self._queue) >= limits.MAX_QUEUED_BATCHES:
            raise ConflictError(f"activity {self.id} has {len(self._queue)} batches waiting")
        batch = Batch(batch_id, parse_script(text), self._now)
        if isinstance(batch.commands[0], Terminate):
            self._stop_others(batch)
        self._forget_old()
        self._batches[batch_id] = batch
        self._queue.append(batch)
        self._more.set()
        return batch

    def batch(self, batch_id: BatchId) -> Batch:
        self.touch()
        try:
            return self._batches[batch_id]
        except KeyError:
            raise NotFoundError(f"activity {self.id} has no batch {batch_id}") from None

    def end(self, reason: str | None) -> None:
        """Ask the owner to end the activity; ``gone`` tells when it is over. The first reason counts."""
        if not self._ending.is_set():
            self.reason = reason
            self._ending.set()

    def usage(self) -> tuple[float, ...]:
        """In the order of the agreement's usage vector; never decreases."""
        until = self._now() if self.ended_at is None else self.ended_at
        used = self._past if self._instance is None else _plus(self._past, self._instance.usage())
        used = replace(used, storage_bytes=max(used.storage_bytes, self._disk_bytes))
        return usage_vector(self.agreement, used, max(until - self.created_at, 0.0))

    # --- the owner --------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """From Initialized to Terminated. Reports ``started`` when the activity exists."""
        self._apply(ActivityEvent.INITIALIZE)
        try:
            await self._changed(self)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._work)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._watch_disk)
                task_status.started()
                await self._ending.wait()
                nursery.cancel_scope.cancel()
        except Exception as exc:
            # Broad: one broken payload or runtime must not end the node.
            log.exception("activity_failed", activity_id=self.id)
            self.end(f"the runtime failed: {_reason_in(exc)}")
        finally:
            self.end("the provider is shutting down")
            with trio.CancelScope(shield=True):
                await self._clean_up()

    async def _clean_up(self) -> None:
        why = self.reason or "the activity was destroyed"
        for batch in self._batches.values():
            batch.fail(why)
        await self._drop_instance()
        self.ended_at = self._now()
        self._apply(ActivityEvent.END)
        try:
            await self._changed(self)
        except GolemError:  # the database is broken; the activity is gone all the same
            log.exception("activity_end_not_stored", activity_id=self.id)
        self.gone.set()
        log.info("activity_ended", activity_id=self.id, reason=self.reason, usage=self.usage())

    async def _work(self) -> None:
        """Batches, one after the other."""
        while True:
            while not self._queue:
                self._more = trio.Event()
                await self._more.wait()
            batch = self._running = self._queue.popleft()
            with batch.scope:
                await self._execute(batch)
            batch.fail(STOPPED)
            self._running = None
            await self._changed(self)

    async def _watch(self) -> None:
        """End what nobody wants any more; keep the stored usage fresh."""
        saved_s = trio.current_time()
        while True:
            await trio.sleep(1.0)
            if self._now() > self.agreement.expires_at + limits.AGREEMENT_GRACE_S:
                self.end("the agreement has expired")
            if trio.current_time() - self._contact_s > limits.ACTIVITY_IDLE_S:
                self.end(f"the requestor was not heard of for {limits.ACTIVITY_IDLE_S:g} s")
            if trio.current_time() - saved_s > limits.USAGE_SAVE_S:
                saved_s = trio.current_time()
                await self._changed(self)

    async def _watch_disk(self) -> None:
        """End what takes more of the disk than the offer says. The kernel bounds one file, only we bound the sum."""
        while True:
            await trio.sleep(limits.DISK_POLL_S)
            if self._instance is None:
                continue
            try:
                full = await self._look_at_disk(self._instance)
            except TooManyFilesError as exc:
                self.end(f"the payload made {exc}")
                return
            if full:
                gib = self._most_disk_bytes / GIB
                self.end(f"the payload used more than {gib:.4g} GiB of disk, what the offer has")
                return

    @property
    def _most_disk_bytes(self) -> int:
        agreed = limits_of(self.agreement).storage_bytes
        return limits.DEFAULT_ACTIVITY_DISK_BYTES if agreed is None else agreed

    async def _look_at_disk(self, instance: RuntimeInstance) -> bool:
        """Whether it takes too much. Raises TooManyFilesError."""
        most_bytes = self._most_disk_bytes
        look = partial(used_bytes, instance.disk, enough_bytes=most_bytes)
        found = await trio.to_thread.run_sync(look, limiter=self._disk_scans, abandon_on_cancel=True)
        self._disk_bytes = max(self._disk_bytes, min(found, most_bytes))  # more was not sold
        return found > most_bytes

    async def _execute(self, batch: Batch) -> None:
        for index, command in enumerate(batch.commands):
            await batch.begin_command(index)
            return_code, message, receipt = RETURN_CODE_FAILED, None, None
            try:
                event = _rule(command, self.state)
                return_code, message, receipt = await self._obey(batch, index, command)
                if event is not None and return_code == 0:
                    self._apply(event)
            except GolemError as exc:
                message = str(exc)
            log.info(
                "command_finished",
                activity_id=self.id,
                batch_id=batch.id,
                index=index,
                command=command.kind,
                return_code=return_code,
                message=message,
            )
            await batch.finish_command(return_code, message, receipt)
            if return_code != 0:
                return

    async def _obey(self, batch: Batch, index: int, command: Command) -> tuple[int, str | None, Receipt | None]:
        """(return code, message, receipt). Raises GolemError for what cannot be done."""
        match command:
            case Deploy():
                try:
                    await self._deploy(batch, command)
                except BaseException:  # cancellation too: the network would keep an address of nobody
                    self._leave_networks()
                    raise
            case Start():
                await self._deployed().start(command.args)
            case Run():
                status = await self._deployed().run(command.entry_point, command.args, batch.sink(command))
                receipt = None
                if status.evidence is not None and self._notary is not None:
                    receipt = self._notary.sign(self.agreement, self.id, batch.id, index, status.evidence)
                if status.code != 0 or status.reason is not EndReason.EXITED:
                    return status.code or RETURN_CODE_FAILED, failure_message(status.code, status.message), receipt
                return 0, None, receipt
            case Transfer():
                async with _reporting(batch, command.progress_s, f"{command.source} -> {command.target}") as report:
                    await self._transfers.transfer(command, self._deployed().files, report)
            case Terminate():
                self._stop_others(batch)
                await self._drop_instance()
            case _:
                raise UsageError(f"command {command.kind!r} is not supported by this runtime")
        return 0, None, None

    async def _deploy(self, batch: Batch, command: Deploy) -> None:
        outbound = self._outbound()
        links = await self._join_networks(command)
        reference = self._reference()
        if not reference:
            async with _reporting(batch, command.progress_s, "package") as report:
                package = await self._transfers.package(report)
        await trio.to_thread.run_sync(_fresh_directory, self._work_dir)

        async def tell(message: str, done: int, total: int | None, unit: str) -> None:
            if command.progress_s is not None:
                await batch.progress(Progress(message, done, total, unit))

        instance = self._instance = await self._runtime.deploy(
            Deployment(
                activity_id=self.id,
                package=Path(os.devnull) if reference else package.path,
                package_sha256="" if reference else package.sha256,
                reference=reference,
                work_dir=self._work_dir,
                nursery=self._nursery,
                limits=limits_of(self.agreement),
                env=dict(command.env),
                volumes=command.volumes,
                deterministic=wants_receipts(self.agreement),
                metered=wants_fuel(self.agreement),
                progress=tell,
                hostname=command.hostname,
                networks=links,
                hosts=dict(command.hosts),
                outbound=outbound,
            )
        )
        self._watching = trio.CancelScope()
        self._nursery.start_soon(self._watch_instance, instance, self._watching)

    async def _join_networks(self, command: Deploy) -> Sequence[GuestLink]:
        """Raises UsageError when the runtime has no networks or the order is wrong."""
        if not command.networks:
            return ()
        if self._vpn is None or not self._can("vpn"):
            raise UsageError(f"runtime {self._runtime.id!r} of this provider offers no private networks")
        self._joined = await self._vpn.join(self.agreement.requestor, command.networks, self._connect)
        return self._joined.links

    def _outbound(self) -> OutboundPort | None:
        """Raises PolicyError, UsageError."""
        outbound = None if self._vpn is None else self._vpn.outbound(self.agreement.demand)
        if outbound is not None and not self._can("inet"):
            raise UsageError(f"runtime {self._runtime.id!r} of this provider lets nothing reach the outside")
        return outbound

    def _leave_networks(self) -> None:
        if self._joined is not None:
            self._joined.leave()
            self._joined = None

    async def _connect(self, address: IPv4Address, port: int) -> trio.abc.HalfCloseableStream:
        """From the requestor, by its network."""
        self.touch()
        return await cast(NetworkedInstance, self._deployed()).connect(port, address)

    def _can(self, capability: str) -> bool:
        capabilities = self._runtime.offer_properties().get("golem.runtime.capabilities")
        return isinstance(capabilities, list) and capability in capabilities

    def _reference(self) -> str:
        """The registry reference that is the package, if it is one. Raises UsageError when the runtime cannot pull."""
        text = self.agreement.task_package or ""
        if not text.startswith("docker://"):
            return ""
        if not self._can("pull"):
            raise UsageError(f"runtime {self._runtime.id!r} of this provider does not pull images", hint="send a file")
        return text.removeprefix("docker://")

    async def _watch_instance(self, instance: RuntimeInstance, scope: trio.CancelScope) -> None:
        """What dies by itself ends the activity at once, and the requestor hears why."""
        with scope:
            self.end(await instance.lost())

    def _deployed(self) -> RuntimeInstance:
        if self._instance is None:
            raise UsageError("nothing is deployed")
        return self._instance

    async def _drop_instance(self) -> None:
        """The instance's processes and files are gone afterwards, whatever happens."""
        with trio.CancelScope(shield=True):
            self._watching.cancel()
            self._leave_networks()
            instance = self._instance
            if instance is not None:
                if STORAGE_COUNTER in self.agreement.usage_vector:  # what was written since the last look is paid, too
                    with suppress(TooManyFilesError):
                        await self._look_at_disk(instance)
                await instance.terminate()
                self._past, self._instance = _plus(self._past, instance.usage()), None
            await trio.to_thread.run_sync(remove_tree, self._work_dir)

    def _stop_others(self, batch: Batch) -> None:
        for other in self._queue:
            if other is not batch:
                other.fail(STOPPED)
        self._queue = deque(other for other in self._queue if other is batch)
        if self._running is not None and self._running is not batch:
            self._running.scope.cancel()

    def _forget_old(self) -> None:
        while len(self._batches) >= limits.MAX_BATCHES_PER_ACTIVITY:
            oldest = next((batch_id for batch_id, batch in self._batches.items() if batch.ended), None)
            if oldest is None:
                raise ConflictError(f"activity {self.id} has {len(self._batches)} unfinished batches")
            del self._batches[oldest]

    def _refuse_when_ended(self) -> None:
        if self._ending.is_set():
            raise GoneError(f"activity {self.id} is Terminated: {self.reason or 'destroyed'}")

    def _apply(self, event: ActivityEvent) -> None:
        self.state = ACTIVITY.next(self.state, event)


@asynccontextmanager
async def _reporting(
    batch: Batch, interval_s: float | None, message: str
) -> AsyncIterator[Callable[[int, int], None] | None]:
    """A progress callback whose latest word becomes an event every ``interval_s``; None when nobody asked."""
    if interval_s is None:
        yield None
        return
    latest: list[tuple[int, int]] = []

    def report(done: int, total: int) -> None:
        latest[:] = [(done, total)]

    async def tell() -> None:
        while True:
            await trio.sleep(interval_s)
            if latest:
                done, total = latest.pop()
                await batch.progress(Progress(message, done, total or None, "Bytes"))

    failure: GolemError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        try:
            yield report
        except GolemError as exc:  # kept out of the nursery, which would wrap it in a group
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _rule(command: Command, state: ActivityState) -> ActivityEvent | None:
    return None if isinstance(command, Sign) else rule_of(command, state)


def _plus(one: Usage, two: Usage) -> Usage:
    return Usage(
        one.cpu_s + two.cpu_s,
        one.fuel + two.fuel,
        max(one.memory_peak_bytes, two.memory_peak_bytes),
        max(one.storage_bytes, two.storage_bytes),
    )


def _reason_in(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}"


def _fresh_directory(path: Path) -> None:
    remove_tree(path)
    path.mkdir(parents=True, mode=0o700)
