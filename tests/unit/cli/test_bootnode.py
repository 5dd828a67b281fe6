"""What a bootnode writes into the profile that others join with."""

from __future__ import annotations

from golemp2p.cli.bootnode import _for_others

LOOPBACK, OUTSIDE = "/ip4/127.0.0.1/tcp/1/p2p/x", "/ip4/192.0.2.7/tcp/1/p2p/x"


def test_others_are_not_sent_to_their_own_loopback() -> None:
    assert _for_others([LOOPBACK, OUTSIDE, "/ip6/::1/tcp/1/p2p/x"]) == [OUTSIDE]
    assert _for_others([LOOPBACK]) == [LOOPBACK]
