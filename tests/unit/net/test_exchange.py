"""What peers answer when they are asked for others."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.errors import RemoteProtocolError
from golemp2p.net.libp2p.exchange import group_of, parse_answer


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_of_texts_or_an_error(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert all(isinstance(one, str) for one in parse_answer(data))


@pytest.mark.parametrize("value", [{}, [1], ["x" * 513], "text", [["nested"]]], ids=range(5))
def test_other_things_are_refused(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_answer(msgpack.packb(value))


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("/ip4/192.0.2.7/tcp/1/p2p/x", "192.0"),
        ("/ip6/2001:db8:1::7/tcp/1/p2p/x", "2001:db8"),
        ("/dns4/example.org/tcp/1/p2p/x", "example.org"),
        ("nonsense", ""),
    ],
    ids=range(4),
)
def test_addresses_of_one_owner_are_one_group(address: str, group: str) -> None:
    assert group_of(address) == group
