"""Blocking socket work in a thread that a cancellation wakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def run_blocking(work: Callable[[], T], wake: Callable[[], None], threads: trio.CapacityLimiter) -> T:
    """``work`` in a worker thread, to its end in any case; ``wake`` is called when this is cancelled meanwhile.

    ``wake`` makes ``work`` end soon (it shuts the socket down). Raises what ``work`` raises, unwrapped.
    """
    results, failure, ended = list[T](), None, False

    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not ended:
                wake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        with trio.CancelScope(shield=True):
            try:
                results.append(await trio.to_thread.run_sync(work, limiter=threads))
            except Exception as exc:  # noqa: BLE001 - raised again below, where no nursery wraps it
                failure = exc
        ended = True
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return results[0]
