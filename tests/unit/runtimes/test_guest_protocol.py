"""The guest protocol's pure part, on whatever bytes an agent may send."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.runtimes.guest import protocol
from golemp2p.runtimes.guest.protocol import Ask, Fields, Frame, FrameDecoder, GuestProtocolError, Tell

bodies = st.binary(max_size=300)
frames = st.builds(Frame, st.sampled_from(Tell), st.integers(0, 2**32 - 1), bodies)


def wire(frame: Frame) -> bytes:
    return protocol.HEADER.pack(len(frame.body), frame.kind, frame.id) + frame.body


@given(st.lists(frames, max_size=10), st.data())
def test_frames_come_out_as_they_went_in_however_they_are_cut(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(wire, sent))
    decoder, received, at = FrameDecoder(), list[Frame](), 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        received += decoder.feed(stream[at : at + size])
        at += size
    assert received == sent


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_is_frames_or_a_protocol_error_and_never_piles_up(chunks: list[bytes]) -> None:
    decoder = FrameDecoder()
    try:
        for chunk in chunks:
            for frame in decoder.feed(chunk):
                assert len(frame.body) <= protocol.BODY_MAX_BYTES
    except GuestProtocolError:
        return
    assert len(decoder._rest) < protocol.FRAME_MAX_BYTES


@given(bodies)
def test_a_body_is_understood_or_a_protocol_error(body: bytes) -> None:
    for read in (
        protocol.read_hello,
        protocol.read_refusal,
        protocol.read_exited,
        protocol.read_facts,
        protocol.read_entries,
    ):
        try:
            read(body)
        except GuestProtocolError:
            continue


def test_a_frame_that_is_too_long_is_refused_before_its_body_comes() -> None:
    with pytest.raises(GuestProtocolError, match="65528"):
        list(FrameDecoder().feed(struct.pack("<IBI", protocol.BODY_MAX_BYTES + 1, Tell.STDOUT, 1)))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(GuestProtocolError, match="unknown kind 3"):
        list(FrameDecoder().feed(struct.pack("<IBI", 0, Ask.EXEC, 1)))


@given(st.binary(max_size=200_000))
def test_a_long_request_is_cut_into_parts_that_fit(body: bytes) -> None:
    cut = list(protocol.request_frames(Ask.EXEC, 7, body))
    assert all(len(frame) <= protocol.FRAME_MAX_BYTES for frame in cut)
    heads = [protocol.HEADER.unpack_from(frame) for frame in cut]
    assert [kind for _, kind, _ in heads] == [Ask.PART] * (len(cut) - 1) + [Ask.EXEC]
    assert b"".join(frame[protocol.HEADER.size :] for frame in cut) == body


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]))))
def test_texts_are_read_back(words: list[str]) -> None:
    fields = Fields(protocol.texts(words))
    assert [fields.text() for _ in range(fields.u32())] == words
    assert not fields.more


def test_bytes_that_are_no_utf_8_pass_unchanged() -> None:
    name = b"caf\xe9"
    fields = Fields(protocol.u32(len(name)) + name)
    assert protocol.text(fields.text()) == protocol.u32(len(name)) + name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\0b"])
def test_names_that_lead_elsewhere_are_a_protocol_error(name: str) -> None:
    entry = protocol.u32(ord("f"), 0o644) + protocol.u64(1, 0) + protocol.text(name) + protocol.text("")
    with pytest.raises(GuestProtocolError, match="file name"):
        protocol.read_entries(entry)


def test_another_protocol_or_version_is_named() -> None:
    with pytest.raises(GuestProtocolError, match="no guest agent"):
        protocol.read_hello(b"HTTP/1.1 400 Bad Request")
    with pytest.raises(GuestProtocolError, match="speaks version 9, we speak 1"):
        protocol.read_hello(protocol.MAGIC + protocol.u32(9) + protocol.text(""))


def test_words_of_the_guest_cannot_drive_a_terminal() -> None:
    body = protocol.u32(2) + protocol.text("\x1b[2Jgone\r\nNext: line")
    assert protocol.read_refusal(body).message == "?[2Jgone??Next: line"
