"""WebSockets without compression: what goes over them is loopback traffic of files and tunnels.

Hypercorn agrees to permessage-deflate whenever a client offers it, and golem-js does; deflating both ways took the
larger part of a file's time. It has no setting, so its handshake is told that nothing was offered.
"""

from __future__ import annotations

from typing import Any

from hypercorn.protocol import ws_stream


class _PlainHandshake(ws_stream.Handshake):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.extensions = None


def without_compression() -> None:
    """For all sockets of this process. Idempotent."""
    ws_stream.Handshake = _PlainHandshake  # type: ignore[misc] # the patch
