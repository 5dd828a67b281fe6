"""PeerId <-> public key <-> Ethereum address, without libp2p (libp2p peer-id spec; Ethereum yellow paper, app. F).

A secp256k1 PeerId is the base58 of an identity multihash over the protobuf ``PublicKey{type: Secp256k1, data}``,
so it contains the 33-byte compressed public key and the address follows without a look-up.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import base58
import coincurve

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address, PeerId
from golemp2p.errors import RemoteProtocolError

_PREFIX: Final = bytes.fromhex("0025" + "08021221")  # identity multihash of 37 bytes; key type 2; 33 bytes of data


def peer_id_of(public_key: bytes) -> PeerId:
    """``public_key``: 33 bytes, compressed secp256k1."""
    if len(public_key) != 33:
        raise ValueError("a compressed secp256k1 public key has 33 bytes")
    return PeerId(base58.b58encode(_PREFIX + public_key).decode())


def public_key_of(peer_id: str) -> bytes:
    """The 33-byte key inside a PeerId. Raises RemoteProtocolError for other key types and garbage."""
    if len(peer_id) > 64:  # base58 takes quadratic time
        raise RemoteProtocolError(f"{peer_id[:64]!r}… is too long for a PeerId")
    try:
        raw = bytes(base58.b58decode(peer_id))
    except ValueError as exc:
        raise RemoteProtocolError(f"{peer_id!r} is not a PeerId") from exc
    if base58.b58encode(raw).decode() != peer_id:  # the decoder skips white space: one key would have many names
        raise RemoteProtocolError(f"{peer_id!r} is not a PeerId")
    if len(raw) != 39 or not raw.startswith(_PREFIX):
        raise RemoteProtocolError(f"PeerId {peer_id!r} has no secp256k1 key", hint="golemp2p nodes use Ethereum keys")
    return raw[6:]


def address_of_key(public_key: bytes) -> Address:
    """``public_key``: 33 or 65 bytes."""
    uncompressed = coincurve.PublicKey(public_key).format(compressed=False)
    return Address("0x" + keccak256(uncompressed[1:])[-20:].hex())


@lru_cache(maxsize=4096)
def address_of(peer_id: str) -> Address:
    """The Ethereum address (lower case) of a PeerId. Raises RemoteProtocolError."""
    try:
        return address_of_key(public_key_of(peer_id))
    except ValueError as exc:
        raise RemoteProtocolError(f"PeerId {peer_id!r} holds no point of the curve") from exc


def recover(digest: bytes, signature: bytes) -> bytes:
    """The compressed public key that made ``signature`` (r ‖ s ‖ v, v 27 or 28, low s) over ``digest``.

    There is one spelling of a signature. Raises RemoteProtocolError when it is malformed.
    """
    if len(signature) != 65:
        raise RemoteProtocolError(f"a signature has 65 bytes, not {len(signature)}")
    v = signature[64] - 27
    if v not in (0, 1) or int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        raise RemoteProtocolError("the signature is not canonical")
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature[:64] + bytes([v]), digest, hasher=None)
    except ValueError as exc:
        raise RemoteProtocolError("the signature is invalid") from exc
    return bytes(key.format(compressed=True))


def recover_address(digest: bytes, signature: bytes) -> Address:
    return address_of_key(recover(digest, signature))


_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
