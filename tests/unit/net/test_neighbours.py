"""Whom a node dials of those that peers name: nobody twice, and not all of one owner's."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.net.libp2p.exchange import group_of
from golemp2p.net.libp2p.neighbours import choose
from golemp2p.net.port import PeerInfo

ME = PeerId("me")


def address(group: int, host: int) -> str:
    return f"/ip4/20.{group}.0.{host}/tcp/1/p2p/p{group}-{host}"


def dialled(text: str) -> PeerInfo:
    return PeerInfo(PeerId(text.rpartition("/p2p/")[2]), (text,), True, "out", None)


def test_one_owners_addresses_do_not_become_all_of_our_peers() -> None:
    theirs = [address(1, host) for host in range(20)]
    connected: list[PeerInfo] = []
    for _ in range(5):
        connected += [dialled(text) for text in choose(theirs, connected, ME, limits.DIALS_OF_ONE_ANSWER)]
    assert len(connected) == limits.MAX_PEERS_OF_GROUP
    assert choose([*theirs, address(2, 1)], connected, ME, 9) == [address(2, 1)]


def test_on_a_lan_all_are_of_one_network() -> None:
    heard = [f"/ip4/192.168.0.{host}/tcp/1/p2p/p{host}" for host in range(9)]
    assert choose(heard, [], ME, 9) == heard


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=40),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), unique=True, max_size=10),
    st.integers(1, 12),
)
def test_what_is_chosen_is_new_different_and_spread(
    heard: list[tuple[int, int]], known: list[tuple[int, int]], most: int
) -> None:
    connected = [dialled(address(*one)) for one in known]
    chosen = choose([*(address(*one) for one in heard), "/ip4/1.1.1.1/tcp/1/p2p/me"], connected, ME, most)
    assert len(chosen) == len(set(chosen)) <= most
    assert not set(chosen) & {one.addresses[0] for one in connected}
    before = Counter(group_of(one.addresses[0]) for one in connected)
    for group, count in Counter(map(group_of, chosen)).items():
        assert before[group] + count <= max(limits.MAX_PEERS_OF_GROUP, before[group])
    assert not any(one.endswith("/me") for one in chosen)
