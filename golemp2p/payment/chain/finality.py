"""Which blocks are final: deep enough, and behind the chain's own tag where the network has a useful one.

Polygon's tag stood still for hours in September 2025, and was wrong before that: it is believed only together with a
depth, and when it does not move, a far greater depth does without it (research: settlement.md, section 8).
"""

from __future__ import annotations

from typing import Any, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.payment.chain.parse import parse_block
from golemp2p.payment.chain.pool import EndpointPool
from golemp2p.payment.networks import PaymentNetwork

log = structlog.get_logger(__name__)
_FINALIZED: Final = ("eth_getBlockByNumber", ("finalized", False))

NO_TAG: Final = -1


def _number(answer: Any, host: str) -> int:
    return NO_TAG if answer is None else parse_block(answer, host).number


class Finality:
    def __init__(self, network: PaymentNetwork, pool: EndpointPool) -> None:
        self._network = network
        self._pool = pool
        self._tag: int | None = None
        self._tag_moved_at = 0.0
        self._stalled = False
        self._cached: tuple[float, int] | None = None

    async def block(self, *, at_least: int = -1) -> int:
        """The newest block that counts as final; -1 when none does. By as many endpoints as must agree.

        An answer serves all who ask within half a poll, unless it is below ``at_least``, which may be final by now.
        """
        now = trio.current_time()
        fresh = self._cached is not None and now - self._cached[0] < self._network.poll_s / 2
        if fresh and self._cached is not None and self._cached[1] >= at_least:
            return self._cached[1]
        network = self._network
        head = await self._pool.agreed_head(at_least=at_least + max(1, network.confirmations) - 1)
        final = head - max(1, network.confirmations) + 1
        if network.finality == "finalized":
            tag = await self._finalized()
            if self._moved(tag, now):
                final = min(final, tag)
            else:
                final = max(min(final, tag), head - network.deep_confirmations + 1)
        final = max(-1, final)
        self._cached = (now, final)
        return final

    async def _finalized(self) -> int:
        """NO_TAG: endpoints know no such tag, or no such block yet, which is as one that stands still."""
        return min(await self._pool.sample(*_FINALIZED, _number, refused=NO_TAG))

    def _moved(self, tag: int, now: float) -> bool:
        """Whether the tag is alive. Seen twice, with CHAIN_FINALITY_STALL_S between, at the same place it is not."""
        if self._tag is None or tag > self._tag:
            self._tag, self._tag_moved_at = tag, now
        stalled = now - self._tag_moved_at > limits.CHAIN_FINALITY_STALL_S
        if stalled and not self._stalled:
            log.warning("chain_finality_stalled", network=self._network.name, finalized=tag)
        self._stalled = stalled
        return not stalled
