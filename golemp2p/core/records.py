"""Market records: offers, demands and withdrawals, signed by their issuer, expiring, with a sequence.

Anyone can verify a record offline: the PeerId holds the public key, the EIP-712 domain names network and chain. Of
two records with one id the higher sequence counts; a withdrawal is the last word. ``content`` is the exact JSON
(``{"constraints": …, "properties": {…}}``) that was signed and is never encoded again.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Final

from golemp2p import limits
from golemp2p.core.constraints import Terms, parse
from golemp2p.core.eip712 import Domain, Struct, Value, digest, keccak256
from golemp2p.core.ids import Address, PeerId, SubscriptionId
from golemp2p.core.peer import address_of, public_key_of, recover
from golemp2p.core.properties import Properties, encode, flatten
from golemp2p.errors import RemoteProtocolError, UsageError

MARKET_RECORD: Final = Struct(
    "MarketRecord",
    (
        ("string", "kind"),
        ("string", "id"),
        ("address", "issuer"),
        ("string", "subnet"),
        ("bytes32", "content"),
        ("uint64", "sequence"),
        ("uint64", "issuedAt"),
        ("uint64", "expiresAt"),
    ),
)

SUBNET_PROPERTY: Final = "golem.node.debug.subnet"
_ID: Final = re.compile("([0-9a-f]{32})-([0-9a-f]{64})", re.ASCII)


class UntimelyRecordError(RemoteProtocolError):
    """Not within the record's life, by our clock. Nobody's fault: whoever passed it on has another clock."""


class ExpiredRecordError(UntimelyRecordError):
    """The record's life is over; it may have been long under way."""

    code = "expired"


def new_subscription_id(issuer: PeerId) -> SubscriptionId:
    return subscription_id_of(issuer, secrets.token_bytes(16))


def subscription_id_of(issuer: PeerId, nonce: bytes) -> SubscriptionId:
    """``nonce - keccak(address ‖ nonce)``: an id belongs to its issuer, so nobody can occupy another one's."""
    return SubscriptionId(f"{nonce.hex()}-{keccak256(bytes.fromhex(address_of(issuer)[2:]) + nonce).hex()}")


class RecordKind(StrEnum):
    OFFER = "offer"
    DEMAND = "demand"
    WITHDRAWAL = "withdrawal"


@dataclass(frozen=True)
class MarketRecord:
    """Times are seconds since the epoch with millisecond precision; ``signature`` is r ‖ s ‖ v."""

    kind: RecordKind
    id: SubscriptionId
    issuer: PeerId
    subnet: str
    content: bytes
    sequence: int
    issued_at: float
    expires_at: float
    signature: bytes = b""

    @property
    def address(self) -> Address:
        return address_of(self.issuer)

    @cached_property
    def terms(self) -> Terms:
        """Properties and constraints. Raises RemoteProtocolError when the content is malformed."""
        return decode_terms(self.content)

    @property
    def properties(self) -> Properties:
        return self.terms.properties

    @property
    def constraints(self) -> str:
        return self.terms.constraints

    def digest(self, domain: Domain) -> bytes:
        message: dict[str, Value] = {
            "kind": self.kind,
            "id": self.id,
            "issuer": self.address,
            "subnet": self.subnet,
            "content": keccak256(self.content),
            "sequence": self.sequence,
            "issuedAt": round(self.issued_at * 1000),
            "expiresAt": round(self.expires_at * 1000),
        }
        return digest(domain, MARKET_RECORD, message)

    def renewed(self, *, now: float, ttl_s: float, sequence: int) -> MarketRecord:
        """The same record with a later life, unsigned."""
        return replace(
            self,
            issued_at=_ms(now),
            expires_at=_ms(now + ttl_s),
            sequence=max(sequence, self.sequence + 1),
            signature=b"",
        )

    def withdrawn(self, *, now: float, sequence: int) -> MarketRecord:
        """The withdrawal of this record, unsigned. It lives as long as the record could have."""
        return replace(
            self,
            kind=RecordKind.WITHDRAWAL,
            content=b"",
            issued_at=_ms(now),
            expires_at=_ms(max(now, self.expires_at)),
            sequence=max(sequence, self.sequence + 1),
            signature=b"",
        )


