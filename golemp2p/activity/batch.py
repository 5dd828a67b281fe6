"""One batch on the provider's side: its commands, its events, and how its output is cut to what is captured."""

from __future__ import annotations

from collections.abc import Callable

import trio

from golemp2p import limits
from golemp2p.activity.log import EventLog
from golemp2p.core.activity import BATCH, RETURN_CODE_FAILED, BatchEvent, BatchState, EventKind, Progress, RuntimeEvent
from golemp2p.core.exescript import Capture, CapturePart, Command, Run
from golemp2p.core.ids import BatchId
from golemp2p.core.receipt import Receipt


class Batch:
    """``now`` stamps the events. The one permanent reader of the log is the requestor, by its acknowledgements."""

    def __init__(self, batch_id: BatchId, commands: tuple[Command, ...], now: Callable[[], float]) -> None:
        self.id = batch_id
        self.commands = commands
        self.state = BATCH.initial
        self.log = EventLog(limits.BATCH_LOG_BYTES)
        self.acknowledged = self.log.reader()
        self.scope = trio.CancelScope()
        self._now = now
        self._index = 0
        self._begun = False

    @property
    def ended(self) -> bool:
        return self.state in BATCH.final

    async def begin_command(self, index: int) -> None:
        if self.state is BatchState.QUEUED:
            self.state = BATCH.next(self.state, BatchEvent.BEGIN)
        self._index, self._begun = index, True
        await self.log.append(RuntimeEvent(index, self._now(), EventKind.STARTED))

    async def finish_command(self, return_code: int, message: str | None, receipt: Receipt | None = None) -> None:
        """The command's end, and the batch's when it failed or was the last one."""
        kind = EventKind.FINISHED
        await self.log.append(
            RuntimeEvent(self._index, self._now(), kind, return_code=return_code, message=message, receipt=receipt)
        )
        self._begun = False
        if return_code != 0:
            self._end(BatchEvent.FAIL)
        elif self._index == len(self.commands) - 1:
            self._end(BatchEvent.FINISH)

    def fail(self, message: str) -> None:
        """End it now, in the middle of whatever it does. No effect on a batch that has ended."""
        if self.ended:
            return
        index = self._index if self._begun or self.state is BatchState.QUEUED else self._index + 1
        if not self._begun:
            self.log.append_now(RuntimeEvent(index, self._now(), EventKind.STARTED))
        self.log.append_now(
            RuntimeEvent(index, self._now(), EventKind.FINISHED, return_code=RETURN_CODE_FAILED, message=message)
        )
        self._end(BatchEvent.FAIL)

    async def progress(self, progress: Progress) -> None:
        await self.log.append(RuntimeEvent(self._index, self._now(), EventKind.PROGRESS, progress=progress))

    def sink(self, command: Run) -> OutputGate:
        return OutputGate(self, command)

    async def output(self, kind: EventKind, data: bytes) -> None:
        for start in range(0, len(data), limits.EVENT_CHUNK_BYTES):
            chunk = data[start : start + limits.EVENT_CHUNK_BYTES]
            await self.log.append(RuntimeEvent(self._index, self._now(), kind, chunk))

    def _end(self, event: BatchEvent) -> None:
        self.state = BATCH.next(self.state, event)
        self.log.close()


class OutputGate:
    """Lets through what the command captures. Uncaptured output is read and dropped, so that the payload never blocks.

    Only the start of a stream counts for ``stream.limit`` and ``atEnd.head``; a tail must be seen whole by the side
    that cuts it, which is the requestor's.
    """

    def __init__(self, batch: Batch, command: Run) -> None:
        self._batch = batch
        self._left = {EventKind.STDOUT: _budget(command.stdout), EventKind.STDERR: _budget(command.stderr)}

    async def __call__(self, stream: str, data: bytes) -> None:
        kind = EventKind(stream)
        left = self._left[kind]
        if left is not None:
            data = data[:left]
            self._left[kind] = left - len(data)
        if data:
            await self._batch.output(kind, data)


def _budget(capture: Capture | None) -> int | None:
    if capture is None:
        return 0
    return capture.limit_bytes if capture.part is CapturePart.HEAD else None
