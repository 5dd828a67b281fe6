"""Activities that others run for this node: creation, the mirrors, and the requestor's half of the p2p protocol."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog
import trio

from golemp2p import limits
from golemp2p.activity.ports import PROTOCOL, AgreementLookup, RpcPort
from golemp2p.activity.remote import RemoteActivity
from golemp2p.core.activity import ActivityState
from golemp2p.core.agreement import AgreementState, Role
from golemp2p.core.ids import ActivityId, AgreementId, PeerId, new_activity_id
from golemp2p.errors import GolemError, GoneError, NetworkError, NotFoundError, UsageError
from golemp2p.storage.activity import ActivityRecord, get_activity, list_activities, put_activity
from golemp2p.storage.engine import Storage

log = structlog.get_logger()


class RequestorActivities:
    """Start :meth:`run` before anything else."""

    def __init__(
        self,
        *,
        storage: Storage,
        rpc: RpcPort,
        agreement: AgreementLookup,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._rpc = rpc
        self._agreement = agreement
        self._now = now
        self._asked: dict[ActivityId, AgreementId] = {}
        self._activities: dict[ActivityId, RemoteActivity] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take up the activities that were alive, own the mirrors, until cancelled."""
        self._rpc.serve(PROTOCOL, {"ended": self._on_ended})
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._recover(nursery)
            task_status.started()
            await trio.sleep_forever()

    async def _recover(self, nursery: trio.Nursery) -> None:
        """The provider may still run them. Their batches' events went with us: clients poll anew or destroy."""
        for record in await self._storage.run(lambda c: list_activities(c, Role.REQUESTOR, live_only=True)):
            try:
                agreement = await self._agreement(record.agreement_id)
            except NotFoundError:
                continue
            activity = RemoteActivity(
                record.id,
                agreement,
                self._rpc,
                created_at=record.created_at,
                now=self._now,
                changed=self._store,
                state=record.state,
                usage=record.usage,
            )
            self._activities[record.id] = activity
            nursery.start_soon(activity.run)

    # --- for the REST API and node.py -------------------------------------------------------------------------------

    async def create(self, agreement_id: AgreementId, *, timeout_s: float) -> ActivityId:
        """A new activity under an approved agreement; returns when it is Initialized.

        Raises NotFoundError, UsageError (not approved, not ours), DeadlineError, NetworkError, RemoteError.
        """
        agreement = await self._agreement(agreement_id)
        if agreement.role is not Role.REQUESTOR:
            raise UsageError(f"this node is the provider of agreement {agreement_id}")
        if agreement.state is not AgreementState.APPROVED:
            raise UsageError(f"agreement {agreement_id} is {agreement.state}, not Approved")
        if self._now() >= agreement.expires_at:
            raise UsageError(f"agreement {agreement_id} has expired")
        if self._nursery is None:
            raise UsageError("the node is not ready yet")
        activity = RemoteActivity(
            new_activity_id(),
            agreement,
            self._rpc,
            created_at=self._now(),
            now=self._now,
            changed=self._store,
        )
        self._asked[activity.id] = agreement_id
        while len(self._asked) > limits.MAX_ASKED_ACTIVITIES:
            del self._asked[next(iter(self._asked))]
        try:
            await activity.create(timeout_s)
        except BaseException as exc:
            # It may exist over there all the same, and would cost money.
            self._nursery.start_soon(self._undo, activity)
            log.info("activity_not_created", agreement_id=agreement_id, error=str(exc))
            raise
        await self._store(activity)
        self._activities[activity.id] = activity
        self._forget_old()
        self._nursery.start_soon(activity.run)
        return activity.id

    def asked_for(self, agreement_id: AgreementId, activity_id: ActivityId) -> bool:
        """Whether we asked for this activity since our start. It may be billed though its creation was interrupted."""
        return self._asked.get(activity_id) == agreement_id

    def activity(self, activity_id: ActivityId) -> RemoteActivity | None:
        """The mirror, if this node is the requestor and remembers it."""
        return self._activities.get(activity_id)

    def of_agreement(self, agreement_id: AgreementId) -> list[RemoteActivity]:
        """Those that live or ended lately."""
        return [activity for activity in self._activities.values() if activity.agreement.id == agreement_id]

    def works_for_us(self, peer: PeerId) -> bool:
        """Whether ``peer`` runs an activity of ours now."""
        return any(
            activity.agreement.provider == peer and activity.state is not ActivityState.TERMINATED
            for activity in self._activities.values()
        )

    async def live_activity(self, activity_id: ActivityId) -> RemoteActivity:
        """As :meth:`activity`. Raises NotFoundError, GoneError for one that only the database remembers."""
        activity = self._activities.get(activity_id)
        if activity is None:
            record = await self.record(activity_id)
            raise GoneError(f"activity {activity_id} is {record.state}: {record.reason or 'destroyed'}")
        return activity

    async def record(self, activity_id: ActivityId) -> ActivityRecord:
        """The newest facts. Raises NotFoundError."""
        activity = self._activities.get(activity_id)
        if activity is not None:
            return _record(activity)
        found = await self._storage.run(lambda c: get_activity(c, activity_id, Role.REQUESTOR))
        if found is None:
            raise NotFoundError(f"there is no activity {activity_id}")
        return found

    async def records(self, *, live_only: bool) -> list[ActivityRecord]:
        if live_only:
            return [_record(a) for a in self._activities.values() if a.state is not ActivityState.TERMINATED]
        return await self._storage.run(lambda c: list_activities(c, Role.REQUESTOR, live_only=False))

    async def on_agreement_ended(self, agreement_id: AgreementId) -> None:
        """End the activities of an agreement that is no more; the provider is told in the background if need be."""
        for activity in list(self._activities.values()):
            if activity.agreement.id == agreement_id:
                try:
                    await activity.destroy(limits.FAREWELL_S)
                except GolemError as exc:
                    log.info("activity_not_destroyed", activity_id=activity.id, error=str(exc))
                    activity.finish("the agreement has ended", told="the agreement has ended")

    async def _undo(self, activity: RemoteActivity) -> None:
        """Make sure that an activity whose creation failed does not live on at the provider."""
        deadline_s = trio.current_time() + limits.PROVIDER_LOST_S
        while trio.current_time() < deadline_s:
            try:
                await activity.forget_remotely()
            except NetworkError:
                await trio.sleep(limits.ACTIVITY_HEARTBEAT_S)
            except GolemError:
                return
            else:
                return

    async def _on_ended(self, peer: PeerId, body: Any) -> object:
        activity = self._activities.get(ActivityId(str(body.get("activity_id")))) if isinstance(body, dict) else None
        if activity is None or activity.agreement.provider != peer:
            raise NotFoundError("there is no such activity")
        activity.hear_end(body)
        return {}

    async def _store(self, activity: RemoteActivity) -> None:
        record = _record(activity)
        await self._storage.run(lambda connection: put_activity(connection, record))

    def _forget_old(self) -> None:
        ended = [key for key, activity in self._activities.items() if activity.over.is_set()]
        for key in ended[: max(0, len(ended) - limits.MAX_ENDED_ACTIVITIES)]:
            del self._activities[key]


def _record(activity: RemoteActivity) -> ActivityRecord:
    return ActivityRecord(
        id=activity.id,
        role=Role.REQUESTOR,
        agreement_id=activity.agreement.id,
        peer=activity.agreement.provider,
        state=activity.state,
        created_at=activity.created_at,
        reason=activity.reason,
        ended_at=activity.ended_at,
        usage=activity.usage,
    )
