"""FlexBuffers frames: whatever goes in comes out, and hostile bytes are an error of one family."""

from __future__ import annotations

from contextlib import suppress

import pytest
from flatbuffers import flexbuffers
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.errors import RemoteProtocolError
from golemp2p.wire import gsb

KEYS = st.text(alphabet="abcdefgXYZ_0", min_size=1, max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**31) + 1, 2**31 - 1)
    | st.text(max_size=20).filter(lambda text: "\0" not in text)
    | st.binary(max_size=200)
)
FRAMES = st.dictionaries(KEYS, SCALARS | st.dictionaries(KEYS, SCALARS, max_size=4) | st.lists(SCALARS, max_size=4))


@given(FRAMES)
def test_what_is_encoded_is_decoded(frame: dict[str, gsb.Value]) -> None:
    assert gsb.decode(gsb.encode(frame)) == frame


@given(st.binary(max_size=300))
def test_any_bytes_are_a_map_or_an_error_of_the_peer(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        assert isinstance(gsb.decode(data), dict)


@given(FRAMES, st.data())
def test_a_frame_with_a_wrong_byte_is_a_map_or_an_error_of_the_peer(
    frame: dict[str, gsb.Value], data: st.DataObject
) -> None:
    wrong = bytearray(gsb.encode(frame))
    wrong[data.draw(st.integers(0, len(wrong) - 1))] = data.draw(st.integers(0, 255))
    with suppress(RemoteProtocolError):
        gsb.decode(bytes(wrong))


@given(st.integers(2**31, 2**53))
def test_large_sizes_are_doubles_out_of_line_and_exact(size: int) -> None:
    """JavaScript's decoder makes BigInts of 64-bit integers and of all that shares a vector with an inline double."""
    frame = gsb.encode({"offset": size, "size": 65_536})
    root = flexbuffers.GetRoot(frame).AsMap
    assert root["offset"].IsFloat
    assert root.ByteWidth <= 4
    found = gsb.decode(frame)
    assert gsb.whole_number(found["offset"]) == size
    assert found["size"] == 65_536


@pytest.mark.parametrize(
    ("frame", "payload"),
    [
        pytest.param(
            "6964000435653162007061796c6f61640066696c6553697a6500010a00000000050000000000000001000000000000000100000000000000005ed0b2000000000702423a02010243101427042401",
            {"fileSize": 3_000_000_000},
            id="large-size",
        ),
        pytest.param(
            "6964000435653162007061796c6f616400636f6e74656e7400030102036f6666736574000214090003000100020014002c01640502352d020102360d1425042401",
            {"content": b"\1\2\3", "offset": 300},
            id="chunk",
        ),
        pytest.param("6964000435653162007061796c6f61640002120a02010213001400042401", None, id="nothing"),
        pytest.param(
            "6964000435653162007061796c6f616400636f6e74656e7400030102036f6666736574000214090003000000000000000100000000000000020000000000000026000000000000000500000002000000640702534b02010254191427042401",
            {"content": b"\1\2\3", "offset": 8_589_934_597},
            id="chunk-far-in",
        ),
    ],
)
def test_frames_of_javascripts_encoder_are_understood(frame: str, payload: object) -> None:
    assert gsb.answer_of(gsb.decode(bytes.fromhex(frame))) == gsb.Answer("5e1b", payload)  # type: ignore[arg-type] # it is a Value


def test_one_string_referred_to_many_times_is_not_copied_as_often() -> None:
    builder = flexbuffers.Builder(share_strings=True)
    with builder.Map(), builder.Vector("v"):
        for _ in range(400):
            builder.String("x" * 10_000)
    with pytest.raises(RemoteProtocolError, match="repeats itself"):
        gsb.decode(bytes(builder.Finish()))


def test_a_frame_has_bounds() -> None:
    with pytest.raises(RemoteProtocolError, match="at most"):
        gsb.decode(bytes(limits.GSB_MAX_FRAME_BYTES + 1))
    with pytest.raises(RemoteProtocolError, match="too many parts"):
        gsb.decode(gsb.encode({"v": list(range(2_000))}))
    deep: dict[str, object] = {}
    for _ in range(20):
        deep = {"a": deep}
    with pytest.raises(RemoteProtocolError, match="nested"):
        gsb.decode(gsb.encode(deep))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param({}, id="empty"),
        pytest.param({"id": 5, "payload": None}, id="id-is-no-text"),
        pytest.param({"id": "a"}, id="neither"),
        pytest.param({"id": "a", "error": {}}, id="error-says-nothing"),
        pytest.param({"id": "a", "error": 5}, id="error-is-a-number"),
    ],
)
def test_what_is_no_answer_is_refused(frame: dict[str, gsb.Value]) -> None:
    with pytest.raises(RemoteProtocolError):
        gsb.answer_of(frame)


def test_an_error_is_told_with_its_name_within_bounds() -> None:
    assert gsb.answer_of({"id": "a", "error": {"ReadError": "no disk"}}).error == "ReadError: no disk"
    assert gsb.answer_of({"id": "a", "error": "no disk"}).error == "no disk"
    assert len(gsb.answer_of({"id": "a", "error": "x" * 10_000}).error) == limits.GSB_ERROR_CHARS


@pytest.mark.parametrize("value", [-1, 1.5, True, None, "5", 2**60, float("nan")], ids=str)
def test_a_size_is_a_whole_number(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        gsb.whole_number(value)
