"""Activities and batches: states, which command is legal when, runtime events, capture rules, results.

Theory of operation. The provider owns the truth: NEW until its supervisor runs, INITIALIZED, after ``deploy`` DEPLOYED,
after ``start`` READY; the ``terminate`` command goes back to INITIALIZED; TERMINATED is final, whoever asked for it.
The requestor mirrors these from events; UNRESPONSIVE exists in the mirror alone, while the provider does not answer.
A batch runs its commands in order and ends with the last one or the first that fails. Everything that happens in it is
a numbered event; poll results and SSE frames are both derived from the events.
"""

from __future__ import annotations

import codecs
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from golemp2p import limits
from golemp2p.core.exescript import Capture, CapturePart, Command, Run
from golemp2p.core.machine import ImpossibleEventError, Machine
from golemp2p.core.receipt import Receipt


class ActivityState(StrEnum):
    NEW = "New"
    INITIALIZED = "Initialized"
    DEPLOYED = "Deployed"
    READY = "Ready"
    UNRESPONSIVE = "Unresponsive"
    TERMINATED = "Terminated"


class ActivityEvent(StrEnum):
    INITIALIZE = "initialize"
    DEPLOY = "deploy"
    START = "start"
    RESET = "reset"  # the ``terminate`` command
    LOSE = "lose"  # the provider does not answer
    FIND_INITIALIZED = "find_initialized"  # it answers again, and says this
    FIND_DEPLOYED = "find_deployed"
    FIND_READY = "find_ready"
    END = "end"


_S, _E = ActivityState, ActivityEvent
ACTIVITY: Final = Machine(
    "activity",
    _S.NEW,
    {
        (_S.NEW, _E.INITIALIZE): _S.INITIALIZED,
        (_S.INITIALIZED, _E.DEPLOY): _S.DEPLOYED,
        (_S.DEPLOYED, _E.START): _S.READY,
        (_S.INITIALIZED, _E.RESET): _S.INITIALIZED,
        (_S.DEPLOYED, _E.RESET): _S.INITIALIZED,
        (_S.READY, _E.RESET): _S.INITIALIZED,
        (_S.INITIALIZED, _E.LOSE): _S.UNRESPONSIVE,
        (_S.DEPLOYED, _E.LOSE): _S.UNRESPONSIVE,
        (_S.READY, _E.LOSE): _S.UNRESPONSIVE,
        (_S.UNRESPONSIVE, _E.FIND_INITIALIZED): _S.INITIALIZED,
        (_S.UNRESPONSIVE, _E.FIND_DEPLOYED): _S.DEPLOYED,
        (_S.UNRESPONSIVE, _E.FIND_READY): _S.READY,
        (_S.NEW, _E.END): _S.TERMINATED,
        (_S.INITIALIZED, _E.END): _S.TERMINATED,
        (_S.DEPLOYED, _E.END): _S.TERMINATED,
        (_S.READY, _E.END): _S.TERMINATED,
        (_S.UNRESPONSIVE, _E.END): _S.TERMINATED,
    },
)

# (command, state) -> the event that its success is; None: the state stays.
COMMAND_RULES: Final[Mapping[tuple[str, ActivityState], ActivityEvent | None]] = {
    ("deploy", _S.INITIALIZED): _E.DEPLOY,
    ("start", _S.DEPLOYED): _E.START,
    ("run", _S.READY): None,
    ("transfer", _S.DEPLOYED): None,
    ("transfer", _S.READY): None,
    ("terminate", _S.INITIALIZED): _E.RESET,
    ("terminate", _S.DEPLOYED): _E.RESET,
    ("terminate", _S.READY): _E.RESET,
}


def rule_of(command: Command, state: ActivityState) -> ActivityEvent | None:
    """The event of ``command``'s success in ``state``. Raises ImpossibleEventError when it is not its turn."""
    try:
        return COMMAND_RULES[command.kind, state]
    except KeyError:
        raise ImpossibleEventError("activity", state, f"command {command.kind!r}") from None


class BatchState(StrEnum):
    QUEUED = "Queued"
    RUNNING = "Running"
    DONE = "Done"
    FAILED = "Failed"


class BatchEvent(StrEnum):
    BEGIN = "begin"
    FINISH = "finish"
    FAIL = "fail"


BATCH: Final = Machine(
    "batch",
    BatchState.QUEUED,
    {
        (BatchState.QUEUED, BatchEvent.BEGIN): BatchState.RUNNING,
        (BatchState.QUEUED, BatchEvent.FAIL): BatchState.FAILED,
        (BatchState.RUNNING, BatchEvent.FINISH): BatchState.DONE,
        (BatchState.RUNNING, BatchEvent.FAIL): BatchState.FAILED,
    },
)


