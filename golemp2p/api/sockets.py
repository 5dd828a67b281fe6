"""WebSockets made fit for files: without compression, and unmasked by C code.

Hypercorn agrees to permessage-deflate whenever a client offers it, and golem-js does; deflating both ways took the
larger part of a file's time. It has no setting, so its handshake is told that nothing was offered. wsproto unmasks in
Python, which was the largest single part of what was left (14 % of the node's time).
"""

from __future__ import annotations

from typing import Any

import wsproto.frame_protocol
from hypercorn.protocol import ws_stream
from websockets import frames as websocket_frames


class _PlainHandshake(ws_stream.Handshake):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.extensions = None


class _Masker:
    """As wsproto's own: a mask that goes on where it stopped."""

    def __init__(self, masking_key: bytes | bytearray) -> None:
        self._key = bytes(masking_key)

    def process(self, data: bytearray) -> bytearray:
        turn = len(data) % 4
        masked = websocket_frames.apply_mask(bytes(data), self._key)  # type: ignore[attr-defined] # in C where it is built
        self._key = self._key[turn:] + self._key[:turn]
        return bytearray(masked)


def prepare() -> None:
    """For all sockets of this process. Idempotent."""
    ws_stream.Handshake = _PlainHandshake  # type: ignore[misc] # the patch
    wsproto.frame_protocol.XorMaskerSimple = _Masker  # type: ignore[misc, assignment] # the patch
