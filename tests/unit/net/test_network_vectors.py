"""protocols/vectors/networks.json: data for a second implementation, checked against this one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from golemp2p.core.ids import PeerId, SubscriptionId
from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.market.book import OrderBook, record_key
from golemp2p.market.rendezvous import key_of, shard_of
from golemp2p.net.libp2p.pnet import NONCE_BYTES, prologue_of, xsalsa20

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[3] / "protocols" / "vectors" / "networks.json").read_text()
)


def test_prologues() -> None:
    for one in VECTORS["prologues"]:
        assert prologue_of(one["network"], bytes.fromhex(one["psk"]) or None) == one["prologue"].encode()


def test_the_first_bytes_of_a_private_connection() -> None:
    for one in VECTORS["private_connection"]:
        nonce, sent = bytes.fromhex(one["nonce"]), bytes.fromhex(one["on_the_wire"])
        assert sent[:NONCE_BYTES] == nonce
        assert xsalsa20(bytes.fromhex(one["psk"]), nonce).decrypt(sent[NONCE_BYTES:]) == one["plain"].encode()


def test_keys_states_and_buckets_of_records() -> None:
    for one in VECTORS["record_keys"]:
        key = record_key(SubscriptionId(one["id"]))
        assert key.hex() == one["key"]
        assert hashlib.blake2b(key + one["sequence"].to_bytes(8, "big"), digest_size=8).hexdigest() == one["state"]
        book = OrderBook()
        record_id, issuer = SubscriptionId(one["id"]), PeerId("p")
        book.apply(MarketRecord(RecordKind.OFFER, record_id, issuer, "public", b"", one["sequence"], 0.0, 1.0))
        assert book.buckets()[8 * key[0] : 8 * key[0] + 8].hex() == one["state"]
        assert book.buckets().count(0) >= 255 * 8


def test_where_providers_are_found() -> None:
    for one in VECTORS["rendezvous"]:
        assert key_of(one["subnet"], one["runtime"], shard_of(one["peer"])) == one["key"]
