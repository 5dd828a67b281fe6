"""Activities that this node runs for others: one supervisor each, and the provider's half of the p2p protocol."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import structlog
import trio

from golemp2p import limits
from golemp2p.activity.disk import remove_tree
from golemp2p.activity.http import HttpTransfers
from golemp2p.activity.ports import PROTOCOL, AgreementLookup, ContentStorePort, DataPort, RpcPort, SendItem, VpnPort
from golemp2p.activity.receipts import Notary
from golemp2p.activity.supervisor import Supervisor
from golemp2p.activity.transfers import Transfers
from golemp2p.activity.usage import limits_of
from golemp2p.core.activity import ActivityState, EventKind
from golemp2p.core.agreement import Agreement, AgreementState, Role
from golemp2p.core.ids import ActivityId, AgreementId, BatchId, PeerId
from golemp2p.errors import ConflictError, GolemError, GoneError, NotFoundError, UsageError
from golemp2p.runtimes.base import Runtime
from golemp2p.storage.activity import (
    ActivityRecord,
    AgentEvent,
    add_agent_event,
    agent_events_after,
    get_activity,
    list_activities,
    put_activity,
)
from golemp2p.storage.engine import Storage
from golemp2p.wire.p2p import activity as wire

log = structlog.get_logger()
M = TypeVar("M", bound=wire.Message)

RESTARTED = "provider restarted"
# Of the offer: what an agreed activity must run on.
_WHICH_RUNTIME = ("golem.runtime.name", "golem.!exp.golemp2p.backend")


@dataclass(frozen=True)
class ActivityEnded:
    """What a listener learns; ``usage`` is final."""

    activity_id: ActivityId
    agreement_id: AgreementId
    reason: str | None
    usage: tuple[float, ...]


EndListener = Callable[[ActivityEnded], Awaitable[None]]


class ProviderActivities:
    """Start :meth:`run` before anything else. ``runtimes`` by the name in the offer; ``work_root`` is ours alone."""

    def __init__(
        self,
        *,
        storage: Storage,
        rpc: RpcPort,
        data: DataPort,
        content: ContentStorePort,
        agreement: AgreementLookup,
        runtimes: Mapping[str, Runtime],
        work_root: Path,
        http: HttpTransfers | None = None,
        substitutes: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.time,
        notary: Notary | None = None,
        vpn: VpnPort | None = None,
    ) -> None:
        self._storage = storage
        self._rpc = rpc
        self._data = data
        self._content = content
        self._agreement = agreement
        self._runtimes = dict(runtimes)
        self._work_root = work_root
        self._http = http or HttpTransfers()
        self._substitutes = substitutes
        self._now = now
        self._notary = notary
        self._vpn = vpn
        self._live: dict[ActivityId, Supervisor] = {}
        self._ended: dict[ActivityId, Supervisor] = {}
        self._fetching: dict[tuple[PeerId, str], trio.Lock] = {}
        self._disk_scans = trio.CapacityLimiter(limits.DISK_SCANS_AT_ONCE)
        self._creating = trio.Lock()
        self._listeners: list[EndListener] = []
        self._agent_news = trio.Event()
        self._nursery: trio.Nursery | None = None

    def add_end_listener(self, listener: EndListener) -> None:
        """``listener`` is awaited once for every activity that ended, also for those a restart ended."""
        self._listeners.append(listener)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Settle what a crash left, serve the protocol, own the supervisors, until cancelled."""
        await self._recover()
        self._rpc.serve(
            PROTOCOL,
            {
                "create": self._on_create,
                "exec": self._on_exec,
                "ack": self._on_ack,
                "state": self._on_state,
                "destroy": self._on_destroy,
            },
            {"events": self._on_events},
        )
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def _recover(self) -> None:
        """A supervisor does not outlive its node, and neither do its workers: whatever was live has ended."""
        async with trio.open_nursery() as nursery:  # containers, machines and mounts first
            for runtime in self._runtimes.values():
                nursery.start_soon(runtime.clean_up)
        await trio.to_thread.run_sync(_empty_directory, self._work_root)
        for record in await self._storage.run(lambda c: list_activities(c, Role.PROVIDER, live_only=True)):
            log.warning("activity_lost_by_restart", activity_id=record.id)
            await self._store_end(
                record.id, record.agreement_id, record.peer, record.created_at, RESTARTED, record.usage, self._now()
            )

    # --- for the REST API and node.py -------------------------------------------------------------------------------

    async def record(self, activity_id: ActivityId) -> ActivityRecord:
        """The newest facts. Raises NotFoundError."""
        supervisor = self._live.get(activity_id)
        if supervisor is not None:
            return _record(supervisor)
        found = await self._storage.run(lambda c: get_activity(c, activity_id, Role.PROVIDER))
        if found is None:
            raise NotFoundError(f"there is no activity {activity_id}")
        return found

    async def records(self, *, live_only: bool) -> list[ActivityRecord]:
        if live_only:
            return [_record(supervisor) for supervisor in self._live.values()]
        return await self._storage.run(lambda c: list_activities(c, Role.PROVIDER, live_only=False))

    async def agent_events(self, after_us: int, *, timeout_s: float, max_events: int) -> Sequence[AgentEvent]:
        """CreateActivity and DestroyActivity strictly later than ``after_us``; [] at the deadline."""
        with trio.move_on_after(timeout_s):
            while True:
                news = self._agent_news
                events = await self._storage.run(lambda c: agent_events_after(c, after_us, max_events))
                if events:
                    return events
                await news.wait()
        return []

    async def end(self, activity_id: ActivityId, reason: str) -> None:
        """End an activity from this side (the provider's agent wants it). Waits until it is gone."""
        supervisor = self._live.get(activity_id)
        if supervisor is not None:
            supervisor.end(reason)
            await supervisor.gone.wait()

    async def on_agreement_ended(self, agreement_id: AgreementId) -> None:
        """End the activities of an agreement that is no more; waits until they are gone and billed-able."""
        ending = [s for s in self._live.values() if s.agreement.id == agreement_id]
        for supervisor in ending:
            supervisor.end("the agreement was terminated")
        for supervisor in ending:
            await supervisor.gone.wait()

    # --- the protocol -----------------------------------------------------------------------------------------------

    async def _on_create(self, peer: PeerId, body: Any) -> object:
        order = _parse(wire.Create, body)
        activity_id, agreement_id = ActivityId(order.activity_id), AgreementId(order.agreement_id)
        async with self._creating:  # so that a repeated order meets the first one's result
            known = self._live.get(activity_id)
            if known is None:
                await self._create(peer, activity_id, agreement_id)
                known = self._live[activity_id]
            elif known.agreement.requestor != peer or known.agreement.id != agreement_id:
                raise ConflictError(f"activity {activity_id} exists under another agreement")
        return _report(known)

    async def _create(self, peer: PeerId, activity_id: ActivityId, agreement_id: AgreementId) -> None:
        agreement = await self._agreement(agreement_id)
        if agreement.role is not Role.PROVIDER or agreement.requestor != peer:
            raise NotFoundError(f"there is no agreement {agreement_id} between us")
        if agreement.state is not AgreementState.APPROVED:
            raise UsageError(f"agreement {agreement_id} is {agreement.state}, not Approved")
        if self._now() >= agreement.expires_at:
            raise GoneError(f"agreement {agreement_id} has expired")
        if await self._storage.run(lambda c: get_activity(c, activity_id, Role.PROVIDER)) is not None:
            raise GoneError(f"activity {activity_id} has ended")
        alive = sum(s.agreement.id == agreement_id for s in self._live.values())
        if alive >= limits.MAX_ACTIVITIES_PER_AGREEMENT:
            raise ConflictError(f"agreement {agreement_id} has {alive} activities already")
        supervisor = Supervisor(
            activity_id,
            agreement,
            self._runtime_of(agreement),
            Transfers(
                agreement,
                self._content,
                self._data,
                max_bytes=limits_of(agreement).storage_bytes,
                fetching=self._fetching,
                staging=self._work_root / f"{activity_id}.files",
                http=self._http,
                substitutes=self._substitutes,
            ),
            self._work_root / activity_id,
            now=self._now,
            changed=self._changed,
            disk_scans=self._disk_scans,
            notary=self._notary,
            vpn=self._vpn,
        )
        if self._nursery is None:
            raise UsageError("the node is not ready yet")
        # In the service's nursery: the activity outlives the call that made it.
        self._live[activity_id] = supervisor
        try:
            await self._nursery.start(supervisor.run)
        except BaseException:  # cancellation above all: nobody would know of the activity, so it must not live on
            supervisor.end("creation was interrupted")
            raise
        log.info("activity_created", activity_id=activity_id, agreement_id=agreement_id, peer=peer)

    def _runtime_of(self, agreement: Agreement) -> Runtime:
        offer = agreement.offer
        for runtime in self._runtimes.values():
            # The offer is what was agreed to: another backend of the same name is another thing.
            if all(offer.get(name) == runtime.offer_properties().get(name) for name in _WHICH_RUNTIME):
                return runtime
        name = offer.get("golem.runtime.name")
        raise UsageError(f"this provider has no such runtime {name!r} any more", hint=f"it has {list(self._runtimes)}")

    async def _on_exec(self, peer: PeerId, body: Any) -> object:
        order = _parse(wire.Exec, body)
        supervisor = await self._supervisor(peer, order.activity_id)
        supervisor.submit(BatchId(order.batch_id), order.text)
        return {}

    async def _on_events(self, peer: PeerId, body: Any, send_item: SendItem) -> None:
        """All events from a number on, until the batch has ended. Asking from N acknowledges all before N."""
        order = _parse(wire.Events, body)
        supervisor = await self._supervisor(peer, order.activity_id, ended_too=True)
        batch = supervisor.batch(BatchId(order.batch_id))
        batch.acknowledged.advance(order.from_seq)
        position = order.from_seq
        while items := await batch.log.read(position):
            for seq, event in items:
                report = _report(supervisor) if event.kind is EventKind.FINISHED else None
                await send_item(wire.event_body(seq, event, report))
                position = seq + 1

    async def _on_ack(self, peer: PeerId, body: Any) -> object:
        order = _parse(wire.Ack, body)
        supervisor = await self._supervisor(peer, order.activity_id, ended_too=True)
        batch = supervisor.batch(BatchId(order.batch_id))
        batch.acknowledged.advance(order.next_seq)
        batch.log.trim()
        return {}

    async def _on_state(self, peer: PeerId, body: Any) -> object:
        activity_id = _parse(wire.ActivityRef, body).activity_id
        try:
            supervisor = await self._supervisor(peer, activity_id)
        except GoneError:
            return _record_report(await self.record(ActivityId(activity_id)))
        supervisor.touch()
        return _report(supervisor)

    async def _on_destroy(self, peer: PeerId, body: Any) -> object:
        activity_id = _parse(wire.ActivityRef, body).activity_id
        try:
            supervisor = await self._supervisor(peer, activity_id)
        except GoneError:
            return _record_report(await self.record(ActivityId(activity_id)))
        supervisor.end(None)
        await supervisor.gone.wait()
        return _report(supervisor)

    async def _supervisor(self, peer: PeerId, activity_id: str, *, ended_too: bool = False) -> Supervisor:
        """The activity, for its requestor alone. Raises NotFoundError (also for others), GoneError with the reason."""
        wanted = ActivityId(activity_id)
        supervisor = self._live.get(wanted) or (self._ended.get(wanted) if ended_too else None)
        if supervisor is not None and supervisor.agreement.requestor == peer:
            return supervisor
        record = await self._storage.run(lambda c: get_activity(c, wanted, Role.PROVIDER))
        if supervisor is not None or record is None or record.peer != peer:
            raise NotFoundError(f"there is no activity {activity_id}")
        raise GoneError(f"activity {activity_id} is Terminated: {record.reason or 'destroyed'}")

    # --- what supervisors tell us -----------------------------------------------------------------------------------

    async def _changed(self, supervisor: Supervisor) -> None:
        if supervisor.state is ActivityState.TERMINATED:
            await self._on_ended(supervisor)
            return
        record = _record(supervisor)

        def store(connection: Any) -> None:
            if get_activity(connection, record.id, Role.PROVIDER) is None:
                add_agent_event(connection, self._now(), "CreateActivity", record.id, record.agreement_id)
            put_activity(connection, record)

        await self._storage.run(store)
        self._tell_agent()

    async def _on_ended(self, supervisor: Supervisor) -> None:
        agreement = supervisor.agreement
        await self._store_end(
            supervisor.id,
            agreement.id,
            agreement.requestor,
            supervisor.created_at,
            supervisor.reason,
            supervisor.usage(),
            self._now() if supervisor.ended_at is None else supervisor.ended_at,
        )
        self._live.pop(supervisor.id, None)
        self._ended[supervisor.id] = supervisor
        while len(self._ended) > limits.MAX_ENDED_ACTIVITIES:
            del self._ended[next(iter(self._ended))]
        if supervisor.reason is not None:  # not asked for by the requestor: tell it, once, as a courtesy
            if self._nursery is not None and not self._nursery.cancel_scope.cancel_called:
                self._nursery.start_soon(self._tell_requestor, supervisor)
            else:
                await self._tell_requestor(supervisor)

    async def _tell_requestor(self, supervisor: Supervisor) -> None:
        try:
            await self._rpc.call(
                supervisor.agreement.requestor, PROTOCOL, "ended", _report(supervisor), timeout_s=limits.FAREWELL_S
            )
        except GolemError as exc:  # it will ask
            log.info("requestor_not_told", activity_id=supervisor.id, error=str(exc))

    async def _store_end(
        self,
        activity_id: ActivityId,
        agreement_id: AgreementId,
        peer: PeerId,
        created_at: float,
        reason: str | None,
        usage: tuple[float, ...],
        ended_at: float,
    ) -> None:
        record = ActivityRecord(
            id=activity_id,
            role=Role.PROVIDER,
            agreement_id=agreement_id,
            peer=peer,
            state=ActivityState.TERMINATED,
            created_at=created_at,
            reason=reason,
            ended_at=ended_at,
            usage=usage,
        )

        def store(connection: Any) -> None:
            put_activity(connection, record)
            add_agent_event(connection, self._now(), "DestroyActivity", activity_id, agreement_id)

        await self._storage.run(store)
        self._tell_agent()
        for listener in self._listeners:
            try:
                await listener(ActivityEnded(activity_id, agreement_id, reason, usage))
            except GolemError:  # its trouble must not keep the activity from ending
                log.exception("activity_end_listener_failed", activity_id=activity_id)

    def _tell_agent(self) -> None:
        self._agent_news.set()
        self._agent_news = trio.Event()


def _record(supervisor: Supervisor) -> ActivityRecord:
    return ActivityRecord(
        id=supervisor.id,
        role=Role.PROVIDER,
        agreement_id=supervisor.agreement.id,
        peer=supervisor.agreement.requestor,
        state=supervisor.state,
        created_at=supervisor.created_at,
        reason=supervisor.reason,
        ended_at=supervisor.ended_at,
        usage=supervisor.usage(),
    )


def _report(supervisor: Supervisor) -> dict[str, object]:
    return _record_report(_record(supervisor))


def _record_report(record: ActivityRecord) -> dict[str, object]:
    return {
        "activity_id": record.id,
        "state": record.state.value,
        "reason": record.reason[:4096] if record.reason else None,
        "usage": list(record.usage),
    }


def _parse(model: type[M], body: Any) -> M:
    """The peer's body. Raises UsageError, which the peer gets back."""
    try:
        return model.model_validate(body)
    except pydantic.ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"{model.__name__}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _empty_directory(path: Path) -> None:
    """Work directories of a node that was killed; the workers died with it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for entry in path.iterdir():
        remove_tree(entry)


__all__ = ["RESTARTED", "ActivityEnded", "EndListener", "ProviderActivities"]
