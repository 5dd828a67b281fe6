"""What a runtime needs of whoever lets a payload reach the outside (golemp2p.vpn.outbound)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

import trio


class OutboundPort(Protocol):
    """Connections of the payload to ``routes`` on ``ports`` come here one by one, as do its questions of DNS."""

    @property
    def ports(self) -> Sequence[int]: ...

    @property
    def routes(self) -> Sequence[IPv4Network]: ...

    @property
    def resolver(self) -> IPv4Address:
        """The name server that the payload is told of."""
        ...

    async def dial(self, address: IPv4Address, port: int) -> trio.abc.HalfCloseableStream:
        """Raises PolicyError, NetworkError."""
        ...

    def answer(self, query: bytes) -> bytes | None:
        """Of DNS; None: say nothing."""
        ...
