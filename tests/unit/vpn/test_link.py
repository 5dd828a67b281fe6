"""The queue towards a guest, and the pace of packets."""

from __future__ import annotations

from ipaddress import IPv4Interface

import pytest
import trio
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.runtimes.link import GuestLink, Pace, host_names


def make_link(address: str = "10.0.0.2/24") -> GuestLink:
    return GuestLink(IPv4Interface(address), lambda _packet: None)


async def test_a_full_queue_drops_the_newest_and_goes_on_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VPN_QUEUE_BYTES", 2048)
    link = make_link()
    assert [link.to_guest(bytes([number]) * 1000) for number in range(3)] == [True, True, False]
    assert link.dropped == 1
    assert await link.next() == bytes(1000)
    assert link.to_guest(b"x" * 1000)
    assert not link.to_guest(b"y" * 1000)
    assert [await link.next() for _ in range(2)] == [b"\1" * 1000, b"x" * 1000]


async def test_small_packets_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VPN_QUEUE_BYTES", 10 * limits.VPN_PACKET_COST_BYTES)
    link = make_link()
    assert sum(link.to_guest(b"x") for _ in range(100)) == 10


def test_a_packet_beyond_the_mtu_is_dropped() -> None:
    assert not make_link().to_guest(bytes(limits.VPN_MTU_BYTES + 1))


async def test_packets_pass_at_once_but_not_faster_than_the_pace(autojump_clock: MockClock) -> None:
    pace, started = Pace(), trio.current_time()
    for _ in range(limits.VPN_PACE_PACKETS):
        await pace.spend(1)
    assert trio.current_time() == started
    for _ in range(50 * limits.VPN_PACE_PACKETS):
        await pace.spend(1)
    assert trio.current_time() - started == pytest.approx(50 * limits.VPN_PACE_S, rel=0.05)


async def test_who_share_a_pace_are_together_no_faster_than_one(autojump_clock: MockClock) -> None:
    pace, started = Pace(), trio.current_time()

    async def one() -> None:
        for _ in range(10 * limits.VPN_PACE_PACKETS // 100):
            await pace.spend(100)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(one)
    assert trio.current_time() - started == pytest.approx(80 * limits.VPN_PACE_S, rel=0.1)


def test_a_payload_knows_itself_by_its_first_address_and_others_as_it_was_told() -> None:
    links = [make_link("10.0.0.2/24"), make_link("10.1.0.2/24")]
    assert host_names("me", {"db": "10.0.0.3"}, links) == {"me": "10.0.0.2", "db": "10.0.0.3"}
    assert host_names("me", {"db": "10.0.0.3"}, []) == {"db": "10.0.0.3"}
    assert host_names(None, {}, links) == {}
