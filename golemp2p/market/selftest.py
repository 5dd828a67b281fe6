"""Do others see my offers? Two peers are asked whether they hold them (`holds` of /golemp2p/market/1)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

import structlog
import trio
from pydantic import Field, ValidationError

from golemp2p import limits
from golemp2p.core.ids import PeerId, SubscriptionId
from golemp2p.core.records import RecordKind
from golemp2p.errors import GolemError, RemoteProtocolError
from golemp2p.market.book import OrderBook
from golemp2p.net.port import Network
from golemp2p.net.rpc import Rpc
from golemp2p.wire.p2p.market import PROTOCOL, Body, Id

log = structlog.get_logger("golemp2p.market.selftest")
METHOD: Final = "holds"


class HoldsBody(Body):
    """Request: ids that are asked after; answer: those of them that are held, live."""

    ids: Annotated[list[Id], Field(max_length=limits.MAX_RECORDS_PER_ISSUER)]


@dataclass(frozen=True)
class Asked:
    """What one peer said: how many of our offers it holds, or why nothing is known."""

    peer: PeerId
    held: int
    problem: str = ""


@dataclass(frozen=True)
class SelfTestResult:
    offers: int
    asked: tuple[Asked, ...]

    @property
    def seen(self) -> bool:
        """Whether everybody who could say holds all of our offers; False when nobody could."""
        said = [one for one in self.asked if not one.problem]
        return bool(said) and all(one.held == self.offers for one in said)


class SelfTest:
    def __init__(self, book: OrderBook, me: PeerId, network: Network, rpc: Rpc, clock: Callable[[], float]) -> None:
        self._book, self._me, self._network, self._rpc, self._clock = book, me, network, rpc, clock

    async def on_holds(self, _peer: PeerId, raw: dict[str, Any]) -> object:
        asked = HoldsBody.model_validate(raw).ids
        now = self._clock()
        return HoldsBody(ids=[one for one in asked if self._book.get(SubscriptionId(one), now) is not None]).to_wire()

    async def run(self, *, peers: int = limits.SELFTEST_PEERS) -> SelfTestResult:
        """Ask ``peers`` connected peers, others when some cannot say."""
        offers = [r.id for r in self._book.live(RecordKind.OFFER, self._clock()) if r.issuer == self._me]
        known = [info.peer for info in self._network.peers() if info.connected]
        random.shuffle(known)
        asked: list[Asked] = []
        with trio.move_on_after(limits.SELFTEST_TIMEOUT_S):
            for peer in known[: limits.SELFTEST_TRIED]:
                if sum(not one.problem for one in asked) >= peers:
                    break
                asked.append(await self._ask(peer, offers))
        return SelfTestResult(len(offers), tuple(asked))

    async def _ask(self, peer: PeerId, offers: list[SubscriptionId]) -> Asked:
        body = HoldsBody(ids=offers[: limits.MAX_RECORDS_PER_ISSUER]).to_wire()
        try:
            answer = await self._rpc.call(peer, PROTOCOL, METHOD, body, timeout_s=limits.MARKET_RPC_TIMEOUT_S)
            held = HoldsBody.model_validate(answer).ids
        except ValidationError as exc:
            error = RemoteProtocolError(f"malformed answer: {exc.errors()[0]['msg']}")
            return Asked(peer, 0, str(error))
        except GolemError as exc:
            return Asked(peer, 0, exc.message)
        return Asked(peer, len(set(held) & set(offers)))
