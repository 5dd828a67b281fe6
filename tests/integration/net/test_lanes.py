"""Who gets a lane: tickets, tokens and certificates, against strangers."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from golemp2p import limits
from golemp2p.errors import NetworkError, RemoteProtocolError
from golemp2p.net.lane import LaneStream
from golemp2p.net.laneoffer import MAGIC, Offer
from golemp2p.net.lanes import Lanes
from golemp2p.net.lanetls import make_certificate
from tests.integration.net.lane_world import World, eventually, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as found:
        yield found


class Offering:
    """What ``there`` has offered to ``here``, and who came."""

    def __init__(self, world: World) -> None:
        self.world, self.came = world, list[LaneStream]()

    async def make(self, cert: bytes | None = None) -> Offer:
        here, there = self.world.here, self.world.there
        return await there.lanes.offer(here.network.peer_id, cert or await here.lanes.certificate(), self._deliver)

    async def _deliver(self, lane: LaneStream) -> None:
        self.came.append(lane)

    async def dial(self, offer: Offer, lanes: Lanes | None = None) -> LaneStream:
        return await (lanes or self.world.here.lanes).dial(self.world.there.network.peer_id, offer)


@pytest.fixture
def offering(world: World) -> Offering:
    return Offering(world)


async def test_a_ticket_is_good_for_one_lane(offering: Offering) -> None:
    offer = await offering.make()
    lane = await offering.dial(offer)
    await eventually(lambda: len(offering.came) == 1)
    await lane.write(b"hello")
    assert await offering.came[0].read_exactly(5) == b"hello"
    with pytest.raises(NetworkError):
        await offering.dial(offer)
    assert len(offering.came) == 1
    for one in (lane, *offering.came):
        await one.aclose()
    await offering.world.quiet()


async def test_a_wrong_token_gets_nothing_and_spends_the_ticket(offering: Offering) -> None:
    offer = await offering.make()
    with pytest.raises((NetworkError, RemoteProtocolError)):
        await offering.dial(replace(offer, token=bytes(32)))
    with pytest.raises(NetworkError):
        await offering.dial(offer)
    assert offering.came == []
    await offering.world.quiet()


async def test_an_old_ticket_is_none(offering: Offering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LANE_TICKET_S", 0.0)
    offer = await offering.make()
    with pytest.raises(NetworkError):
        await offering.dial(offer)
    assert offering.came == []


async def test_both_ends_insist_on_the_certificate_that_was_told(offering: Offering) -> None:
    stranger = make_certificate().der
    with pytest.raises((NetworkError, RemoteProtocolError)):  # the dialler wants another one
        await offering.dial(replace(await offering.make(), cert=stranger))
    with pytest.raises((NetworkError, RemoteProtocolError)):  # the listener does
        await offering.dial(await offering.make(cert=stranger))
    thief = Lanes(offering.world.here.network)  # it has heard name and token, and has another key
    with pytest.raises((NetworkError, RemoteProtocolError)):
        await offering.dial(await offering.make(), thief)
    assert offering.came == []
    await offering.world.quiet()


@pytest.mark.parametrize(
    "junk",
    [b"GET / HTTP/1.1\r\n\r\n", MAGIC + bytes(16), MAGIC + bytes(5), b"\x16\x03\x01\x02\x00" + bytes(512), b""],
    ids=["http", "unknown-ticket", "half-a-ticket", "tls", "nothing"],
)
async def test_junk_on_the_port_is_cut_off_and_costs_nothing(
    offering: Offering, junk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LANE_HELLO_S", 0.3)
    offer = await offering.make()
    stream = await trio.open_tcp_stream(*offer.places[0])
    async with stream:
        with trio.fail_after(30):
            try:
                await stream.send_all(junk)
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass  # cut off in the middle
    lane = await offering.dial(offer)
    await lane.aclose()
    await eventually(lambda: len(offering.came) == 1)
    await offering.came[0].aclose()
    await offering.world.quiet()


async def test_silent_connections_are_bounded(offering: Offering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LANE_MAX_PENDING_PER_HOST", 3)
    offer = await offering.make()
    streams = [await trio.open_tcp_stream(*offer.places[0]) for _ in range(6)]
    with trio.fail_after(30):
        closed = 0
        async with trio.open_nursery() as nursery:

            async def watch(stream: trio.SocketStream) -> None:
                nonlocal closed
                with suppress(trio.BrokenResourceError):
                    await stream.receive_some()
                closed += 1

            for stream in streams:
                nursery.start_soon(watch, stream)
            await eventually(lambda: closed >= 3)
            assert offering.world.there.lanes.statistics()["pending"] <= 3
            nursery.cancel_scope.cancel()
    for stream in streams:
        await stream.aclose()
    await offering.world.quiet()


async def test_tickets_and_lanes_of_a_peer_are_bounded(offering: Offering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LANE_MAX_LANES_PER_PEER", 2)
    offers = [await offering.make() for _ in range(3)]
    assert [bool(offer.places) for offer in offers] == [True, True, False]
    lanes = [await offering.dial(offer) for offer in offers[:2]]
    await eventually(lambda: len(offering.came) == 2)
    assert not (await offering.make()).places
    assert not offering.world.here.lanes.worth_trying(offering.world.there.network.peer_id)
    for one in [*lanes, *offering.came]:
        await one.reset()
    assert (await offering.make()).places
    assert offering.world.here.lanes.worth_trying(offering.world.there.network.peer_id)


async def test_a_taken_port_is_said_or_passed_over(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lanes = Lanes(world.here.network, ("127.0.0.1", port), exact=False)
        async with trio.open_nursery() as nursery:
            await nursery.start(lanes.run)
            assert lanes._port not in (None, port)
            nursery.cancel_scope.cancel()
        with pytest.raises(Exception, match="lane_listen"):
            await Lanes(world.here.network, ("127.0.0.1", port)).run()
