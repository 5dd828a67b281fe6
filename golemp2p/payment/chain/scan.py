"""Events of many blocks, in pieces that endpoints take: paid ones allow 10,000 blocks, some free ones only five."""

from __future__ import annotations

from collections.abc import Sequence

from golemp2p import limits
from golemp2p.core.ids import Address
from golemp2p.errors import NetworkError
from golemp2p.payment.chain.errors import DisagreementError, RpcAnswerError
from golemp2p.payment.chain.parse import parse_logs
from golemp2p.payment.chain.pool import EndpointPool
from golemp2p.payment.chain.votes import Reverted
from golemp2p.payment.drivers.base import Log


class LogScan:
    """Remembers the size of a piece that was taken last."""

    def __init__(self, pool: EndpointPool) -> None:
        self._pool = pool
        self._blocks = limits.LOG_SCAN_BLOCKS

    async def logs(
        self, address: Address, topics: Sequence[str | None], *, first: int, last: int, final: int
    ) -> list[Log]:
        """Blocks ``first`` to ``last``. What is behind block ``final`` is borne out by as many endpoints as must
        agree; near the head they differ honestly, and the best one is believed."""
        found: list[Log] = []
        while first <= last:
            end = min(last, first + self._blocks - 1)
            if first <= final < end:
                end = final
            try:
                piece = await self._piece(address, topics, first, end, agreed=end <= final)
            except DisagreementError:
                raise
            except NetworkError:
                if self._blocks == 1 or end == first:
                    raise
                self._blocks = max(1, min(self._blocks, end - first + 1) // 2)
                continue
            for log in piece:
                # An endpoint that answers for other blocks or contracts has not understood, or lies.
                if log.address != address or not first <= log.block_number <= end:
                    raise NetworkError(f"an endpoint answers with events of {log.address}, block {log.block_number}")
            found += piece
            first = end + 1
        return found

    async def _piece(
        self, address: Address, topics: Sequence[str | None], first: int, last: int, *, agreed: bool
    ) -> Sequence[Log]:
        filtered: dict[str, object] = {"address": address, "fromBlock": hex(first), "toBlock": hex(last)}
        if topics:
            filtered["topics"] = list(topics)
        if not agreed:
            return await self._pool.read("eth_getLogs", [filtered], parse_logs)
        answer = await self._pool.agree("eth_getLogs", [filtered], parse_logs)
        if isinstance(answer, Reverted):
            raise RpcAnswerError(answer.error.message, text=answer.error.text)
        return answer
