"""The signed, expiring envelope around every DHT value (protocols/gossip.md, section DHT). No libp2p here.

``msgpack([1, key, value, sequence_ms, expires_s, signature])``; the 65-byte signature is over
``keccak256("golemp2p-dht-record:1:" + msgpack([network, key, value, sequence_ms, expires_s]))`` and its key is
recovered from it. Keys ``address/<0x…>`` and ``peer/<PeerId>`` (each also with ``/…`` behind) belong to that key's
owner; any other key takes anybody's record, the newest wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgpack

from golemp2p import limits
from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import PeerId
from golemp2p.core.peer import address_of, peer_id_of, recover
from golemp2p.errors import RemoteProtocolError, UsageError
from golemp2p.identity.keys import Signer

VERSION: Final = 1
_CONTEXT: Final = b"golemp2p-dht-record:1:"
_OVERHEAD_BYTES: Final = 512  # key, numbers and signature beside the value


@dataclass(frozen=True)
class Record:
    key: str
    value: bytes
    sequence_ms: int
    expires_s: int
    signer: PeerId


def _digest(network: str, key: str, value: bytes, sequence_ms: int, expires_s: int) -> bytes:
    return keccak256(_CONTEXT + bytes(msgpack.packb([network, key, value, sequence_ms, expires_s])))


def owner_allows(key: str, signer: PeerId) -> bool:
    kind, _, rest = key.partition("/")
    owner = rest.partition("/")[0]
    if kind == "peer":
        return owner == signer
    if kind == "address":
        return owner == address_of(signer)
    return True


def seal(signer: Signer, network: str, key: str, value: bytes, *, now_s: float, ttl_s: float) -> bytes:
    """Raises UsageError (too large, or a key that belongs to somebody else)."""
    if len(value) > limits.DHT_RECORD_MAX_BYTES or len(key) > 256:
        raise UsageError(f"a DHT record of {len(value)} bytes", hint=f"at most {limits.DHT_RECORD_MAX_BYTES}")
    if not owner_allows(key, signer.peer_id):
        raise UsageError(f"the DHT key {key!r} belongs to another key than {signer.address}")
    sequence_ms, expires_s = int(now_s * 1000), int(now_s + ttl_s)
    signature = signer.sign(_digest(network, key, value, sequence_ms, expires_s))
    return bytes(msgpack.packb([VERSION, key, value, sequence_ms, expires_s, signature]))


def unseal(data: bytes, network: str, key: str, *, now_s: float) -> Record:
    """Check everything. Raises RemoteProtocolError naming what is wrong."""
    if len(data) > limits.DHT_RECORD_MAX_BYTES + _OVERHEAD_BYTES:
        raise RemoteProtocolError(f"DHT record of {len(data)} bytes")
    try:
        fields = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException, RecursionError) as exc:
        raise RemoteProtocolError("DHT record is not msgpack") from exc
    match fields:
        case [int(version), str(found), bytes(value), int(sequence_ms), int(expires_s), bytes(signature)]:
            pass
        case _:
            raise RemoteProtocolError("DHT record has other fields than it must")
    if version != VERSION or found != key:
        raise RemoteProtocolError(f"DHT record of version {version} for {found!r} at {key!r}")
    if not now_s < expires_s <= now_s + limits.DHT_RECORD_TTL_S + limits.MAX_CLOCK_SKEW_S:
        raise RemoteProtocolError("DHT record is expired or lives too long")
    if sequence_ms > (now_s + limits.MAX_CLOCK_SKEW_S) * 1000:
        raise RemoteProtocolError("DHT record is from the future")
    signer = peer_id_of(recover(_digest(network, key, value, sequence_ms, expires_s), signature))
    if not owner_allows(key, signer):
        raise RemoteProtocolError(f"DHT record at {key!r} is signed by {signer}, who does not own that key")
    return Record(key, value, sequence_ms, expires_s, signer)