class EventKind(StrEnum):
    STARTED = "started"
    STDOUT = "stdout"
    STDERR = "stderr"
    PROGRESS = "progress"
    FINISHED = "finished"


@dataclass(frozen=True)
class Progress:
    message: str
    done: int
    total: int | None
    unit: str


RETURN_CODE_FAILED: Final = -1  # of commands that are not processes, and of processes that never were


@dataclass(frozen=True)
class RuntimeEvent:
    """One thing that happened in a batch; ``index`` is the command's, ``at`` seconds since the epoch (provider's)."""

    index: int
    at: float
    kind: EventKind
    data: bytes = b""  # stdout, stderr
    return_code: int = 0  # finished
    message: str | None = None  # finished
    progress: Progress | None = None
    receipt: Receipt | None = None  # finished, of a deterministic run

    @property
    def size_bytes(self) -> int:
        """What it costs to keep; the constant stands for the object itself."""
        proof_bytes = self.receipt.size_bytes if self.receipt else 0
        return len(self.data) + len(self.message or "") + proof_bytes + 200


@dataclass(frozen=True)
class CommandResult:
    """One element of a batch's poll result. Captured binary output is bytes, text is str."""

    index: int
    at: float
    ok: bool
    stdout: str | bytes | None
    stderr: str | bytes | None
    message: str | None
    is_batch_finished: bool
    receipt: Receipt | None = None


class CaptureBuffer:
    """Collects one stream of one command as its capture asks. Never holds more than MAX_CAPTURE_BYTES (twice)."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        limit = limits.MAX_CAPTURE_BYTES if capture.limit_bytes is None else capture.limit_bytes
        limit = min(limit, limits.MAX_CAPTURE_BYTES)
        self._head_bytes = {CapturePart.HEAD: limit, CapturePart.TAIL: 0, CapturePart.HEAD_TAIL: (limit + 1) // 2}[
            capture.part
        ]
        self._tail_bytes = limit - self._head_bytes
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, data: bytes) -> None:
        room = self._head_bytes - len(self._head)
        self._head += data[:room]
        if self._tail_bytes:
            self._tail += data[room:]
            del self._tail[: max(0, len(self._tail) - self._tail_bytes)]

    def value(self) -> str | bytes:
        data = bytes(self._head + self._tail)
        if self._capture.base64:
            return b64encode(data).decode()
        return data if self._capture.binary else data.decode("utf-8", "replace")


class Results:
    """Poll results of one batch, built from its events in order."""

    def __init__(self, commands: Sequence[Command]) -> None:
        self._commands = commands
        self._done: list[CommandResult] = []
        self._out: CaptureBuffer | None = None
        self._err: CaptureBuffer | None = None
        self.finished = False

    @property
    def done(self) -> Sequence[CommandResult]:
        return tuple(self._done)

    @property
    def next_index(self) -> int:
        """The command that is running or waits."""
        return len(self._done)

    def add(self, event: RuntimeEvent) -> None:
        """Events of other commands than the current one are ignored: a peer's mistake must not shift results."""
        if self.finished or event.index != len(self._done):
            return
        match event.kind:
            case EventKind.STARTED:
                command = self._commands[event.index]
                run = command if isinstance(command, Run) else Run()
                self._out = CaptureBuffer(run.stdout) if run.stdout else None
                self._err = CaptureBuffer(run.stderr) if run.stderr else None
            case EventKind.STDOUT if self._out is not None:
                self._out.add(event.data)
            case EventKind.STDERR if self._err is not None:
                self._err.add(event.data)
            case EventKind.FINISHED:
                ok = event.return_code == 0
                self.finished = not ok or event.index == len(self._commands) - 1
                self._done.append(
                    CommandResult(
                        event.index,
                        event.at,
                        ok,
                        self._out.value() if self._out else None,
                        self._err.value() if self._err else None,
                        event.message,
                        self.finished,
                        event.receipt,
                    )
                )
                self._out = self._err = None
            case _:
                pass


class TextDecoder:
    """Chunks of UTF-8 to text without tearing characters that span two chunks."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes, *, final: bool = False) -> str:
        return self._decoder.decode(data, final)


def failure_message(return_code: int, explanation: str = "") -> str:
    """The text that clients know for a process that failed, plus ours."""
    text = f"ExeScript command exited with code {return_code}"
    return f"{text}: {explanation}" if explanation else text
