"""One program's socket: questions go out with ids, answers come back in any order. The socket itself is the API's."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from golemp2p import limits
from golemp2p.errors import DeadlineError, NetworkError, PolicyError, RemoteError
from golemp2p.wire import gsb as wire


class ChannelClosedError(NetworkError):
    """``sent``: whether the question may have reached the program."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


@dataclass
class _Question:
    answered: trio.Event = field(default_factory=trio.Event)
    answer: wire.Answer | None = None


class Channel:
    """Whoever owns the socket writes :meth:`frames`, hands what comes to :meth:`take` and ends with :meth:`close`."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[bytes](limits.GSB_QUEUE)
        self._waiting: dict[str, _Question] = {}
        self._closed_why: str | None = None
        self.by_policy = False

    @property
    def closed_why(self) -> str:
        return self._closed_why or ""

    async def ask(self, component: str, payload: Mapping[str, Any], *, on: str = "") -> wire.Value:
        """The program's answer. Raises RemoteError (its error), ChannelClosedError, DeadlineError, PolicyError."""
        if self._closed_why is not None:
            raise ChannelClosedError(self._closed_why, sent=False)
        if len(self._waiting) >= limits.GSB_MAX_WAITING:
            raise PolicyError(f"a program leaves {len(self._waiting)} questions unanswered")
        request_id, question = str(uuid.uuid4()), _Question()
        self._waiting[request_id] = question
        sent = False
        try:
            with trio.fail_after(limits.GSB_ANSWER_S):
                await self._send.send(wire.request(request_id, component, payload, on=on))
                sent = True
                await question.answered.wait()
        except trio.TooSlowError:
            raise DeadlineError(
                f"the program that serves the file did not answer {component} within {limits.GSB_ANSWER_S:.0f} s"
            ) from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # closed while we waited for room
        finally:
            self._waiting.pop(request_id, None)
        if question.answer is None:
            raise ChannelClosedError(self._closed_why or "the program's socket was closed", sent=sent)
        if question.answer.error:
            raise RemoteError(f"the program that serves the file says: {question.answer.error}", code="gsb")
        return question.answer.payload

    def take(self, answer: wire.Answer) -> None:
        """An answer to nothing, perhaps to a question that was given up, is dropped."""
        question = self._waiting.get(answer.id)
        if question is not None:
            question.answer = answer
            question.answered.set()

    def post(self, frame: bytes) -> None:
        """A frame that is no question. Raises PolicyError when the program reads too slowly."""
        try:
            self._send.send_nowait(frame)
        except trio.WouldBlock:
            raise PolicyError("a program does not read what it is sent") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ChannelClosedError(self.closed_why, sent=False) from None

    @property
    def frames(self) -> trio.MemoryReceiveChannel[bytes]:
        """What is to be written to the socket; ends with :meth:`close`."""
        return self._receive

    def close(self, why: str, *, policy: bool = False) -> None:
        """Idempotent. All who wait for an answer get ``why``. ``policy``: the program is to blame or was replaced."""
        if self._closed_why is not None:
            return
        self._closed_why, self.by_policy = why, policy
        self._send.close()
        for question in self._waiting.values():
            question.answered.set()
