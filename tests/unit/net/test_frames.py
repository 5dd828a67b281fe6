"""RPC frames: the vectors of protocols/, and any bytes at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.core.peer import address_of, peer_id_of, public_key_of
from golemp2p.errors import RemoteProtocolError, UsageError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.frames import Cancel, Credit, Decoder, End, Failure, Frame, Item, Request, Response, _fields, encode

VECTORS = Path(__file__).parents[3] / "protocols" / "vectors"
FRAMES = json.loads((VECTORS / "rpc_frames.json").read_text())


def plain(value: Any) -> Any:
    """Bytes are {"hex": …} in the vectors."""
    if isinstance(value, dict):
        if set(value) == {"hex"}:
            return bytes.fromhex(value["hex"])
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("vector", FRAMES["valid"], ids=lambda vector: str(vector["name"]))
def test_valid_vectors_decode_to_their_fields_and_encode_to_their_bytes(vector: dict[str, Any]) -> None:
    (frame,) = Decoder().feed(bytes.fromhex(vector["frame"]))
    assert _fields(frame) == plain(vector["fields"])
    assert encode(frame).hex() == vector["frame"]


@pytest.mark.parametrize("vector", FRAMES["invalid"], ids=lambda vector: str(vector["name"]))
def test_invalid_vectors_are_the_peers_mistake(vector: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        Decoder().feed(bytes.fromhex(vector["frame"]))


@pytest.mark.parametrize("vector", json.loads((VECTORS / "identity.json").read_text()))
def test_one_key_gives_peer_id_and_address(vector: dict[str, str]) -> None:
    key = NodeKey(bytes.fromhex(vector["secret"]))
    assert key.public_key.hex() == vector["public_key"]
    assert peer_id_of(key.public_key) == vector["peer_id"]
    assert address_of(vector["peer_id"]) == vector["address"]
    assert public_key_of(vector["peer_id"]) == key.public_key


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_a_protocol_error(data: bytes) -> None:
    for attempt in (data, len(data).to_bytes(4, "big") + data):
        decoder = Decoder()
        try:
            decoder.feed(attempt)
        except RemoteProtocolError:
            continue
        assert decoder.pending_bytes <= len(attempt)


ids = st.integers(0, 2**32 - 1)
bodies = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
text = st.text(max_size=50)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(
        Request,
        ids,
        st.text(min_size=1, max_size=64),
        st.dictionaries(st.text(), bodies, max_size=4),
        st.integers(1, 10**6),
        st.integers(0, limits.RPC_STREAM_CREDIT),
    ),
    st.builds(Response, ids, bodies),
    st.builds(Failure, ids, st.text(min_size=1, max_size=20), text, text),
    st.builds(Item, ids, bodies),
    st.builds(End, ids),
    st.builds(Cancel, ids),
    st.builds(Credit, ids, st.integers(1, limits.RPC_STREAM_CREDIT)),
)


@given(st.lists(frames, max_size=5), st.integers(1, 50))
def test_frames_survive_any_cutting_of_the_stream(sent: list[Frame], piece_bytes: int) -> None:
    data, decoder, received = b"".join(map(encode, sent)), Decoder(), []
    for start in range(0, len(data), piece_bytes):
        received += decoder.feed(data[start : start + piece_bytes])
    assert received == sent
    assert decoder.pending_bytes == 0


def test_what_cannot_be_sent_is_our_mistake() -> None:
    for body in (object(), bytes(limits.RPC_MAX_FRAME_BYTES), 2**70):
        with pytest.raises(UsageError):
            encode(Response(1, body))


def test_long_error_texts_are_cut_to_what_a_peer_accepts() -> None:
    (frame,) = Decoder().feed(encode(Failure(1, "c" * 1000, "m" * 10_000, "h" * 10_000)))
    assert isinstance(frame, Failure)
    assert len(frame.message) == 2000
