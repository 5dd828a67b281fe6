"""Finding offers by the DHT where a subnet has too many to gossip them all (protocols/market.md, "Rendezvous").

A provider announces itself under the key of its offer's subnet, runtime and shard; a requestor with a demand asks the
DHT for the providers of one shard after the other, in a random order, and each of them for its own offers, until it
has enough. So an offer costs its provider some messages in an hour however many there are, and a demand costs what it
needs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.core.constraints import And, Compare, Expression, parse
from golemp2p.core.ids import PeerId, SubscriptionId
from golemp2p.core.records import RecordKind
from golemp2p.errors import GolemError, RemoteProtocolError
from golemp2p.market.comparing import records_body
from golemp2p.market.subscriptions import Subscription, Subscriptions
from golemp2p.market.sync import RecordSync
from golemp2p.net.port import Network
from golemp2p.net.rpc import Rpc
from golemp2p.wire.p2p.market import PROTOCOL, OffersBody, RecordBody, RecordsBody

log = structlog.get_logger("golemp2p.market.rendezvous")
RUNTIME: Final = "golem.runtime.name"
ESTIMATE_SHARDS: Final = 2
ESTIMATE_LIMIT: Final = 64  # providers of one shard: twice what is many
SOME: Final = 4  # a part of RENDEZVOUS_ABOVE_OFFERS; half, from where all gossip again, with room for a wrong estimate
RUNTIMES: Final = ("vm", "wasmtime")  # asked for when a demand names none


class Spread(StrEnum):
    """How the offers of a subnet reach its requestors."""

    AUTO = "auto"  # gossip, and the DHT when there are many
    GOSSIP = "gossip"
    RENDEZVOUS = "rendezvous"


def shard_of(name: str) -> int:
    """Of a PeerId: so that a provider's offers are together."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") % limits.RENDEZVOUS_SHARDS


def key_of(subnet: str, runtime: str, shard: int) -> str:
    """Under which a provider announces itself in the DHT; the adapter adds the network's name."""
    return f"offers/{subnet}/{runtime}/{shard}"


def runtimes_of(constraints: str) -> tuple[str, ...]:
    """The runtimes that a demand may want: those that its constraints name in a conjunction, else the usual ones."""
    named = [part.value for part in _conjunction(parse(constraints)) if isinstance(part, Compare) and _names_one(part)]
    return tuple(dict.fromkeys(named)) or RUNTIMES


def _conjunction(expression: Expression) -> Iterator[Expression]:
    if isinstance(expression, And):
        for part in expression.parts:
            yield from _conjunction(part)
    else:
        yield expression


def _names_one(part: Compare) -> bool:
    return part.op == "=" and part.ref.name == RUNTIME and "*" not in part.value


