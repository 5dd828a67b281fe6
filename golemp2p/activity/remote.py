"""One activity at a provider, as its requestor sees it: a mirror of the state, and one follower per batch."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pydantic
import structlog
import trio

from golemp2p import limits
from golemp2p.activity.log import EventLog
from golemp2p.activity.ports import PROTOCOL, RpcPort
from golemp2p.core.activity import (
    ACTIVITY,
    RETURN_CODE_FAILED,
    ActivityEvent,
    ActivityState,
    CommandResult,
    EventKind,
    Results,
    RuntimeEvent,
)
from golemp2p.core.agreement import Agreement
from golemp2p.core.exescript import Command, parse_script
from golemp2p.core.ids import ActivityId, BatchId, new_batch_id
from golemp2p.core.receipt import verify_receipt
from golemp2p.errors import (
    ConflictError,
    DeadlineError,
    GolemError,
    GoneError,
    NetworkError,
    NotFoundError,
    RemoteProtocolError,
)
from golemp2p.wire.p2p import activity as wire

log = structlog.get_logger()
M = TypeVar("M", bound=wire.Message)

_FOUND = {
    ActivityState.INITIALIZED: ActivityEvent.FIND_INITIALIZED,
    ActivityState.DEPLOYED: ActivityEvent.FIND_DEPLOYED,
    ActivityState.READY: ActivityEvent.FIND_READY,
}


class RemoteBatch:
    """A batch under way: its events for replay, its results for polls. Both come from the provider's events."""

    def __init__(self, batch_id: BatchId, text: str, now: Callable[[], float]) -> None:
        self.id = batch_id
        self.text = text
        self.commands: Sequence[Command] = parse_script(text)
        self.log = EventLog(limits.FOLLOW_LOG_BYTES, stall_s=limits.SSE_STALL_S)
        self.next_seq = 0  # of the provider's numbers
        self.ended = trio.Event()
        self._results = Results(self.commands)
        self._now = now

    async def results(self, timeout_s: float) -> Sequence[CommandResult]:
        """All results so far; waits for the end of the batch, at most ``timeout_s``."""
        with trio.move_on_after(timeout_s):
            await self.ended.wait()
        return self._results.done

    @property
    def running(self) -> Command | None:
        """The command that has begun and not ended."""
        index = self._results.next_index
        return (
            self.commands[index] if self.next_seq and not self.ended.is_set() and index < len(self.commands) else None
        )

    async def take(self, event: RuntimeEvent) -> None:
        """The next event from the provider. Waits for slow readers of the log."""
        await self.log.append(event)
        self._results.add(event)
        self._end_when_finished()

    def fail(self, message: str) -> None:
        """End it from this side: no more events will come. No effect when it has ended."""
        if self.ended.is_set():
            return
        event = RuntimeEvent(
            self._results.next_index,
            self._now(),
            EventKind.FINISHED,
            return_code=RETURN_CODE_FAILED,
            message=message,
        )
        self.log.append_now(event)
        self._results.add(event)
        self._end_when_finished()

    def _end_when_finished(self) -> None:
        if self._results.finished:
            self.log.close()
            self.ended.set()


