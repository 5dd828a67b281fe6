"""The library's log: through the standard ``logging``, so that the user's program decides what is seen.

Without any configuration warnings go to stderr; ``logging.getLogger("golemp2p.sdk").setLevel("INFO")`` shows more.
"""

from __future__ import annotations

import logging
from typing import cast

import structlog


def get_logger() -> structlog.stdlib.BoundLogger:
    """Events with fields, as everywhere; rendered as ``event name=value``."""
    wrapped = structlog.wrap_logger(
        logging.getLogger("golemp2p.sdk"),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return cast(structlog.stdlib.BoundLogger, wrapped)
