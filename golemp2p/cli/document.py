"""Checking a saved agreement: no node, no network, nothing but the document (protocols/signing.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from golemp2p.core.agreement import AGREEMENT_STRUCT
from golemp2p.core.eip712 import Domain, Value, digest, keccak256
from golemp2p.core.ids import Address
from golemp2p.core.peer import address_of, recover_address
from golemp2p.errors import RemoteProtocolError, UsageError

SIDES: Final = (("demand", "requestor"), ("offer", "provider"))


def read_document(text: str) -> dict[str, Any]:
    """Raises UsageError for what is no agreement."""
    try:
        found = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"this is not an agreement: {exc}", hint="golemp2p agreement show ID --save FILE") from exc
    if not isinstance(found, dict) or not isinstance(found.get("agreement"), dict):
        raise UsageError("this is JSON, but not an agreement", hint="golemp2p agreement show ID --save FILE")
    return found


def check_document(found: Mapping[str, Any]) -> dict[str, bool]:
    """``requestor``, ``provider``: the signature is by that side, over the signed bytes, times, id and parties.

    ``terms``: what the document shows is what was signed. State, role, session, end and approval date are the saving
    node's word: nobody signed them. Raises nothing: a document that cannot be understood is not valid.
    """
    checks = {"requestor": False, "provider": False, "terms": False}
    try:
        sides: dict[str, Address] = {side: address_of(found[side]) for _, side in SIDES}
        parts, content = found["agreement"], found["content"]
        message: dict[str, Value] = {
            "id": parts["agreementId"],
            "requestor": sides["requestor"],
            "provider": sides["provider"],
            "content": keccak256(content.encode()),
            "createdAt": found["createdAtMs"],
            "validTo": found["validToMs"],
        }
        signed = digest(Domain(found["network"], found["chainId"]), AGREEMENT_STRUCT, message)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RemoteProtocolError, UsageError):
        return checks
    for side, address in sides.items():
        checks[side] = _signed_by(address, signed, found.get(f"{side}Signature"))
    checks["terms"] = _shows_what_was_signed(found, sides)
    return checks


def _signed_by(address: Address, signed: bytes, signature: object) -> bool:
    try:
        raw = bytes.fromhex(str(signature))
        return raw.hex() == signature and recover_address(signed, raw) == address
    except (ValueError, RemoteProtocolError):
        return False


def _shows_what_was_signed(found: Mapping[str, Any], sides: Mapping[str, Address]) -> bool:
    try:
        parts, signed = found["agreement"], json.loads(found["content"], object_pairs_hook=_no_duplicates)
        for kind, side in SIDES:
            for name in (f"{kind}Id", f"{side}Id", "properties", "constraints"):
                # As text: 0, 0.0 and false are three things.
                if _text(parts[kind][name]) != _text(signed[kind][name]):
                    return False
            if signed[kind][f"{side}Id"] != sides[side]:
                return False
        times = {"timestamp": found["createdAtMs"], "validTo": found["validToMs"]}
        shown = {"proposedSignature": "requestorSignature", "approvedSignature": "providerSignature"}
        return all(round(datetime.fromisoformat(parts[n]).timestamp() * 1000) == ms for n, ms in times.items()) and all(
            parts.get(name) == found[other] for name, other in shown.items()
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError):
        return False


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two values with one name readers would take different ones."""
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name is given twice")
    return dict(pairs)
