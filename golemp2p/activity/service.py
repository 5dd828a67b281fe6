"""Both sides of activities behind one object: what node.py composes and the REST API speaks to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import trio

from golemp2p.activity.http import HttpTransfers
from golemp2p.activity.ports import AgreementLookup, ContentStorePort, DataPort, RpcPort, VpnPort
from golemp2p.activity.provider import ActivityEnded, EndListener, ProviderActivities
from golemp2p.activity.receipts import Notary
from golemp2p.activity.requestor import RequestorActivities
from golemp2p.core.ids import ActivityId, AgreementId
from golemp2p.errors import NotFoundError
from golemp2p.runtimes.base import Runtime
from golemp2p.storage.activity import ActivityRecord
from golemp2p.storage.engine import Storage


class ActivityService:
    """``await nursery.start(service.run)`` after the rpc runs. A node without ``runtimes`` runs nothing for others."""

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
        self.provider = ProviderActivities(
            storage=storage,
            rpc=rpc,
            data=data,
            content=content,
            agreement=agreement,
            runtimes=runtimes,
            work_root=work_root,
            http=http,
            substitutes=substitutes,
            now=now,
            notary=notary,
            vpn=vpn,
        )
        self.requestor = RequestorActivities(storage=storage, rpc=rpc, agreement=agreement, now=now)

    def add_end_listener(self, listener: EndListener) -> None:
        """For activities of the provider's side. Add listeners before :meth:`run`: it settles what a crash left."""
        self.provider.add_end_listener(listener)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.provider.run)
            await nursery.start(self.requestor.run)
            task_status.started()

    async def on_agreement_ended(self, agreement_id: AgreementId) -> None:
        """Call it when an agreement ends, for whatever reason; returns when its activities have ended here."""
        await self.provider.on_agreement_ended(agreement_id)
        await self.requestor.on_agreement_ended(agreement_id)

    async def record(self, activity_id: ActivityId) -> ActivityRecord:
        """From whichever side this node is of. Raises NotFoundError."""
        try:
            return await self.requestor.record(activity_id)
        except NotFoundError:
            return await self.provider.record(activity_id)

    async def records(self, *, live_only: bool = False) -> list[ActivityRecord]:
        """Both sides."""
        return [*await self.requestor.records(live_only=live_only), *await self.provider.records(live_only=live_only)]


__all__ = ["ActivityEnded", "ActivityService"]
