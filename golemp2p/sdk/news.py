"""One small thing to wait on: something has changed, look again."""

from __future__ import annotations

import anyio


class News:
    """``tell`` wakes all who wait now. Take ``next()`` before looking, or a change in between is missed."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def tell(self) -> None:
        self._event.set()
        self._event = anyio.Event()

    def next(self) -> anyio.Event:
        return self._event
