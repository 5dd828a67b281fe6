"""The sending half of a put: the file goes out while it is hashed, and the peer may say no before it has all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import trio

from golemp2p import limits
from golemp2p.errors import DeadlineError, GolemError, NetworkError
from golemp2p.net.datawire import Progress, Wire
from golemp2p.storage.content import hash_file

_LAST_WORD_S: Final = 1.0


async def send_and_hash(wire: Wire, source: Path, offset: int, on_progress: Progress | None) -> tuple[str, list[Any]]:
    """Send the file while it is hashed; its sha3-256 and the peer's last answer.

    A peer that gives up says why before it has all, and reads no more.
    """
    digest, answer = "", list[Any]()
    failure: GolemError | None = None

    async def hash_it() -> None:
        nonlocal digest
        digest = (await trio.to_thread.run_sync(hash_file, source, ("sha3-256",), abandon_on_cancel=True))["sha3-256"]

    async def listen() -> None:
        nonlocal answer, failure
        try:
            answer = await wire.answer(patient=True)
        except GolemError as exc:
            failure = exc
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hash_it)
        nursery.start_soon(listen)
        try:
            await wire.send_file(source, offset, on_progress)
            nursery.cancel_scope.deadline = trio.current_time() + limits.DATA_LAST_ANSWER_S
        except NetworkError as exc:
            with trio.move_on_after(_LAST_WORD_S):  # it may have said why before it closed
                await trio.sleep_forever()
            failure = failure or exc
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if nursery.cancel_scope.cancelled_caught:
        raise DeadlineError(f"{wire.stream.peer} did not confirm the file within {limits.DATA_LAST_ANSWER_S:.0f} s")
    return digest, answer
