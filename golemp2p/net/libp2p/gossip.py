"""GossipSub with the settings that were measured, a rate limit per origin, and queues that do not drop in silence."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

import structlog
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import UsageError
from golemp2p.net.port import GossipHandler, GossipMessage, GossipValidator, Verdict
from golemp2p.net.ratelimit import RateLimit

log = structlog.get_logger(__name__)
# Not 1.2: its IDONTWANT, sent to all neighbours for every message, is half of all frames and saves less than it costs
# with messages of a few KB.
PROTOCOLS = [TProtocol("/meshsub/1.1.0")]


def make_pubsub(host: Any) -> tuple[Any, Any]:
    """(pubsub, router) for ``host``. libp2p's defaults (120 s heartbeat, 10 messages/s per forwarder) are unusable."""
    router = GossipSub(
        protocols=PROTOCOLS,
        degree=6,
        degree_low=4,
        degree_high=12,
        gossip_history=5,
        heartbeat_interval=1,
        max_messages_per_topic_per_second=500,
        adaptive_gossip_enabled=False,
        eclipse_protection_enabled=False,
    )
    pubsub = Pubsub(host, router, strict_signing=True, max_inbound_rpc_size=limits.GOSSIP_RPC_MAX_BYTES)
    return pubsub, router


class Judge(Protocol):
    def blame(self, peer: PeerId) -> None: ...

    def graylisted(self, peer: PeerId) -> bool: ...


class Gossip:
    """Topics of one node. The forwarder of a message that a validator rejects is blamed."""

    def __init__(self, pubsub: Any, own: PeerId, nursery: trio.Nursery, judge: Judge) -> None:
        self._pubsub = pubsub
        self._own = own
        self._nursery = nursery
        self._judge = judge
        self._rate = RateLimit(limits.GOSSIP_PER_ORIGIN_PER_S, limits.GOSSIP_BURST)
        self._forwarders: OrderedDict[tuple[bytes, bytes], PeerId] = OrderedDict()
        self._undecided = False  # the message that is validated now was not looked at
        remember = pubsub.validation_cache.put

        def put(message_id: bytes, result: Any) -> None:
            """libp2p keeps what became of a message for 300 s, whoever brings it next."""
            if not self._undecided:
                remember(message_id, result)

        pubsub.validation_cache.put = put
        self._publishing = trio.Lock()
        self._next_publish = 0.0
        self.published = self.received = self.dropped = 0

    async def subscribe(self, topic: str, validator: GossipValidator, handler: GossipHandler) -> None:
        def validate(forwarder: ID, message: Any) -> bool:
            if str(forwarder) == self._own:
                return True
            return self._validate(topic, validator, PeerId(str(forwarder)), message)

        self._pubsub.set_topic_validator(topic, validate, is_async_validator=False)
        subscription = await self._pubsub.subscribe(topic)
        self._nursery.start_soon(self._deliver, topic, subscription, handler)

    def _validate(self, topic: str, validator: GossipValidator, forwarder: PeerId, raw: Any) -> bool:
        origin = PeerId(str(ID(raw.from_id)))
        self.received += 1
        # Else one on the graylist could keep others' messages from us by being the first to bring them.
        self._undecided = self._judge.graylisted(forwarder)
        if self._undecided:
            self.dropped += 1
            return False
        if len(raw.data) > limits.GOSSIP_MAX_BYTES or not self._rate.allow(origin, trio.current_time()):
            self.dropped += 1
            log.debug("gossip dropped", topic=topic, origin=origin, size_bytes=len(raw.data))
            return False
        try:
            verdict = validator(GossipMessage(topic, origin, forwarder, raw.data))
        except Exception as exc:  # a validator's mistake must not end the gossip layer
            log.exception("gossip validator failed", topic=topic, error=str(exc))
            verdict = Verdict.IGNORE
        if verdict is Verdict.ACCEPT:
            self._forwarders[raw.from_id, raw.seqno] = forwarder
            if len(self._forwarders) > limits.GOSSIP_QUEUE:
                self._forwarders.popitem(last=False)
            return True
        self.dropped += 1
        if verdict is Verdict.REJECT:
            self._judge.blame(forwarder)
        return False

    async def _deliver(self, topic: str, subscription: Any, handler: GossipHandler) -> None:
        own = ID.from_base58(self._own).to_bytes()
        while True:
            raw = await subscription.get()
            if raw.from_id == own:
                continue
            origin = PeerId(str(ID(raw.from_id)))
            forwarder = self._forwarders.pop((raw.from_id, raw.seqno), origin)
            try:
                await handler(GossipMessage(topic, origin, forwarder, raw.data))
            except Exception as exc:  # one message's failure must not end the subscription
                log.exception("gossip handler failed", topic=topic, error=str(exc))

    async def publish(self, topic: str, data: bytes) -> None:
        if len(data) > limits.GOSSIP_MAX_BYTES:
            raise UsageError(f"a gossip message of {len(data)} bytes", hint=f"at most {limits.GOSSIP_MAX_BYTES}")
        async with self._publishing:
            await trio.sleep_until(self._next_publish)
            await self._pubsub.publish(topic, data)
            self._next_publish = trio.current_time() + limits.GOSSIP_PUBLISH_PACE_S
            self.published += 1
