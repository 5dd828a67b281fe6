"""Peers that break the rules on the wire: forged, replayed and garbled records. Bad agents are elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgpack
import trio

from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.errors import GolemError
from golemp2p.market.sync import topic_of
from golemp2p.wire.p2p.market import GossipBody, RecordBody

if TYPE_CHECKING:
    from golemp2p.sim.node import SimNode
    from golemp2p.sim.world import World

KINDS: Final = ("forged", "replayed", "garbled", "foreign-id", "pushed")


def _encode(records: Sequence[MarketRecord]) -> bytes:
    packed: bytes = msgpack.packb(GossipBody(records=[RecordBody.of(r) for r in records]).to_wire())
    return packed


async def misbehave(world: World, node: SimNode, per_minute: float, until_s: float) -> None:
    """One bad message after the other, about what the node has heard of."""
    draw = world.hub.random
    old: list[MarketRecord] = []
    while trio.current_time() < until_s:
        await trio.sleep(60.0 / max(per_minute, 0.001) * draw.uniform(0.5, 1.5))
        market, network = node.market, node.network
        if market is None or network is None:
            continue
        known = list(market.book.live(RecordKind.OFFER, node.clock()))
        if not known:
            continue
        victim = known[draw.randrange(len(known))]
        old.append(victim)
        del old[:-50]
        kind = KINDS[draw.randrange(len(KINDS))]
        topic = topic_of(world.domain.network, world.subnet)
        world.log.add(node.index, "bad", kind)
        with suppress(GolemError):
            match kind:
                case "forged":  # another price, a higher sequence, the old signature
                    await network.publish(topic, _encode([replace(victim, sequence=victim.sequence + 1)]))
                case "replayed":  # what was true once
                    await network.publish(topic, _encode([old[0]]))
                case "garbled":
                    await network.publish(topic, draw.randbytes(200))
                case "foreign-id":  # signed by itself, under an id of somebody else
                    ours = replace(victim, issuer=node.key.peer_id, sequence=victim.sequence + 1, signature=b"")
                    signed = replace(ours, signature=node.key.sign(ours.digest(world.domain)))
                    await network.publish(topic, _encode([signed]))
                case _:
                    if peers := list(network.connections):
                        forged = [replace(victim, expires_at=victim.expires_at + 60.0)]
                        await market.sync.push(peers[draw.randrange(len(peers))], forged)