def _ms(seconds: float) -> float:
    return round(seconds * 1000) / 1000


def encode_terms(properties: Properties, constraints: str) -> bytes:
    """Raises UsageError (malformed constraints, too large)."""
    parse(constraints)
    _require_small(properties)
    return encode({"properties": properties, "constraints": constraints})


def _require_small(properties: Properties) -> None:
    if (size := len(encode(properties))) > limits.MAX_PROPERTIES_BYTES:
        raise UsageError(f"the properties have {size} bytes", hint=f"at most {limits.MAX_PROPERTIES_BYTES}")


def decode_terms(content: bytes) -> Terms:
    """The same limits as for our own. Raises RemoteProtocolError."""
    try:
        document = json.loads(content)
        if not isinstance(document, dict) or set(document) != {"properties", "constraints"}:
            raise RemoteProtocolError("the terms are not {properties, constraints}")
        if not isinstance(document["properties"], dict) or not isinstance(document["constraints"], str):
            raise RemoteProtocolError("the terms are not {properties: object, constraints: string}")
        parse(document["constraints"])
        properties = flatten(document["properties"])
        _require_small(properties)
        return Terms(properties, document["constraints"])
    except (ValueError, RecursionError, UsageError) as exc:
        raise RemoteProtocolError(f"malformed terms: {exc}") from exc


def make_record(
    kind: RecordKind,
    record_id: SubscriptionId,
    issuer: PeerId,
    properties: Properties,
    constraints: str,
    *,
    now: float,
    ttl_s: float = limits.RECORD_TTL_S,
    sequence: int,
) -> MarketRecord:
    """An unsigned record. The subnet is read off the properties ("public" when absent). Raises UsageError."""
    subnet = properties.get(SUBNET_PROPERTY, "public")
    if isinstance(subnet, list) or not 0 < len(str(subnet)) <= limits.MAX_SUBNET_CHARS:
        raise UsageError(
            f"{SUBNET_PROPERTY} is no name of a subnet", hint=f"text of 1 to {limits.MAX_SUBNET_CHARS} characters"
        )
    return MarketRecord(
        kind,
        record_id,
        issuer,
        str(subnet),
        encode_terms(properties, constraints),
        sequence,
        _ms(now),
        _ms(now + ttl_s),
    )


def verify_record(record: MarketRecord, domain: Domain, *, now: float) -> None:
    """Form, life and signature. Raises RemoteProtocolError saying which rule is broken (UntimelyRecordError: life)."""
    if len(record.content) + len(record.id) + len(record.subnet) > limits.MAX_RECORD_BYTES:
        raise RemoteProtocolError(f"record {record.id[:80]} is larger than {limits.MAX_RECORD_BYTES} bytes")
    if record.expires_at <= now:
        raise ExpiredRecordError(f"record {record.id} expired {now - record.expires_at:.1f} s ago")
    if record.issued_at > now + limits.MAX_CLOCK_SKEW_S:
        raise UntimelyRecordError(f"record {record.id} is issued {record.issued_at - now:.0f} s in the future")
    if record.expires_at - record.issued_at > limits.RECORD_TTL_S + 1:
        raise RemoteProtocolError(f"record {record.id} lives longer than {limits.RECORD_TTL_S:.0f} s")
    nonce = _ID.fullmatch(record.id)
    if nonce is None or subscription_id_of(record.issuer, bytes.fromhex(nonce[1])) != record.id:
        raise RemoteProtocolError(f"record id {record.id[:120]!r} does not belong to its issuer {record.issuer}")
    if record.kind is RecordKind.WITHDRAWAL and record.content:
        raise RemoteProtocolError(f"the withdrawal {record.id} has content")
    if recover(record.digest(domain), record.signature) != public_key_of(record.issuer):
        raise RemoteProtocolError(
            f"record {record.id} is not signed by its issuer {record.issuer}",
            hint="or its node has another network name or chain id: both are part of what is signed",
        )
    if record.kind is not RecordKind.WITHDRAWAL:
        _ = record.terms
