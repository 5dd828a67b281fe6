"""Messages of relays: what is written is read again, and what strangers send is refused in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.errors import RemoteProtocolError
from golemp2p.net.libp2p.circuit_wire import (
    HopMessage,
    HopType,
    PunchMessage,
    PunchType,
    Status,
    StopMessage,
    StopType,
    read_message,
)
from golemp2p.net.port import ByteStream

NUMBERS = st.integers(0, 2**63)
BLOBS = st.binary(min_size=1, max_size=60)

hops = st.builds(
    HopMessage,
    st.sampled_from(HopType),
    peer=st.binary(max_size=40),
    expire_s=st.integers(1, 2**40),
    addresses=st.lists(BLOBS, max_size=4).map(tuple),
    duration_s=NUMBERS,
    data_bytes=NUMBERS,
    status=st.sampled_from(Status).map(int),
)
stops = st.builds(StopMessage, st.sampled_from(StopType), peer=BLOBS, duration_s=NUMBERS, data_bytes=NUMBERS)
punches = st.builds(PunchMessage, st.sampled_from(PunchType), st.lists(BLOBS, max_size=6).map(tuple))


@given(st.one_of(hops, stops, punches))
def test_a_message_is_read_as_it_was_written(message: HopMessage | StopMessage | PunchMessage) -> None:
    assert type(message).decode(message.encode()) == message


@given(st.binary(max_size=80))
def test_garbage_is_refused_or_a_message_and_nothing_else(data: bytes) -> None:
    for kind in (HopMessage, StopMessage, PunchMessage):
        try:
            kind.decode(data)
        except RemoteProtocolError:
            continue


def test_the_bytes_are_those_of_the_specification() -> None:
    """A reservation's answer as protobuf writes it: fields 1 (type), 3 (reservation), 4 (limit), 5 (status)."""
    message = HopMessage(
        HopType.STATUS, expire_s=300, addresses=(b"\x04",), duration_s=120, data_bytes=131072, status=100
    )
    assert message.encode() == bytes.fromhex("08021a0608ac0212010422060878108080082864")


def test_fields_that_are_not_known_are_skipped() -> None:
    assert HopMessage.decode(bytes.fromhex("08007a0161f8060581010000000000000000")).type is HopType.RESERVE


class Canned:
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, max_bytes: int) -> bytes:
        piece, self._data = self._data[:max_bytes], self._data[max_bytes:]
        return piece


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x05abc", "cut short"),
        (b"\xff\xff\xff\xff\xff\x01", "malformed"),
        (b"\xff\xff\x03" + b"a" * 70_000, "65535 bytes"),
    ],
    ids=["cut", "endless-length", "too-large"],
)
async def test_a_message_is_bounded(data: bytes, words: str) -> None:
    stream: ByteStream = Canned(data)  # type: ignore[assignment] # only read() is used
    with pytest.raises(RemoteProtocolError, match=words):
        await read_message(stream)
    assert limits.RELAY_MESSAGE_MAX_BYTES < 65_535