class Rendezvous:
    def __init__(
        self,
        spread: Spread,
        subscriptions: Subscriptions,
        sync: RecordSync,
        network: Network,
        rpc: Rpc,
        me: PeerId,
        *,
        known: Callable[[], int],
        matched: Callable[[SubscriptionId], int],
    ) -> None:
        """``known()``: offers in the book; ``matched(demand)``: offers that were proposed for it."""
        self._spread = spread
        self._subscriptions = subscriptions
        self._sync = sync
        self._network = network
        self._rpc = rpc
        self._me = me
        self._known = known
        self._matched = matched
        self._many = False  # offers: AUTO has switched to the DHT
        self._some = False  # so many that others may still have switched: they do not gossip
        self._changed = trio.Event()
        self._asked: dict[SubscriptionId, set[tuple[str, int]]] = {}  # demand -> (runtime, shard) that were asked
        self._limiter = trio.CapacityLimiter(limits.RENDEZVOUS_ASKED_AT_ONCE)

    @property
    def active(self) -> bool:
        """Whether offers and demands go by the DHT now instead of by gossip."""
        return self._spread is Spread.RENDEZVOUS or (self._spread is Spread.AUTO and self._many)

    @property
    def searching(self) -> bool:
        """Whether demands go by the DHT, beside gossip or instead of it."""
        return self.active or (self._spread is Spread.AUTO and self._some)

    def heard(self) -> None:
        """An offer is new in the book."""
        if not self._many and self._known() > limits.RENDEZVOUS_ABOVE_OFFERS:
            self._decide(self._known())

    def _decide(self, offers: int) -> None:
        """With how many offers there are by what is known; back only below half, so that it does not flap."""
        if not self._some and offers > limits.RENDEZVOUS_ABOVE_OFFERS / SOME:
            self._some = True
            self.wake()
        elif offers <= limits.RENDEZVOUS_ABOVE_OFFERS / SOME:
            self._some = False
        if self._many != (many := offers > limits.RENDEZVOUS_ABOVE_OFFERS / (2 if self._many else 1)):
            self._many = many
            log.info("rendezvous_begins" if many else "rendezvous_ends", offers=offers)

    def wake(self) -> None:
        """An own offer or demand is new."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def on_offers(self, _peer: PeerId, raw: dict[str, Any]) -> object:
        asked = OffersBody.model_validate(raw)
        own = [
            subscription.record
            for subscription in self._subscriptions.all(RecordKind.OFFER)
            if subscription.record.subnet == asked.subnet
            and subscription.record.properties.get(RUNTIME) == asked.runtime
        ][: limits.RENDEZVOUS_OFFERS]
        return RecordsBody(records=[RecordBody.of(record) for record in own]).to_wire()

    async def run(self) -> None:
        if self._spread is Spread.GOSSIP:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announce)
            nursery.start_soon(self._search)
            if self._spread is Spread.AUTO:
                nursery.start_soon(self._estimate)

    async def _announce(self) -> None:
        """Own offers, now and again, and at once when one is new."""
        announced: dict[str, float] = {}  # key -> when
        while True:
            now = trio.current_time()
            wanted = {
                key_of(s.record.subnet, str(s.record.properties.get(RUNTIME, "")), shard_of(self._me))
                for s in self._subscriptions.all(RecordKind.OFFER)
            }
            announced = {key: at for key, at in announced.items() if key in wanted}
            for key in sorted(wanted):
                if now - announced.get(key, -float("inf")) < limits.RENDEZVOUS_PROVIDE_S:
                    continue
                try:
                    await self._network.provide(key)
                except GolemError as exc:
                    log.debug("rendezvous_not_announced", key=key, error=exc.message)
                else:
                    announced[key] = now
            await self._pause(limits.RENDEZVOUS_AGAIN_S)

    async def _estimate(self) -> None:
        """How many offers there are, by the providers of two random shards; at the first own offer or demand."""
        while True:
            own = [s.record for kind in RecordKind for s in self._subscriptions.all(kind)]
            if not own:
                await self._changed.wait()
                continue
            names = [str(r.properties.get(RUNTIME, "")) if r.kind is RecordKind.OFFER else "" for r in own[:1]]
            runtime = names[0] or runtimes_of(own[0].constraints)[0]
            shards = random.sample(range(limits.RENDEZVOUS_SHARDS), ESTIMATE_SHARDS)
            try:
                found = [await self._find(own[0].subnet, runtime, shard, ESTIMATE_LIMIT) for shard in shards]
            except GolemError as exc:
                log.debug("rendezvous_not_estimated", error=exc.message)
            else:
                mean = sum(map(len, found)) / ESTIMATE_SHARDS
                self._decide(max(round(mean * limits.RENDEZVOUS_SHARDS), self._known()))
            await trio.sleep(limits.RENDEZVOUS_PROVIDE_S * random.uniform(0.8, 1.2))  # noqa: S311 - only spreads load

    async def _pause(self, at_most_s: float) -> None:
        with trio.move_on_after(at_most_s * random.uniform(0.8, 1.2)):  # noqa: S311 - only spreads load
            await self._changed.wait()

    async def _search(self) -> None:
        """For each own demand, while there may be offers that only the DHT knows."""
        while True:
            demands = self._subscriptions.all(RecordKind.DEMAND)
            self._asked = {d.id: self._asked.get(d.id, set()) for d in demands}
            if self.searching:
                for demand in demands:
                    await self._search_for(demand)
            await self._pause(limits.RENDEZVOUS_AGAIN_S)

    async def _search_for(self, demand: Subscription) -> None:
        asked = self._asked[demand.id]
        places = [
            (runtime, shard)
            for runtime in runtimes_of(demand.record.constraints)
            for shard in range(limits.RENDEZVOUS_SHARDS)
            if (runtime, shard) not in asked
        ]
        random.shuffle(places)
        if not places:
            asked.clear()  # all over again next time: offers come and go
        for runtime, shard in places:
            if self._matched(demand.id) >= limits.RENDEZVOUS_ENOUGH or self._subscriptions.find(demand.id) is None:
                break
            asked.add((runtime, shard))
            await self._ask_shard(demand.record.subnet, runtime, shard)

    async def _find(self, subnet: str, runtime: str, shard: int, limit: int) -> list[PeerId]:
        """Providers that belong into that shard: else a few in all shards would look like a large network. Raises
        NetworkError."""
        found = await self._network.find_providers(key_of(subnet, runtime, shard), limit=limit)
        return [peer for peer in found if shard_of(peer) == shard]

    async def _ask_shard(self, subnet: str, runtime: str, shard: int) -> None:
        try:
            providers = await self._find(subnet, runtime, shard, limits.RENDEZVOUS_FIND_LIMIT)
        except GolemError as exc:
            log.debug("rendezvous_not_found", shard=shard, error=exc.message)
            return
        async with trio.open_nursery() as nursery:
            for peer in providers:
                if peer != self._me:
                    nursery.start_soon(self._ask, peer, subnet, runtime)

    async def _ask(self, peer: PeerId, subnet: str, runtime: str) -> None:
        async with self._limiter:
            body = OffersBody(subnet=subnet, runtime=runtime).to_wire()
            try:
                answer = await self._rpc.call(peer, PROTOCOL, "offers", body, timeout_s=limits.MARKET_RPC_TIMEOUT_S)
                for entry in records_body(answer).records[: limits.RENDEZVOUS_OFFERS]:
                    record = entry.record()
                    if record.issuer != peer or record.kind is not RecordKind.OFFER:
                        raise RemoteProtocolError(f"{peer} answers with records that are not its offers")
                    self._sync.take(record)
            except GolemError as exc:
                log.debug("rendezvous_refused", peer=peer, error=exc.message)
