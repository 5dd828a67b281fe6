"""What the commands share that run until they are told to stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from golemp2p.cli.common import ExitCode

if TYPE_CHECKING:
    import trio


async def until_signal(body: Callable[[trio.Nursery, trio.Event], Awaitable[None]]) -> int:
    """Run ``body(nursery, stop)``, which waits for ``stop``; SIGTERM and Ctrl-C set it and cancel the nursery.

    The exit code: 0 after SIGTERM, INTERRUPTED after Ctrl-C.
    """
    import signal

    import trio

    code = int(ExitCode.OK)
    stop = trio.Event()
    # Both signals end the node in its own order; a KeyboardInterrupt would come out wherever it happened to be.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                nonlocal code
                async for number in signals:
                    code = int(ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.OK)
                    stop.set()
                    nursery.cancel_scope.cancel()  # also while the node is still starting

            nursery.start_soon(stop_on_signal)
            await body(nursery, stop)
    return code
