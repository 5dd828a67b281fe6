"""DHT records: who may write what, and for how long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.errors import RemoteProtocolError, UsageError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.ratelimit import RateLimit
from golemp2p.net.record import seal, unseal

VECTORS = json.loads((Path(__file__).parents[3] / "protocols" / "vectors" / "dht_records.json").read_text())
KEY, OTHER = NodeKey((1).to_bytes(32, "big")), NodeKey((2).to_bytes(32, "big"))
NOW = 1_800_000_000.0


@pytest.mark.parametrize("vector", VECTORS)
def test_vectors_are_made_and_read_byte_for_byte(vector: dict[str, str]) -> None:
    key = NodeKey(bytes.fromhex(vector["secret"]))
    now, ttl = float(vector["now_s"]), float(vector["ttl_s"])
    sealed = seal(key, vector["network"], vector["key"], bytes.fromhex(vector["value"]), now_s=now, ttl_s=ttl)
    assert sealed.hex() == vector["record"]
    record = unseal(sealed, vector["network"], vector["key"], now_s=now)
    assert (record.value.hex(), record.signer) == (vector["value"], key.peer_id)


def test_an_owned_key_takes_only_its_owners_records() -> None:
    for name in (f"peer/{KEY.peer_id}", f"address/{KEY.address}/note"):
        assert unseal(seal(KEY, "n", name, b"v", now_s=NOW, ttl_s=60), "n", name, now_s=NOW).value == b"v"
        with pytest.raises(UsageError):
            seal(OTHER, "n", name, b"v", now_s=NOW, ttl_s=60)


def test_other_networks_keys_times_and_versions_are_refused() -> None:
    sealed = seal(KEY, "n", f"peer/{KEY.peer_id}", b"v", now_s=NOW, ttl_s=60)
    with pytest.raises(RemoteProtocolError):  # the recovered signer is then a stranger
        unseal(sealed, "m", f"peer/{KEY.peer_id}", now_s=NOW)
    with pytest.raises(RemoteProtocolError):
        unseal(sealed, "n", "another", now_s=NOW)
    for now in (NOW + 61, NOW - 10_000):
        with pytest.raises(RemoteProtocolError):
            unseal(sealed, "n", f"peer/{KEY.peer_id}", now_s=now)
    with pytest.raises(RemoteProtocolError):
        unseal(seal(KEY, "n", "k", b"v", now_s=NOW, ttl_s=10**6), "n", "k", now_s=NOW)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_a_protocol_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unseal(data, "n", "k", now_s=NOW)


def test_a_rate_limit_allows_a_burst_then_the_rate_and_forgets_old_keys() -> None:
    limit = RateLimit(2.0, 3, max_keys=2)
    assert [limit.allow("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert limit.allow("a", 0.5)
    assert not limit.allow("a", 0.5)
    assert limit.allow("b", 0.5)
    assert limit.allow("c", 0.5)  # "a" is forgotten
    assert limit.allow("a", 0.5)
