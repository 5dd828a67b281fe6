"""The app on a socket: Hypercorn's trio worker."""

from __future__ import annotations

import os
import socket

import trio
from fastapi import FastAPI
from hypercorn.config import Config
from hypercorn.trio import serve

from golemp2p import limits
from golemp2p.api import sockets


async def serve_rest(
    app: FastAPI, listener: socket.socket, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Until cancelled. ``listener`` is bound and listening; it stays the caller's to close."""
    config = Config()
    writes = sockets.prepare(config)
    config.bind = [f"fd://{os.dup(listener.fileno())}"]  # hypercorn closes the one that it is given
    config.graceful_timeout = limits.REST_SHUTDOWN_GRACE_S
    config.keep_alive_timeout = limits.REST_KEEP_ALIVE_S
    config.websocket_ping_interval = limits.WS_PING_S
    config.accesslog = None
    config.errorlog = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writes.end_with_server)
        await serve(app, config, shutdown_trigger=trio.sleep_forever, task_status=task_status)  # type: ignore[arg-type] # FastAPI is an ASGI app; hypercorn's alias is narrower
        nursery.cancel_scope.cancel()
