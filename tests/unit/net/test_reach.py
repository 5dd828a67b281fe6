"""From what peers say to a verdict, and from addresses to a plan for dialling."""

from __future__ import annotations

import pytest

from golemp2p.core.ids import PeerId
from golemp2p.identity.keys import NodeKey
from golemp2p.net.libp2p.addresses import dial_plan, is_local
from golemp2p.net.libp2p.dialback import Seen
from golemp2p.net.libp2p.reach_verdict import judge
from golemp2p.net.port import Reach

ONE, TWO, RELAY = (NodeKey.generate().peer_id for _ in range(3))
LAN, PUBLIC = "10.0.0.2", "198.51.100.7"


def seen(ip: str, *reached: int, by: PeerId = ONE) -> Seen:
    return Seen(by, ip, 40_000, 40_000, reached)


@pytest.mark.parametrize(
    ("said", "own_ips", "relays", "reach", "words"),
    [
        ([], {LAN}, [], Reach.UNKNOWN, "nobody"),
        ([seen(PUBLIC, 11155)], {PUBLIC}, [], Reach.PUBLIC, "198.51.100.7:11155"),
        ([seen(PUBLIC, 11155)], {LAN}, [], Reach.PUBLIC, "198.51.100.7:11155"),
        ([seen(LAN, 11155)], {LAN}, [], Reach.PUBLIC, "a local address"),
        ([seen(PUBLIC)], {LAN}, [RELAY], Reach.RELAYED, "behind NAT"),
        ([seen(PUBLIC)], {LAN}, [], Reach.UNREACHABLE, "behind NAT"),
        ([seen(PUBLIC)], {PUBLIC}, [], Reach.UNREACHABLE, "firewall"),
        ([seen(LAN, 11155), seen(PUBLIC)], {LAN}, [RELAY], Reach.RELAYED, "behind NAT"),
        ([seen("192.168.1.9"), seen(LAN, 11155)], {LAN}, [], Reach.UNREACHABLE, "192.168.1.9"),
        ([seen(PUBLIC), seen(PUBLIC, 11155, by=TWO)], {LAN}, [], Reach.PUBLIC, "1 of 2"),
        ([], {LAN}, [RELAY], Reach.RELAYED, "relays bring"),
    ],
    ids=[
        "nobody-asked",
        "public-machine",
        "port-forward",
        "lan-only",
        "nat-with-relay",
        "nat-without",
        "firewall",
        "the-lan-does-not-count-when-somebody-is-outside",
        "nat-within-a-network",
        "one-of-two-is-enough",
        "relays-but-nobody-to-ask",
    ],
)
def test_verdicts(said: list[Seen], own_ips: set[str], relays: list[PeerId], reach: Reach, words: str) -> None:
    found = judge(said, own_ips=own_ips, relays=relays, ports=[11155])
    assert (found.reach, words in found.reason) == (reach, True), found
    assert bool(found.advice) is bool(said and reach in (Reach.RELAYED, Reach.UNREACHABLE))


def test_addresses_are_dialled_directly_first_and_through_relays_then() -> None:
    known = [
        f"/ip4/127.0.0.1/tcp/1/p2p/{ONE}",
        "/ip4/10.1.1.1/tcp/2",
        f"/ip4/198.51.100.7/tcp/3/p2p/{RELAY}/p2p-circuit/p2p/{ONE}",
        f"/ip4/198.51.100.7/tcp/3/p2p/{ONE}/p2p-circuit",  # through itself
        f"/ip4/198.51.100.7/tcp/3/p2p/{TWO}/p2p-circuit",  # through us
        "/dns4/somebody.example/tcp/4",
        "/ip4/198.51.100.7/udp/5/quic-v1",
        "/ip4/198.51.100.7/tcp/0",
        f"/ip4/198.51.100.7/tcp/3/p2p/{RELAY}/p2p-circuit/p2p/{TWO}",
        "nonsense",
    ]
    direct, through = dial_plan(known, own=TWO, target=ONE)
    assert [str(address) for address in direct] == ["/ip4/10.1.1.1/tcp/2"]
    assert [(via.relay, str(via.address)) for via in through] == [(RELAY, "/ip4/198.51.100.7/tcp/3")]


def test_loopback_is_dialled_when_there_is_nothing_else() -> None:
    direct, _ = dial_plan(["/ip4/127.0.0.1/tcp/1"], own=TWO, target=ONE)
    assert [str(address) for address in direct] == ["/ip4/127.0.0.1/tcp/1"]


@pytest.mark.parametrize(
    ("ip", "local"),
    [
        *((ip, True) for ip in ("10.9.8.7", "172.31.0.1", "100.100.0.1", "::1", "fd00::1")),
        *((ip, False) for ip in ("8.8.8.8", "203.0.113.9", "2001:db8::1", "172.32.0.1", "name")),
    ],
)
def test_local_addresses(ip: str, local: bool) -> None:
    assert is_local(ip) is local
