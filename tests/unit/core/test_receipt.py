"""Receipts: one changed byte anywhere is noticed, and no hostile document leads astray."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.core.eip712 import Domain
from golemp2p.core.ids import ActivityId, AgreementId, BatchId
from golemp2p.core.receipt import RECEIPT as RECEIPT_STRUCT
from golemp2p.core.receipt import Receipt, encode_evidence, is_inner_path, parse_evidence, verify_receipt
from golemp2p.errors import RemoteProtocolError
from golemp2p.identity.keys import NodeKey
from golemp2p.runtimes.wasm.deterministic import Bytes

KEY = NodeKey(b"\x07" * 32)
EVIDENCE: dict[str, Any] = {
    "program": "a" * 64,
    "argv": ["main", "grün"],
    "env": [["B", "1"], ["A", "2"]],
    "inputs": {"/golem/work": {"in.txt": "b" * 64, "sub": "directory", "sub/link": "link:../in.txt"}},
    "outputs": {"/golem/work": {}},
    "stdout": "c" * 64,
    "stderr": "d" * 64,
    "exitCode": 0,
    "reason": "exited",
    "fuel": 12_345,
    "fuelLimit": None,
    "memoryLimit": 2**29,
    "engine": "wasmtime 50.0.1",
    "config": "deterministic-3",
    "architecture": "x86_64",
}


def signed(receipt: Receipt, key: NodeKey = KEY) -> Receipt:
    return replace(receipt, signature=key.sign(receipt.digest()))


RECEIPT = signed(
    Receipt(
        AgreementId("1" * 64),
        ActivityId("2" * 32),
        BatchId("3" * 32),
        2,
        KEY.peer_id,
        encode_evidence(EVIDENCE),
        1_800_000_000.123,
        Domain("local", 1337),
    )
)


def test_a_receipt_survives_its_document() -> None:
    document = json.loads(json.dumps(RECEIPT.to_document()))
    again = Receipt.from_document(document)
    assert again == RECEIPT
    verify_receipt(again)
    assert again.evidence.env == (("B", "1"), ("A", "2"))
    assert Receipt.from_document({**document, "later": "addition"}) == RECEIPT


def test_evidence_has_one_spelling() -> None:
    assert encode_evidence(dict(reversed(EVIDENCE.items()))) == encode_evidence(EVIDENCE)
    assert b"gr\xc3\xbcn" in encode_evidence(EVIDENCE)
    with pytest.raises(ValueError, match="JSON"):
        encode_evidence({"fuel": float("nan")})


CHANGES: dict[str, Any] = {
    "agreement_id": AgreementId("4" * 64),
    "activity_id": ActivityId("5" * 32),
    "batch_id": BatchId("6" * 32),
    "command": 3,
    "provider": NodeKey(b"\x08" * 32).peer_id,
    "content": encode_evidence({**EVIDENCE, "fuel": 1}),
    "issued_at": 1_800_000_000.124,
    "domain": Domain("local", 1),
    "signature": b"\x01" * 65,
}


@pytest.mark.parametrize("name", CHANGES)
def test_any_change_is_not_what_was_signed(name: str) -> None:
    verify_receipt(RECEIPT)
    with pytest.raises(RemoteProtocolError):
        verify_receipt(replace(RECEIPT, **{name: CHANGES[name]}))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_of_the_content_is_refused(position: int, change: int) -> None:
    data = bytearray(RECEIPT.content)
    data[position % len(data)] ^= change
    with pytest.raises(RemoteProtocolError):
        verify_receipt(replace(RECEIPT, content=bytes(data)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"program": "A" * 64}, "program is no sha256"),
        ({"fuel": 1.5}, "whole number"),
        ({"fuel": True}, "fuel"),
        ({"fuel": -1}, "fuel"),
        ({"argv": ["x", 1]}, "argv"),
        ({"env": [["A"]]}, "env"),
        ({"inputs": []}, "inputs"),
        ({"inputs": {"work": {}}}, "no listing"),
        ({"inputs": {"/w": {"../up": "directory"}}}, "malformed entry"),
        ({"inputs": {"/w": {"/abs": "directory"}}}, "malformed entry"),
        ({"inputs": {"/w": {"a": "odd"}}}, "malformed entry"),
        ({"outputs": {"/w": {"a": "link:/etc", "a/passwd": "b" * 64}}}, "below what is no directory"),
        ({"outputs": {"/w": {"a": "b" * 64, "a/b/c": "directory"}}}, "below what is no directory"),
        ({"reason": None}, "reason"),
        ({"reason": "\ud800"}, "surrogate"),
    ],
)
def test_malformed_evidence_is_named(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        parse_evidence(json.dumps({**EVIDENCE, **change}).encode())


def test_a_name_given_twice_is_refused() -> None:
    twice = RECEIPT.content.replace(b'"fuel":12345', b'"fuel":12345,"fuel":1')
    with pytest.raises(RemoteProtocolError, match="twice"):
        parse_evidence(twice)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=60) | JSONS.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_evidence_or_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_evidence(data)


@given(st.sampled_from(sorted(EVIDENCE)), JSONS)
def test_any_value_in_any_place_is_evidence_or_refused(name: str, value: Any) -> None:
    with contextlib.suppress(RemoteProtocolError):
        parse_evidence(json.dumps({**EVIDENCE, name: value}).encode())


@given(JSONS)
def test_any_json_is_a_receipt_or_refused(document: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        Receipt.from_document(document)


@given(st.sampled_from(sorted(RECEIPT.to_document())), JSONS)
def test_a_document_with_anything_anywhere_is_refused_or_does_not_verify(name: str, value: Any) -> None:
    document = {**RECEIPT.to_document(), name: value}
    try:
        verify_receipt(Receipt.from_document(document))
    except RemoteProtocolError:
        return
    assert document == RECEIPT.to_document()


def test_a_huge_content_is_refused() -> None:
    document = {**RECEIPT.to_document(), "content": " " * (limits.MAX_RECEIPT_BYTES + 1)}
    with pytest.raises(RemoteProtocolError, match="larger than"):
        Receipt.from_document(document)


@given(st.text(st.sampled_from("ab./\0"), max_size=8))
def test_an_inner_path_stays_inside(path: str) -> None:
    if is_inner_path(path):
        assert not path.startswith("/")
        assert ".." not in path.split("/")
        assert "\0" not in path


def test_the_vectors_and_the_document_are_what_the_code_does() -> None:
    protocols = Path(__file__).parents[3] / "protocols"
    vectors: dict[str, Any] = json.loads((protocols / "vectors" / "receipts.json").read_text())
    receipt = Receipt.from_document(vectors["receipt"])
    verify_receipt(receipt)
    assert NodeKey(bytes.fromhex(vectors["secret"])).peer_id == receipt.provider
    assert receipt.digest().hex() == vectors["digest"]
    assert encode_evidence(vectors["evidence"]) == receipt.content
    given = vectors["random"]
    assert Bytes(bytes.fromhex(given["program"])).take(100).hex() == given["first100"]
    text = (protocols / "receipts.md").read_text()
    assert f"\n{RECEIPT_STRUCT.type_string}\n" in text
    for name in (*EVIDENCE, *vectors["receipt"]):
        assert f"`{name}`" in text
