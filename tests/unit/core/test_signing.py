"""EIP-712, keys, signatures, records and agreements, against eth-account and against the vectors."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.core.agreement import AGREEMENT_STRUCT
from golemp2p.core.eip712 import Domain, Struct, Value, digest, domain_separator, keccak256
from golemp2p.core.ids import PeerId, SubscriptionId
from golemp2p.core.peer import address_of, peer_id_of, public_key_of, recover
from golemp2p.core.records import (
    MARKET_RECORD,
    ExpiredRecordError,
    MarketRecord,
    RecordKind,
    make_record,
    new_subscription_id,
    subscription_id_of,
    verify_record,
)
from golemp2p.errors import RemoteProtocolError
from golemp2p.identity import NodeKey

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[3] / "protocols" / "vectors" / "signing.json").read_text())
DOMAIN = Domain(VECTORS["domain"]["network"], VECTORS["domain"]["chainId"])
NOW = 1_800_000_000.0
SECRETS = st.integers(1, 2**256 - 2**130).map(lambda n: n.to_bytes(32, "big"))

KINDS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    "bytes": st.binary(max_size=80),
    "bytes32": st.binary(min_size=32, max_size=32),
    "address": st.binary(min_size=20, max_size=20).map(lambda b: "0x" + b.hex()),
    "uint64": st.integers(0, 2**64 - 1),
    "uint128": st.integers(0, 2**128 - 1),
    "uint256": st.integers(0, 2**256 - 1),
    "bool": st.booleans(),
    "string[]": st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), max_size=4),
}


@given(st.data(), st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=9), st.integers(0, 2**64))
def test_digests_are_those_of_eth_account(data: st.DataObject, kinds: list[str], chain_id: int) -> None:
    fields = tuple((kind, f"f{index}") for index, kind in enumerate(kinds))
    message: dict[str, Value] = {name: data.draw(KINDS[kind]) for kind, name in fields}
    domain = Domain(data.draw(st.sampled_from(["local", "test", "é"])), chain_id)
    signable = encode_typed_data(
        full_message={
            "types": {
                "EIP712Domain": [
                    {"name": "name", "type": "string"},
                    {"name": "version", "type": "string"},
                    {"name": "chainId", "type": "uint256"},
                    {"name": "salt", "type": "bytes32"},
                ],
                "Message": [{"name": name, "type": kind} for kind, name in fields],
            },
            "primaryType": "Message",
            "domain": dict(domain.fields),
            "message": message,
        }
    )
    theirs = keccak256(b"\x19" + signable.version + signable.header + signable.body)
    assert digest(domain, Struct("Message", fields), message) == theirs


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint64", 2**64),
        ("uint64", -1),
        ("uint64", True),
        ("uint64", 1.0),
        ("bytes32", b"short"),
        ("address", "0x" + "a " * 20),
        ("address", "0x" + "aa" * 19),
        ("bool", 1),
        ("string", b"x"),
        ("string[]", "x"),
        ("string", "\ud800"),
        ("int8", 1),
    ],
)
def test_a_value_of_another_type_is_never_signed(kind: str, value: Any) -> None:
    with pytest.raises(ValueError):
        Struct("M", ((kind, "f"),)).struct_hash({"f": value})


def test_missing_and_further_fields_are_never_signed() -> None:
    struct = Struct("M", (("string", "a"),))
    for message in ({}, {"a": "x", "b": "y"}):
        with pytest.raises(ValueError, match="fields"):
            struct.struct_hash(message)


# --- keys ---


@given(SECRETS)
def test_one_key_is_account_and_peer(secret: bytes) -> None:
    key = NodeKey(secret)
    assert key.address == Account.from_key(secret).address.lower()
    assert address_of(key.peer_id) == key.address
    assert public_key_of(key.peer_id) == key.public_key
    assert peer_id_of(key.public_key) == key.peer_id
    assert key.peer_id.startswith("16Uiu2HA")
    assert secret.hex() not in repr(key)


@given(st.text(max_size=80))
def test_any_text_is_a_peer_id_or_refused(text: str) -> None:
    try:
        address_of(text)
    except RemoteProtocolError:
        return
    raise AssertionError("a random text is no PeerId")


def test_a_peer_id_has_one_spelling() -> None:
    peer = NodeKey.generate().peer_id
    for other in (peer + " ", " " + peer, peer + "\n", "1" + peer, peer[:-1], peer.lower(), "1" * 10_000):
        with pytest.raises(RemoteProtocolError):
            public_key_of(other)


@given(SECRETS, st.binary(min_size=32, max_size=32))
def test_signatures_are_those_of_eth_account_and_recover(secret: bytes, message: bytes) -> None:
    key = NodeKey(secret)
    signature = key.sign(message)
    assert signature == bytes(Account.from_key(secret).unsafe_sign_hash(message).signature)
    assert recover(message, signature) == key.public_key


@given(st.integers(0, 64), st.integers(1, 255))
def test_one_changed_byte_of_a_signature_is_not_the_signers(position: int, change: int) -> None:
    key = NodeKey(b"\x01" * 32)
    signature = bytearray(key.sign(b"\x02" * 32))
    signature[position] ^= change
    with contextlib.suppress(RemoteProtocolError):
        assert recover(b"\x02" * 32, bytes(signature)) != key.public_key


@given(st.binary(max_size=70))
def test_any_bytes_are_a_signature_or_refused(data: bytes) -> None:
    for signature in (data, (data + bytes(65))[:64] + b"\x1b"):
        with contextlib.suppress(RemoteProtocolError):
            recover(b"\x02" * 32, signature)


# --- records ---

KEY = NodeKey(b"\x05" * 32)


def signed(record: MarketRecord, key: NodeKey = KEY) -> MarketRecord:
    return replace(record, signature=key.sign(record.digest(DOMAIN)))


def an_offer(key: NodeKey = KEY) -> MarketRecord:
    new_id = new_subscription_id(key.peer_id)
    return signed(make_record(RecordKind.OFFER, new_id, key.peer_id, {"a": 0.0}, "()", now=NOW, sequence=1), key)


OFFER = an_offer()


def test_a_record_lives_from_its_issue_to_its_end() -> None:
    verify_record(OFFER, DOMAIN, now=NOW)
    verify_record(OFFER, DOMAIN, now=NOW - limits.MAX_CLOCK_SKEW_S)
    verify_record(OFFER, DOMAIN, now=NOW + limits.RECORD_TTL_S - 1)
    with pytest.raises(ExpiredRecordError):
        verify_record(OFFER, DOMAIN, now=NOW + limits.RECORD_TTL_S)
    with pytest.raises(RemoteProtocolError, match="future"):
        verify_record(OFFER, DOMAIN, now=NOW - limits.MAX_CLOCK_SKEW_S - 1)
    long = signed(replace(OFFER, expires_at=NOW + 2 * limits.RECORD_TTL_S))
    with pytest.raises(RemoteProtocolError, match="longer"):
        verify_record(long, DOMAIN, now=NOW)


@given(st.sampled_from(["content", "signature"]), st.integers(0, 500), st.integers(1, 255))
def test_one_changed_byte_of_a_record_is_refused(field: str, position: int, change: int) -> None:
    data = bytearray(getattr(OFFER, field))
    data[position % len(data)] ^= change
    changes: dict[str, Any] = {field: bytes(data)}
    with pytest.raises(RemoteProtocolError):
        verify_record(replace(OFFER, **changes), DOMAIN, now=NOW)


@pytest.mark.parametrize("domain", [Domain("other", DOMAIN.chain_id), Domain(DOMAIN.network, 1)])
def test_a_record_is_valid_on_one_network_and_chain_only(domain: Domain) -> None:
    with pytest.raises(RemoteProtocolError, match="not signed"):
        verify_record(OFFER, domain, now=NOW)


def test_an_id_belongs_to_its_issuer() -> None:
    other = NodeKey.generate()
    with pytest.raises(RemoteProtocolError, match="does not belong"):
        verify_record(signed(replace(OFFER, issuer=other.peer_id), other), DOMAIN, now=NOW)
    with pytest.raises(RemoteProtocolError, match="does not belong"):
        verify_record(signed(replace(OFFER, id=SubscriptionId("my own id"))), DOMAIN, now=NOW)


@given(st.binary(max_size=200))
def test_any_content_is_terms_or_refused(content: bytes) -> None:
    try:
        verify_record(signed(replace(OFFER, content=content)), DOMAIN, now=NOW)
    except RemoteProtocolError:
        return
    raise AssertionError("random bytes are no terms")


def test_a_renewal_and_a_withdrawal_are_later_versions() -> None:
    renewed = OFFER.renewed(now=NOW + 100, ttl_s=3600, sequence=1)
    gone = OFFER.withdrawn(now=NOW + 100, sequence=1)
    for later in (renewed, gone):
        assert later.sequence == 2
        assert later.signature == b""
        verify_record(signed(later), DOMAIN, now=NOW + 100)
    assert gone.content == b""


# --- vectors ---


def test_the_domain_is_that_of_the_vector() -> None:
    assert domain_separator(DOMAIN).hex() == VECTORS["domain"]["separator"]


@pytest.mark.parametrize("vector", VECTORS["ids"], ids=lambda v: v["id"][:8])
def test_subscription_ids_are_made_like_this(vector: dict[str, str]) -> None:
    assert subscription_id_of(PeerId(vector["issuer"]), bytes.fromhex(vector["nonce"])) == vector["id"]


@pytest.mark.parametrize("vector", VECTORS["records"], ids=lambda v: v["kind"])
def test_a_record_has_the_digest_and_signature_of_the_vector(vector: dict[str, Any]) -> None:
    record = MarketRecord(
        RecordKind(vector["kind"]),
        SubscriptionId(vector["id"]),
        PeerId(vector["issuer"]),
        vector["subnet"],
        vector["content"].encode(),
        vector["sequence"],
        vector["issuedAt"] / 1000,
        vector["expiresAt"] / 1000,
        bytes.fromhex(vector["signature"]),
    )
    assert record.digest(DOMAIN).hex() == vector["digest"]
    verify_record(record, DOMAIN, now=NOW)
    key = NodeKey(bytes.fromhex(VECTORS["keys"][vector["signer"]]))
    assert key.sign(record.digest(DOMAIN)).hex() == vector["signature"]


def test_an_agreement_has_the_digest_and_signatures_of_the_vector() -> None:
    vector = VECTORS["agreement"]
    message = {
        "id": vector["id"],
        "requestor": vector["requestor"],
        "provider": vector["provider"],
        "content": keccak256(vector["content"].encode()),
        "createdAt": vector["createdAt"],
        "validTo": vector["validTo"],
    }
    found = digest(DOMAIN, AGREEMENT_STRUCT, message)
    assert found.hex() == vector["digest"]
    for side in ("requestor", "provider"):
        key = NodeKey(bytes.fromhex(VECTORS["keys"][side]))
        assert key.address == vector[side]
        assert key.sign(found).hex() == vector["signatures"][side]


def test_the_document_shows_the_structs() -> None:
    from golemp2p.core import payment

    document = (Path(__file__).parents[3] / "protocols" / "signing.md").read_text()
    structs = [MARKET_RECORD, AGREEMENT_STRUCT] + [v for v in vars(payment).values() if isinstance(v, Struct)]
    for struct in structs:
        assert struct.type_string in document, struct.name
