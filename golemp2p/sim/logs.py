"""What services log in a simulation: errors are problems of the run, all else is not wanted."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final

import structlog

# A crash cuts tasks off; what they say about it is no mistake.
_OF_A_CRASH: Final = frozenset({"activity_not_stored", "activity_end_not_stored"})
MAX_ERRORS: Final = 100


@contextmanager
def service_errors() -> Iterator[list[str]]:
    """The list fills with what is logged as an error."""
    errors: list[str] = []

    def note(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name = str(event.get("event"))
        if name not in _OF_A_CRASH and len(errors) < MAX_ERRORS:
            details = " ".join(f"{key}={value}" for key, value in sorted(event.items()) if key != "event")
            errors.append(f"{name} {details}"[:500])
        raise structlog.DropEvent

    kept = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, note],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        cache_logger_on_first_use=False,
    )
    try:
        yield errors
    finally:
        structlog.configure(**kept)
