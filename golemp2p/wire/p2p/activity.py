"""Bodies of ``/golemp2p/activity/1`` (protocols/activity.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from golemp2p import limits
from golemp2p.core.activity import EventKind, Progress, RuntimeEvent
from golemp2p.core.receipt import Receipt

Id32 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Id64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
Words = Annotated[str, Field(max_length=4096)]


class Message(BaseModel):
    """Unknown keys are ignored, so that a later version can add some."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Create(Message):
    activity_id: Id32
    agreement_id: Id64


class ActivityRef(Message):
    activity_id: Id32


class Exec(Message):
    activity_id: Id32
    batch_id: Id32
    text: Annotated[str, Field(max_length=limits.MAX_SCRIPT_BYTES)]


class Events(Message):
    activity_id: Id32
    batch_id: Id32
    from_seq: Count


class Ack(Message):
    activity_id: Id32
    batch_id: Id32
    next_seq: Count


class Report(Message):
    """The provider's word on an activity: answer of create, state and destroy; body of ``ended``."""

    activity_id: Id32
    state: Literal["New", "Initialized", "Deployed", "Ready", "Terminated"]
    reason: Words | None = None
    usage: Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(max_length=64)] = []


class ProgressBody(Message):
    message: Words
    done: Count
    total: Count | None = None
    unit: Annotated[str, Field(max_length=32)]


class EventBody(Message):
    """One item of the ``events`` stream. ``report`` comes with ``finished``: the state after the command."""

    seq: Count
    index: Count
    at: Annotated[float, Field(ge=0, le=1e11)]
    kind: Literal["started", "stdout", "stderr", "progress", "finished"]
    data: Annotated[bytes, Field(max_length=4 * limits.EVENT_CHUNK_BYTES)] = b""
    return_code: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0
    message: Words | None = None
    progress: ProgressBody | None = None
    report: Report | None = None
    receipt: dict[str, object] | None = None

    def to_event(self) -> RuntimeEvent:
        """Raises RemoteProtocolError for a malformed receipt."""
        told = self.progress
        return RuntimeEvent(
            self.index,
            self.at,
            EventKind(self.kind),
            self.data,
            self.return_code,
            self.message,
            Progress(told.message, told.done, told.total, told.unit) if told else None,
            None if self.receipt is None else Receipt.from_document(self.receipt),
        )


def event_body(seq: int, event: RuntimeEvent, report: dict[str, object] | None = None) -> dict[str, object]:
    """The item of an event; fields that say nothing are left out. Long words are cut to what the peer accepts."""
    body: dict[str, object] = {"seq": seq, "index": event.index, "at": event.at, "kind": event.kind.value}
    if event.data:
        body["data"] = event.data
    if event.return_code:
        body["return_code"] = event.return_code
    if event.message is not None:
        body["message"] = event.message[:4096]
    if event.progress is not None:
        told = event.progress
        body["progress"] = {"message": told.message[:4096], "done": told.done, "total": told.total, "unit": told.unit}
    if event.receipt is not None:
        body["receipt"] = event.receipt.to_document()
    if report is not None:
        body["report"] = report
    return body