class RemoteActivity:
    """:meth:`run` owns the heartbeat and the followers. ``changed`` is awaited when there is something to store."""

    def __init__(
        self,
        activity_id: ActivityId,
        agreement: Agreement,
        rpc: RpcPort,
        *,
        created_at: float,
        now: Callable[[], float],
        changed: Callable[[RemoteActivity], Awaitable[None]],
        state: ActivityState = ACTIVITY.initial,
        usage: tuple[float, ...] = (),
    ) -> None:
        self.id = activity_id
        self.agreement = agreement
        self.created_at = created_at
        self.ended_at: float | None = None
        self.state = state
        self.reason: str | None = None
        self.usage = usage or tuple(0.0 for _ in agreement.usage_vector)
        self.over = trio.Event()
        self._rpc = rpc
        self._now = now
        self._changed = changed
        self._batches: dict[BatchId, RemoteBatch] = {}
        self._outbox_in, self._outbox_out = trio.open_memory_channel[RemoteBatch](limits.MAX_QUEUED_BATCHES)
        self._heard_s = trio.current_time()
        self._ending = trio.Event()
        self._destroying = False

    # --- for the service --------------------------------------------------------------------------------------------

    def exec(self, text: str) -> BatchId:
        """Queue a script for the provider. Returns at once. Raises ScriptError, GoneError, ConflictError."""
        if self.state is ActivityState.TERMINATED or self._destroying:
            raise GoneError(f"activity {self.id} is Terminated: {self.reason or 'destroyed'}")
        batch = RemoteBatch(new_batch_id(), text, self._now)
        while len(self._batches) >= limits.MAX_BATCHES_PER_ACTIVITY:
            oldest = next((key for key, other in self._batches.items() if other.ended.is_set()), None)
            if oldest is None:
                raise ConflictError(f"activity {self.id} has {len(self._batches)} unfinished batches")
            del self._batches[oldest]
        try:
            self._outbox_in.send_nowait(batch)
        except trio.WouldBlock:
            raise ConflictError(f"activity {self.id} has too many batches waiting to be sent") from None
        self._batches[batch.id] = batch
        return batch.id

    def batch(self, batch_id: BatchId) -> RemoteBatch:
        try:
            return self._batches[batch_id]
        except KeyError:
            raise NotFoundError(f"activity {self.id} has no batch {batch_id}") from None

    def running(self) -> list[Command]:
        return [batch.running for batch in self._batches.values() if batch.running is not None]

    async def create(self, timeout_s: float) -> None:
        """Ask the provider for it; repeats through broken connections. Raises DeadlineError and what it answers."""
        with trio.move_on_after(timeout_s):
            while True:
                try:
                    self._heard(await self._call("create", {"agreement_id": self.agreement.id}, timeout_s))
                except DeadlineError:
                    break
                except NetworkError as exc:
                    log.info("activity_create_retry", activity_id=self.id, error=str(exc))
                else:
                    return
                await trio.sleep(limits.PROVIDER_RETRY_S)
        raise DeadlineError(
            f"the provider did not create the activity within {timeout_s:g} s", hint="is it still connected?"
        )

    async def destroy(self, timeout_s: float) -> None:
        """End it; returns when the provider has confirmed. Raises NetworkError, but the heartbeat goes on asking."""
        if self.state is ActivityState.TERMINATED:
            return
        self._destroying = True
        with contextlib.suppress(NotFoundError, GoneError):  # it is not there: that is what we want
            self._heard(await self._call("destroy", {}, timeout_s))
        self.finish("the activity was destroyed", told=None)
        await self.over.wait()

    async def forget_remotely(self) -> None:
        """One attempt to end it at the provider, without any state here."""
        await self._call("destroy", {}, limits.ACTIVITY_RPC_TIMEOUT_S)

    def hear_end(self, body: Any) -> None:
        """The provider says that it ended the activity by itself."""
        self._heard(body)

    def finish(self, why: str, *, told: str | None) -> None:
        """Terminated; ``why`` fails the open batches, ``told`` is the reason shown in the state."""
        if self.state is not ActivityState.TERMINATED:
            self.state = ACTIVITY.next(self.state, ActivityEvent.END)
            self.reason = self.reason or told
            self.ended_at = self._now()
        for batch in self._batches.values():
            batch.fail(why)
        self._ending.set()

    # --- the owner --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the activity has ended and its last events are here."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_batches, nursery)
                nursery.start_soon(self._heartbeat)
                await self._ending.wait()
                nursery.cancel_scope.cancel()
        finally:
            for batch in self._batches.values():
                batch.fail("the requestor's node is shutting down")
            with trio.CancelScope(shield=True):
                await self._store()
            self.over.set()

    async def _send_batches(self, nursery: trio.Nursery) -> None:
        """Hand scripts over in the order in which they came."""
        async for batch in self._outbox_out:
            try:
                await self._persist(partial(self._call, "exec", {"batch_id": batch.id, "text": batch.text}))
            except GolemError as exc:
                batch.fail(f"the provider did not take the script: {exc}")
            else:
                nursery.start_soon(self._follow, batch)

    async def _follow(self, batch: RemoteBatch) -> None:
        """Receive events until the last, through as many connections as it takes."""
        while not batch.ended.is_set():
            try:
                await self._persist(partial(self._receive, batch))
            except GolemError as exc:
                batch.fail(self.reason or f"the provider's output was lost: {exc}")

    async def _receive(self, batch: RemoteBatch) -> None:
        place = {"activity_id": self.id, "batch_id": batch.id}
        unacknowledged_bytes, acknowledged_s = 0, trio.current_time()
        async with self._rpc.stream(
            self.agreement.provider,
            PROTOCOL,
            "events",
            {**place, "from_seq": batch.next_seq},
            timeout_s=limits.EVENT_SILENCE_S,
        ) as items:
            async for item in items:
                body = _parse(wire.EventBody, item)
                if body.seq < batch.next_seq:
                    continue
                if body.seq > batch.next_seq or body.index >= len(batch.commands):
                    raise RemoteProtocolError(f"event {body.seq} of command {body.index} does not follow")
                if body.report is not None:
                    self._heard(body.report, final=False)
                event = self._checked(body.to_event(), batch)
                await batch.take(event)
                batch.next_seq += 1
                self._heard_s = trio.current_time()
                unacknowledged_bytes += event.size_bytes
                if (
                    unacknowledged_bytes >= limits.EVENT_ACK_BYTES
                    or self._heard_s - acknowledged_s > limits.EVENT_ACK_S
                    or batch.ended.is_set()
                ):
                    unacknowledged_bytes, acknowledged_s = 0, self._heard_s
                    await self._call("ack", {"batch_id": batch.id, "next_seq": batch.next_seq})
                if batch.ended.is_set():
                    return
        raise NetworkError("the event stream ended early")

    def _checked(self, event: RuntimeEvent, batch: RemoteBatch) -> RuntimeEvent:
        """Without a receipt that is not this provider's word on this very command: such a one proves nothing."""
        receipt = event.receipt
        if receipt is None:
            return event
        place = (self.agreement.provider, self.agreement.id, self.id, batch.id, event.index)
        said = (receipt.provider, receipt.agreement_id, receipt.activity_id, receipt.batch_id, receipt.command)
        trouble = "" if said == place else "it is of another command"
        if not trouble:
            try:
                verify_receipt(receipt)
            except RemoteProtocolError as exc:
                trouble = str(exc)
        if not trouble:
            return event
        log.warning("receipt_refused", activity_id=self.id, batch_id=batch.id, error=trouble)
        return replace(event, receipt=None)

    async def _heartbeat(self) -> None:
        """Keep state and usage fresh, the provider's lease alive, and notice when it is gone."""
        while True:
            await trio.sleep(limits.ACTIVITY_HEARTBEAT_S)
            try:
                # What a failed destroy could not say is said again until it is heard.
                method = "destroy" if self._destroying else "state"
                before = self.state
                self._heard(await self._call(method, {}, limits.ACTIVITY_HEARTBEAT_S))
                if self.state is not before:
                    await self._store()
            except NetworkError as exc:
                self._silence(exc)
            except GolemError as exc:
                self.finish(f"the provider has no such activity any more: {exc}", told=str(exc))

    async def _store(self) -> None:
        try:
            await self._changed(self)
        except GolemError:  # what is stored is for after a restart; now the mirror in memory counts
            log.exception("activity_not_stored", activity_id=self.id)

    def _silence(self, exc: NetworkError) -> None:
        silent_s = trio.current_time() - self._heard_s
        if silent_s > limits.PROVIDER_LOST_S:
            self.finish("the provider is gone", told=f"the provider did not answer for {silent_s:.0f} s")
        elif silent_s > limits.PROVIDER_GONE_S and self.state in _FOUND:
            log.warning("provider_unresponsive", activity_id=self.id, silent_s=round(silent_s), error=str(exc))
            self.state = ACTIVITY.next(self.state, ActivityEvent.LOSE)

    async def _persist(self, operation: Callable[[], Awaitable[Any]]) -> None:
        """Repeat ``operation`` through network trouble until the provider was silent for PROVIDER_GONE_S."""
        while True:
            try:
                await operation()
            except NetworkError as exc:
                silent_s = trio.current_time() - self._heard_s
                if silent_s > limits.PROVIDER_GONE_S:
                    self._silence(exc)
                    raise NetworkError(f"the provider does not answer since {silent_s:.0f} s: {exc}") from exc
                await trio.sleep(limits.PROVIDER_RETRY_S)
            else:
                return

    async def _call(
        self, method: str, body: dict[str, object], timeout_s: float = limits.ACTIVITY_RPC_TIMEOUT_S
    ) -> Any:
        body = {"activity_id": self.id, **body}
        return await self._rpc.call(self.agreement.provider, PROTOCOL, method, body, timeout_s=timeout_s)

    def _heard(self, body: Any, *, final: bool = True) -> None:
        """Take over the provider's word. ``final``: a Terminated ends the mirror now (not while events still come)."""
        report = body if isinstance(body, wire.Report) else _parse(wire.Report, body)
        if report.activity_id != self.id:
            raise RemoteProtocolError(f"the provider speaks of activity {report.activity_id}, not {self.id}")
        self._heard_s = trio.current_time()
        if len(report.usage) == len(self.usage):
            self.usage = tuple(report.usage)
        state = ActivityState(report.state)
        if state is ActivityState.TERMINATED:
            self.reason = self.reason or report.reason
            if final:
                self.finish(f"the provider ended the activity: {report.reason or 'destroyed'}", told=report.reason)
        elif self.state is not ActivityState.TERMINATED and state in _FOUND:
            # The provider's word is the truth, however many of its transitions we missed.
            if self.state is ActivityState.UNRESPONSIVE:
                self.state = ACTIVITY.next(self.state, _FOUND[state])
            self.state = state


def _parse(model: type[M], body: Any) -> M:
    try:
        return model.model_validate(body)
    except pydantic.ValidationError as exc:
        raise RemoteProtocolError(f"the provider's {model.__name__} is malformed: {exc.errors()[0]['msg']}") from None
