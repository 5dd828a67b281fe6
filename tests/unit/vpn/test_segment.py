"""Where a packet may go: nobody speaks with another's address, nobody from outside gets in."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from golemp2p.core.ids import Address, PeerId
from golemp2p.core.vpn import Member
from golemp2p.vpn.segment import FULL, MALFORMED, NOBODY, SPOOFED, NetworkKey, Segment
from tests.unit.vpn.test_packets import packet

OWNER, ME, THIRD, STRANGER = (PeerId(name) for name in ("owner", "me", "third", "stranger"))
IPS = {name: IPv4Address(f"10.0.0.{number}") for number, name in enumerate((OWNER, ME, THIRD), start=1)}
MEMBERS = {ip: Member(Address(f"0x{peer}"), peer) for peer, ip in IPS.items()}


class Place:
    """A segment of one node, and what came of each packet."""

    def __init__(self, me: PeerId = ME, *, room: bool = True) -> None:
        self.sent: list[tuple[PeerId, bytes]] = []
        self.delivered: list[bytes] = []
        self.room = room
        self.segment = Segment(NetworkKey(OWNER, "n"), me, self._send)
        self.segment.set_members(1, MEMBERS)
        self.segment.add_port(IPS[me], self._deliver)

    def _send(self, peer: PeerId, data: bytes) -> bool:
        if self.room:
            self.sent.append((peer, data))
        return self.room

    def _deliver(self, data: bytes) -> bool:
        if self.room:
            self.delivered.append(data)
        return self.room


def from_to(source: PeerId, target: PeerId) -> bytes:
    return packet(IPS[source], IPS[target], b"x")


def test_a_packet_goes_to_the_peer_that_has_its_destination() -> None:
    place = Place()
    place.segment.from_port(IPS[ME].packed, from_to(ME, THIRD))
    assert place.sent == [(THIRD, from_to(ME, THIRD))]
    place.segment.from_peer(THIRD, from_to(THIRD, ME))
    assert place.delivered == [from_to(THIRD, ME)]
    assert not place.segment.dropped


def test_activities_of_one_node_reach_each_other_without_a_tunnel() -> None:
    place = Place()
    other = IPv4Address("10.0.0.9")
    place.segment.set_members(2, {**MEMBERS, other: Member(Address("0xme"), ME)})
    got: list[bytes] = []

    def take(data: bytes) -> bool:
        got.append(data)
        return True

    place.segment.add_port(other, take)
    data = packet(IPS[ME], other)
    place.segment.from_port(IPS[ME].packed, data)
    assert (got, place.sent) == ([data], [])
    # What the node itself holds cannot come from outside, not even from the owner.
    place.segment.from_peer(OWNER, data)
    assert place.segment.dropped == {SPOOFED: 1}


def test_an_activity_sends_from_its_own_address_only() -> None:
    place = Place()
    place.segment.from_port(IPS[ME].packed, from_to(THIRD, OWNER))
    place.segment.from_port(IPS[ME].packed, packet(IPv4Address("8.8.8.8"), IPS[THIRD]))
    assert (place.sent, place.segment.dropped) == ([], {SPOOFED: 2})


def test_a_peer_sends_from_the_addresses_of_its_node_only_and_the_owner_for_all() -> None:
    place = Place()
    place.segment.from_peer(THIRD, from_to(OWNER, ME))
    place.segment.from_peer(STRANGER, from_to(THIRD, ME))
    place.segment.from_peer(OWNER, packet(IPv4Address("10.0.0.77"), IPS[ME]))  # of nobody
    assert (place.delivered, place.segment.dropped) == ([], {SPOOFED: 3})
    place.segment.from_peer(OWNER, from_to(THIRD, ME))
    assert len(place.delivered) == 1


def test_only_the_owner_passes_on_what_is_for_others() -> None:
    provider = Place()
    provider.segment.from_peer(OWNER, from_to(OWNER, THIRD))
    assert (provider.sent, provider.segment.dropped) == ([], {NOBODY: 1})
    owner = Place(OWNER)
    owner.segment.from_peer(ME, from_to(ME, THIRD))
    assert owner.sent == [(THIRD, from_to(ME, THIRD))]
    owner.segment.from_peer(ME, from_to(ME, ME))  # back to where it came from: never
    assert len(owner.sent) == 1


def test_who_is_no_member_any_more_neither_sends_nor_gets() -> None:
    place = Place()
    left = {ip: member for ip, member in MEMBERS.items() if member.peer != ME}
    assert place.segment.set_members(5, left)
    place.segment.from_port(IPS[ME].packed, from_to(ME, THIRD))
    place.segment.from_peer(THIRD, from_to(THIRD, ME))
    assert (place.sent, place.delivered) == ([], [])
    assert not place.segment.set_members(4, MEMBERS), "old news"
    assert not place.segment.may_enter(ME)
    assert place.segment.may_enter(OWNER)
    assert not place.segment.may_enter(STRANGER)


def test_a_full_queue_drops_and_counts() -> None:
    place = Place(room=False)
    place.segment.from_port(IPS[ME].packed, from_to(ME, THIRD))
    place.segment.from_peer(THIRD, from_to(THIRD, ME))
    assert place.segment.dropped == {FULL: 2}


def test_a_member_whose_peer_is_unknown_or_none_gets_nothing() -> None:
    place = Place()
    unknown = IPv4Address("10.0.0.50")
    place.segment.set_members(2, {**MEMBERS, unknown: Member(Address("0xwho"), None)})
    place.segment.from_port(IPS[ME].packed, packet(IPS[ME], unknown))
    place.segment.from_port(IPS[ME].packed, packet(IPS[ME], IPv4Address("10.0.0.255")))
    assert (place.sent, place.segment.dropped) == ([], {NOBODY: 2})


@given(st.binary(max_size=100), st.sampled_from([OWNER, THIRD, STRANGER]))
def test_what_is_no_packet_goes_nowhere(data: bytes, peer: PeerId) -> None:
    place = Place()
    place.segment.from_port(IPS[ME].packed, data)
    place.segment.from_peer(peer, data)
    assert (place.sent, place.delivered) == ([], [])
    assert set(place.segment.dropped) <= {MALFORMED, SPOOFED, NOBODY}
