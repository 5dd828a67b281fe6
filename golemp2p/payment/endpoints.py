"""How the RPC endpoints of a network are, for people. Apart from payment.chain, which loads web3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class EndpointStatus:
    """``problem`` is "" when all is well; ``head`` and ``latency_ms`` are 0 before the first answer."""

    host: str
    healthy: bool
    problem: str
    latency_ms: float
    head: int


@runtime_checkable
class HasEndpoints(Protocol):
    """A chain driver that has some. From memory: it asks nobody."""

    def endpoints(self) -> list[EndpointStatus]: ...
