"""Bodies of ``/activity-api/v1`` in yagna's shapes, and its event-stream frames."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from golemp2p.core.activity import CommandResult, EventKind, RuntimeEvent, TextDecoder
from golemp2p.core.exescript import Command, Run
from golemp2p.wire.rest.base import RestModel, iso_time


class CreateActivity(RestModel):
    """golem-js sends this object and wants ``{activityId}`` back; Python clients send and get bare strings."""

    agreement_id: str


class CreatedActivity(RestModel):
    activity_id: str


class ExecText(RestModel):
    """``text``: the script, a JSON array of commands."""

    text: str


class ResultBody(RestModel):
    """One element of a poll's list. Bytes (``format: bin``) come as numbers; ``receipt`` is golemp2p's."""

    index: int
    event_date: str
    result: Literal["Ok", "Error"]
    stdout: str | list[int] | None
    stderr: str | list[int] | None
    message: str | None
    is_batch_finished: bool
    receipt: dict[str, Any] | None = None


class CommandState(RestModel):
    """A command under way: its name, and for ``run`` what is run."""

    command: str
    params: list[str] | None = None


class StateBody(RestModel):
    """``state``: [current, pending]; nothing is ever pending here."""

    state: Annotated[list[str | None], Field(min_length=2, max_length=2)]
    reason: str | None = None
    error_message: str | None = None


class UsageBody(RestModel):
    """``timestamp``: whole seconds since the epoch; ``current_usage`` in the order of golem.com.usage.vector."""

    current_usage: list[float]
    timestamp: int


class AgentEventBody(RestModel):
    """For the provider's agent; ``event_type``: CreateActivity or DestroyActivity."""

    event_type: str
    event_date: str
    activity_id: str
    agreement_id: str


class ActivityBody(RestModel):
    """Ours: everything of one activity."""

    activity_id: str
    agreement_id: str
    role: str
    peer_id: str
    state: str
    reason: str | None = None
    created_at: str
    ended_at: str | None = None
    usage: list[float]


def command_state(command: Command) -> CommandState:
    params = [command.entry_point, *command.args] if isinstance(command, Run) else None
    return CommandState(command=command.kind, params=params)


def result_body(result: CommandResult) -> dict[str, object]:
    """One element of a poll's list. Absent fields are null: the strict Python models want them there.

    ``receipt`` is ours, and there only when there is one.
    """
    body = {
        "index": result.index,
        "eventDate": iso_time(result.at),
        "result": "Ok" if result.ok else "Error",
        "stdout": _output(result.stdout),
        "stderr": _output(result.stderr),
        "message": result.message,
        "isBatchFinished": result.is_batch_finished,
    }
    return body if result.receipt is None else {**body, "receipt": result.receipt.to_document()}


def _output(value: str | bytes | None) -> str | list[int] | None:
    return list(value) if isinstance(value, bytes) else value


class Frames:
    """Events of one batch as SSE frames; keeps what a UTF-8 character torn between two chunks needs."""

    def __init__(self, batch_id: str, commands: tuple[Command, ...]) -> None:
        self._batch_id = batch_id
        self._commands = commands
        self._decoders: dict[tuple[int, EventKind], TextDecoder] = {}

    def frame(self, number: int, event: RuntimeEvent) -> str:
        """One frame, or "" when there is nothing to show yet (a lone half of a character)."""
        kind = self._kind(event)
        if kind is None:
            return ""
        data = {
            "batch_id": self._batch_id,
            "index": event.index,
            "timestamp": datetime.fromtimestamp(event.at, UTC).replace(tzinfo=None).isoformat(timespec="microseconds"),
            "kind": kind,
        }
        return f"event: runtime\ndata: {json.dumps(data)}\nid: {number}\n\n"

    def _kind(self, event: RuntimeEvent) -> Mapping[str, object] | None:
        match event.kind:
            case EventKind.STARTED:
                return {"started": {"command": self._commands[event.index].raw}}
            case EventKind.STDOUT | EventKind.STDERR:
                text = self._text(event)
                return {event.kind.value: text} if text else None
            case EventKind.PROGRESS if event.progress is not None:
                told = event.progress
                step = [event.index, len(self._commands)]
                amounts = [told.done, told.total]
                return {"progress": {"step": step, "message": told.message, "progress": amounts, "unit": told.unit}}
            case EventKind.FINISHED:
                ended: dict[str, object] = {"return_code": event.return_code, "message": event.message}
                if event.receipt is not None:
                    ended["receipt"] = event.receipt.to_document()
                return {"finished": ended}
            case _:
                return None

    def _text(self, event: RuntimeEvent) -> str | list[int]:
        command = self._commands[event.index]
        if isinstance(command, Run):
            capture = command.stdout if event.kind is EventKind.STDOUT else command.stderr
            if capture is not None and capture.binary:
                return list(event.data)
            if capture is not None and capture.base64:
                return b64encode(event.data).decode()
        decoder = self._decoders.setdefault((event.index, event.kind), TextDecoder())
        return decoder.feed(event.data)
