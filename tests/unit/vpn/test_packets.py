"""Packets: what may pass, the echo, the cutting of a tunnel's bytes."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.core.vpn import addresses_of, checksum, echo_reply
from golemp2p.errors import RemoteProtocolError
from golemp2p.vpn.tunnels import PacketCutter

ADDRESSES = st.integers(0, 2**32 - 1).map(IPv4Address)


def packet(
    source: IPv4Address,
    target: IPv4Address,
    payload: bytes = b"",
    *,
    protocol: int = 17,
    options: bytes = b"",
    fragment: int = 0,
) -> bytes:
    """A whole IPv4 packet with a right header checksum."""
    words = 5 + len(options) // 4
    head = bytearray(20 + len(options))
    head[0] = 0x40 | words
    head[2:4] = (len(head) + len(payload)).to_bytes(2, "big")
    head[6:8] = fragment.to_bytes(2, "big")
    head[8], head[9] = 64, protocol
    head[12:16], head[16:20] = source.packed, target.packed
    head[20:] = options
    head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
    return bytes(head) + payload


def echo_request(identifier: bytes, data: bytes) -> bytes:
    message = bytearray(b"\x08\0\0\0" + identifier + data)
    message[2:4] = checksum(bytes(message)).to_bytes(2, "big")
    return bytes(message)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_packet_or_none_and_never_an_error(data: bytes) -> None:
    found = addresses_of(data)
    if found is not None:
        assert (len(found[0]), len(found[1]), data[0] >> 4) == (4, 4, 4)
    reply = echo_reply(data)
    assert reply is None or addresses_of(reply) is not None


@given(ADDRESSES, ADDRESSES, st.binary(max_size=200), st.sampled_from([b"", bytes(4), bytes(40)]))
def test_the_addresses_of_a_whole_packet_are_read(
    source: IPv4Address, target: IPv4Address, payload: bytes, options: bytes
) -> None:
    whole = packet(source, target, payload, options=options)
    assert addresses_of(whole) == (source.packed, target.packed)
    assert addresses_of(whole + b"x") is None
    assert addresses_of(whole[:-1]) is None


@given(ADDRESSES, ADDRESSES, st.binary(min_size=4, max_size=4), st.binary(max_size=2000))
def test_an_echo_comes_back_to_who_asked_with_the_same_data(
    source: IPv4Address, target: IPv4Address, identifier: bytes, data: bytes
) -> None:
    reply = echo_reply(packet(source, target, echo_request(identifier, data), protocol=1, options=bytes(4)))
    assert reply is not None
    assert addresses_of(reply) == (target.packed, source.packed)
    assert checksum(reply[:20]) == 0
    assert reply[9] == 1
    message = reply[20:]
    assert message[:2] == b"\0\0"
    assert checksum(message) == 0
    assert message[4:] == identifier + data


@given(ADDRESSES, ADDRESSES, st.binary(min_size=4, max_size=60), st.data())
def test_only_whole_and_right_requests_are_answered(
    source: IPv4Address, target: IPv4Address, data: bytes, draw: st.DataObject
) -> None:
    request = echo_request(data[:4], data[4:])
    assert echo_reply(packet(source, target, request, protocol=17)) is None
    assert echo_reply(packet(source, target, request, protocol=1, fragment=0x2000)) is None
    assert echo_reply(packet(source, target, request, protocol=1, fragment=1)) is None
    assert echo_reply(packet(source, target, b"\0" + request[1:], protocol=1)) is None
    at = draw.draw(st.integers(0, len(request) - 1))
    broken = request[:at] + bytes([request[at] ^ 0x01]) + request[at + 1 :]
    assert echo_reply(packet(source, target, broken, protocol=1)) is None


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.lists(st.integers(1, 50), min_size=1))
def test_packets_come_out_of_a_tunnel_as_they_went_in_however_the_bytes_are_cut(
    packets: list[bytes], sizes: list[int]
) -> None:
    stream = b"".join(len(each).to_bytes(2, "big") + each for each in packets)
    cutter, found, at, turn = PacketCutter(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        found += cutter.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert found == packets


@pytest.mark.parametrize("size", [0, limits.VPN_MTU_BYTES + 1, 0xFFFF])
def test_a_packet_that_is_empty_or_too_large_ends_the_tunnel(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"packet of {size} bytes"):
        PacketCutter().feed(size.to_bytes(2, "big"))


@given(st.binary(max_size=300) | st.integers(0, 64).map(bytes) | st.integers(0, 64).map(lambda n: b"\xff" * n))
def test_the_checksum_is_the_sum_of_words_with_end_around_carry(data: bytes) -> None:
    total = 0
    padded = data + b"\0" * (len(data) % 2)
    for at in range(0, len(padded), 2):
        total += int.from_bytes(padded[at : at + 2], "big")
        total = (total & 0xFFFF) + (total >> 16)
    assert checksum(data) == ~total & 0xFFFF
