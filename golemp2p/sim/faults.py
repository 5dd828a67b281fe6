"""What goes wrong in a scenario, when, and how it ends: partitions, churn, crashes, a dead chain, an eclipse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from golemp2p.sim import byzantine
from golemp2p.sim.scenario import FaultPart

if TYPE_CHECKING:
    from golemp2p.sim.node import SimNode
    from golemp2p.sim.world import World


async def run(world: World, fault: FaultPart) -> None:
    await trio.sleep(fault.at_s)
    world.log.add(-1, "fault", fault.kind)
    match fault.kind:
        case "partition":
            await _partition(world, fault)
        case "chain-outage":
            world.chain.down = True
            await trio.sleep(fault.for_s)
            world.chain.down = False
        case "churn":
            await _churn(world, fault)
        case "crash":
            async with trio.open_nursery() as nursery:
                for node in chosen(world, fault):
                    nursery.start_soon(_crash_and_restart, world, node, fault)
        case "eclipse":
            await _eclipse(world, fault)
        case "bad-peers":
            async with trio.open_nursery() as nursery:
                for node in chosen(world, fault):
                    node.role = "bad-peer"
                    nursery.start_soon(byzantine.misbehave, world, node, fault.per_minute, fault.at_s + fault.for_s)
    world.log.add(-1, "fault-over", fault.kind)


def chosen(world: World, fault: FaultPart) -> list[SimNode]:
    """Whom it meets. The bootnodes (the first nodes) are spared where there are others."""
    if isinstance(fault.who, int):
        return [world.nodes[fault.who]]
    role = {"providers": "provider", "requestors": "requestor"}.get(fault.who)
    some = [node for node in world.nodes[3:] or world.nodes if role in (None, node.role)]
    count = fault.count or round(fault.share * len(some))
    return world.random.sample(some, min(count, len(some)))


async def _partition(world: World, fault: FaultPart) -> None:
    part = {node.key.peer_id for node in chosen(world, fault)}
    world.hub.partition(part)
    await trio.sleep(fault.for_s)
    world.hub.heal()


async def _crash_and_restart(world: World, node: SimNode, fault: FaultPart) -> None:
    await world.crash(node)
    world.measures.on_crash(node)
    await trio.sleep(world.random.uniform(*fault.down_s))
    await world.start(node)


async def _churn(world: World, fault: FaultPart) -> None:
    """In for_s the share of the nodes goes and comes back, evenly spread; half of them by a crash."""
    nodes = chosen(world, fault)

    async def one(node: SimNode, later_s: float, clean: bool) -> None:
        await trio.sleep(later_s)
        if not node.alive:
            return
        if clean:
            if node.key.peer_id in world.living:
                world.living.remove(node.key.peer_id)
            await node.stop()
            world.measures.on_crash(node)
            await trio.sleep(world.random.uniform(*fault.down_s))
            await world.start(node)
        else:
            await _crash_and_restart(world, node, fault)

    async with trio.open_nursery() as nursery:
        for number, node in enumerate(nodes):
            nursery.start_soon(one, node, fault.for_s * number / max(1, len(nodes)), number % 2 == 0)


async def _eclipse(world: World, fault: FaultPart) -> None:
    """The chosen nodes lose their connections and find only sybils for the time."""
    sybils = [node.key.peer_id for node in world.nodes if node.role == "sybil"]
    victims = chosen(world, fault)
    for node in victims:
        world.topology.only[node.index] = sybils
        if node.network is not None:
            for peer in list(node.network.connections):
                if peer not in sybils:
                    await node.network.disconnect(peer)
    await trio.sleep(fault.for_s)
    for node in victims:
        world.topology.only.pop(node.index, None)
        if node.network is not None:  # its next walk through the DHT
            for peer in list(node.network.connections)[:2]:
                await node.network.disconnect(peer)
