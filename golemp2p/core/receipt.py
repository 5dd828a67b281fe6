"""Receipts: what a provider signs for a deterministic run, and what anyone can check it by (protocols/receipts.md).

``content`` is the exact JSON of the evidence that was signed and is never encoded again. It says what ran (the
program's hash, arguments, environment, the files before) and what came of it (the files after, hashes of both output
streams, how it ended, the fuel). Re-running it elsewhere must give the same content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Final, TypeGuard

from golemp2p import limits
from golemp2p.core.eip712 import Domain, Struct, digest, keccak256
from golemp2p.core.ids import ActivityId, Address, AgreementId, BatchId, PeerId
from golemp2p.core.peer import address_of, recover_address
from golemp2p.errors import RemoteProtocolError

RECEIPT: Final = Struct(
    "Receipt",
    (
        ("string", "agreementId"),
        ("string", "activityId"),
        ("string", "batchId"),
        ("uint64", "command"),
        ("address", "provider"),
        ("bytes32", "content"),
        ("uint64", "issuedAt"),
    ),
)
_SHA256: Final = re.compile("[0-9a-f]{64}", re.ASCII)
_ENTRY: Final = re.compile("[0-9a-f]{64}|directory|link:.*", re.ASCII | re.DOTALL)
_MOST: Final = 2**63
_LATEST_MS: Final = 253_402_300_799_000

Listing = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Evidence:
    """The content, read. Listings: volume -> path in it -> sha256, "directory" or "link:<target>"."""

    program: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    inputs: Listing
    outputs: Listing
    stdout: str
    stderr: str
    exit_code: int
    reason: str
    fuel: int
    fuel_limit: int | None
    memory_limit_bytes: int
    engine: str
    config: str
    architecture: str


@dataclass(frozen=True)
class Receipt:
    """Signed by ``provider`` for one network and chain. ``command`` counts from 0 in its batch; ``issued_at`` in s."""

    agreement_id: AgreementId
    activity_id: ActivityId
    batch_id: BatchId
    command: int
    provider: PeerId
    content: bytes
    issued_at: float
    domain: Domain
    signature: bytes = b""

    @property
    def provider_address(self) -> Address:
        return address_of(self.provider)

    @cached_property
    def evidence(self) -> Evidence:
        """Raises RemoteProtocolError when the content is malformed."""
        return parse_evidence(self.content)

    @property
    def size_bytes(self) -> int:
        return len(self.content) + 500

    def digest(self) -> bytes:
        """What is signed. Raises ValueError for what cannot be."""
        return digest(
            self.domain,
            RECEIPT,
            {
                "agreementId": self.agreement_id,
                "activityId": self.activity_id,
                "batchId": self.batch_id,
                "command": self.command,
                "provider": self.provider_address,
                "content": keccak256(self.content),
                "issuedAt": round(self.issued_at * 1000),
            },
        )

    def to_document(self) -> dict[str, object]:
        """As it is stored and shown: JSON's types only."""
        return {
            "agreementId": self.agreement_id,
            "activityId": self.activity_id,
            "batchId": self.batch_id,
            "command": self.command,
            "provider": self.provider,
            "content": self.content.decode(),
            "issuedAtMs": round(self.issued_at * 1000),
            "network": self.domain.network,
            "chainId": self.domain.chain_id,
            "signature": self.signature.hex(),
        }

    @classmethod
    def from_document(cls, document: object) -> Receipt:
        """Form only, no signature. Unknown keys are ignored. Raises RemoteProtocolError saying what is wrong."""
        if not isinstance(document, dict):
            raise RemoteProtocolError("a receipt is an object")
        content = _text(document, "content").encode()
        if len(content) > limits.MAX_RECEIPT_BYTES:
            raise RemoteProtocolError(f"the receipt's content is larger than {limits.MAX_RECEIPT_BYTES} bytes")
        provider = PeerId(_text(document, "provider"))
        address_of(provider)
        issued_at_ms = _count(document, "issuedAtMs")
        if issued_at_ms > _LATEST_MS:
            raise RemoteProtocolError("the receipt's issuedAtMs is beyond the year 9999")
        try:
            signature = bytes.fromhex(_text(document, "signature"))
        except ValueError as exc:
            raise RemoteProtocolError("the receipt's signature is no hexadecimal text") from exc
        if signature.hex() != document["signature"]:
            raise RemoteProtocolError("the receipt's signature is not in lower case")  # one document, one spelling
        return cls(
            AgreementId(_text(document, "agreementId")),
            ActivityId(_text(document, "activityId")),
            BatchId(_text(document, "batchId")),
            _count(document, "command"),
            provider,
            content,
            issued_at_ms / 1000,
            Domain(_text(document, "network"), _count(document, "chainId")),
            signature,
        )


