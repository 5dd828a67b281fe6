"""The one place where a simulation takes chance away from the process: same seed, same run.

What is replaced, for the time of the context: the random source of ids and nonces (``secrets``, ``uuid4``), the global
``random``, trio's shuffled run queue, and worker threads (their work runs in place: virtual time must not run on while
a thread works). What is left is the order of sets of strings: PYTHONHASHSEED, see :func:`is_repeatable`.
"""

from __future__ import annotations

import os
import random
import secrets
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
from trio._core import _run as scheduler

T = TypeVar("T")


def is_repeatable() -> bool:
    """Whether the process was started so that sets of strings have one order in every run."""
    return os.environ.get("PYTHONHASHSEED") == "0"


async def _in_place(
    sync_fn: Callable[..., T], *args: Any, limiter: object = None, abandon_on_cancel: bool = False, **_: object
) -> T:
    """As ``trio.to_thread.run_sync``, in the thread of the loop."""
    await trio.lowlevel.checkpoint()
    return sync_fn(*args)


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    source = random.Random(f"ids {seed}")  # noqa: S311 - not for secrets: keys of a simulation protect nothing

    def token_bytes(nbytes: int | None = None) -> bytes:
        return source.randbytes(32 if nbytes is None else nbytes)

    def uuid4() -> uuid.UUID:
        return uuid.UUID(bytes=source.randbytes(16), version=4)

    places: list[tuple[Any, str, Any]] = [
        (secrets, "token_bytes", token_bytes),  # token_hex and token_urlsafe go through it
        (uuid, "uuid4", uuid4),
        (trio.to_thread, "run_sync", _in_place),
        (scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
    ]
    kept = [(where, name, getattr(where, name)) for where, name, _ in places]
    state, trio_state = random.getstate(), scheduler._r.getstate()
    try:
        for where, name, value in places:
            setattr(where, name, value)
        random.seed(f"services {seed}")
        scheduler._r.seed(f"scheduler {seed}")
        yield
    finally:
        for where, name, value in kept:
            setattr(where, name, value)
        random.setstate(state)
        scheduler._r.setstate(trio_state)