def encode_evidence(evidence: Mapping[str, object]) -> bytes:
    """JSON with sorted names, no white space, UTF-8 as it is; there are no fractions in it."""
    return json.dumps(evidence, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse_evidence(content: bytes) -> Evidence:
    """Raises RemoteProtocolError. Unknown names are ignored, so that a later version can add some."""
    try:
        found = json.loads(content, object_pairs_hook=_no_duplicates, parse_float=_no_fractions)
    except (ValueError, RecursionError) as exc:
        raise RemoteProtocolError(f"the receipt's content is not JSON of evidence: {exc}") from exc
    if not isinstance(found, dict):
        raise RemoteProtocolError("the receipt's content is not an object")
    env = found.get("env")
    if not isinstance(env, list) or not all(_is_texts(pair) and len(pair) == 2 for pair in env):
        raise RemoteProtocolError("the receipt's env is no list of pairs")
    if not _is_texts(argv := found.get("argv")):
        raise RemoteProtocolError("the receipt's argv is no list of texts")
    return Evidence(
        program=_hash(found, "program"),
        argv=tuple(argv),
        env=tuple((name, value) for name, value in env),
        inputs=_listing(found, "inputs"),
        outputs=_listing(found, "outputs"),
        stdout=_hash(found, "stdout"),
        stderr=_hash(found, "stderr"),
        exit_code=_count(found, "exitCode"),
        reason=_text(found, "reason"),
        fuel=_count(found, "fuel"),
        fuel_limit=None if found.get("fuelLimit") is None else _count(found, "fuelLimit"),
        memory_limit_bytes=_count(found, "memoryLimit"),
        engine=_text(found, "engine"),
        config=_text(found, "config"),
        architecture=_text(found, "architecture"),
    )


def verify_receipt(receipt: Receipt) -> None:
    """Form and signature. Raises RemoteProtocolError saying which is wrong."""
    _ = receipt.evidence
    try:
        signed = receipt.digest()
    except (ValueError, OverflowError) as exc:
        raise RemoteProtocolError(f"the receipt cannot have been signed: {exc}") from exc
    if recover_address(signed, receipt.signature) != receipt.provider_address:
        raise RemoteProtocolError(
            f"the receipt is not signed by {receipt.provider}",
            hint="or something in it was changed: its content, the ids, the time, the network's name or the chain",
        )


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name is given twice")
    return dict(pairs)


def _no_fractions(text: str) -> float:
    raise ValueError(f"{text[:20]} is not a whole number")


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise RemoteProtocolError(f"the receipt's {name} is missing or no text")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise RemoteProtocolError(f"the receipt's {name} holds a lone surrogate") from exc
    return value


def _hash(found: Mapping[str, Any], name: str) -> str:
    value = _text(found, name)
    if not _SHA256.fullmatch(value):
        raise RemoteProtocolError(f"the receipt's {name} is no sha256")
    return value


def _count(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
        raise RemoteProtocolError(f"the receipt's {name} is missing or no number from 0 up")
    return value


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _listing(found: Mapping[str, Any], name: str) -> Listing:
    value = found.get(name)
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"the receipt's {name} is no object")
    for volume, files in value.items():
        if not volume.startswith("/") or not isinstance(files, dict):
            raise RemoteProtocolError(f"the receipt's {name} has no listing of volume {volume[:80]!r}")
        for path, entry in files.items():
            if not isinstance(entry, str) or not _ENTRY.fullmatch(entry) or not is_inner_path(path):
                raise RemoteProtocolError(f"the receipt's {name} has a malformed entry {path[:80]!r}")
            # Nothing lies below a link: who lays the files out again must not be led astray.
            if any(files.get(str(parent), "directory") != "directory" for parent in PurePosixPath(path).parents):
                raise RemoteProtocolError(f"the receipt's {name} has {path[:80]!r} below what is no directory")
    return value


def is_inner_path(path: str) -> bool:
    """A relative path without ``..`` and empty parts: it leads to nowhere but below."""
    return "\0" not in path and all(part not in ("", ".", "..") for part in path.split("/"))
