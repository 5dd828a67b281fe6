"""An agreement out of a journal: both signatures, who is who, and the terms that the rest is measured by."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from golemp2p.core.agreement import AGREEMENT_STRUCT, Agreement, AgreementState, Role
from golemp2p.core.eip712 import Domain, digest
from golemp2p.core.ids import Address, AgreementId, PeerId, SubscriptionId
from golemp2p.core.peer import address_of, recover_address
from golemp2p.core.properties import flatten
from golemp2p.core.records import subscription_id_of
from golemp2p.errors import RemoteProtocolError, UsageError

_FIELDS: Final = {
    "network": str,
    "chainId": int,
    "id": str,
    "requestor": str,
    "provider": str,
    "content": str,
    "createdAt": int,
    "validTo": int,
    "requestorSignature": str,
    "providerSignature": str,
}
_SUBSCRIPTION: Final = re.compile("([0-9a-f]{32})-[0-9a-f]{64}", re.ASCII)
_PLATFORM: Final = re.compile(r"golem\.com\.payment\.platform\.([^.]+)\.address")


@dataclass(frozen=True)
class SignedAgreement:
    """``domain``: it and all documents under it are signed in it. ``platforms``: the agreed one, or those possible."""

    agreement: Agreement
    domain: Domain
    platforms: frozenset[str]

    @property
    def id(self) -> str:
        return self.agreement.id

    @property
    def payer(self) -> Address:
        return self.agreement.requestor_address

    @property
    def payee(self) -> Address:
        return self.agreement.provider_address


def read_agreement(body: dict[str, Any]) -> SignedAgreement:
    """Raises RemoteProtocolError saying what does not hold."""
    if set(body) != set(_FIELDS) or any(type(body[name]) is not kind for name, kind in _FIELDS.items()):
        raise RemoteProtocolError(f"an agreement has the fields {', '.join(_FIELDS)}")
    domain = Domain(body["network"], body["chainId"])
    try:
        agreement = _agreement(body)
        signed = digest(domain, AGREEMENT_STRUCT, agreement.signed_message())
        signatures = {role: bytes.fromhex(body[f"{role}Signature"]) for role in ("requestor", "provider")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as exc:
        raise RemoteProtocolError(f"the agreement's content is malformed: {exc}") from exc
    for role, address in (("requestor", agreement.requestor_address), ("provider", agreement.provider_address)):
        try:
            signer = recover_address(signed, signatures[role])
        except RemoteProtocolError:
            signer = Address("")
        if signer != address:
            raise RemoteProtocolError(f"the agreement is not signed by its {role}: something in it was changed")
    _check_ids(agreement, json.loads(agreement.content))
    return SignedAgreement(agreement, domain, _platforms(agreement))


def _agreement(body: dict[str, Any]) -> Agreement:
    content = json.loads(body["content"], object_pairs_hook=_no_duplicates)
    demand, offer = content["demand"], content["offer"]
    return Agreement(
        id=AgreementId(body["id"]),
        role=Role.REQUESTOR,
        requestor=PeerId(body["requestor"]),
        provider=PeerId(body["provider"]),
        demand_id=SubscriptionId(demand["demandId"]),
        offer_id=SubscriptionId(offer["offerId"]),
        demand=flatten(demand["properties"]),
        offer=flatten(offer["properties"]),
        demand_constraints=str(demand["constraints"]),
        offer_constraints=str(offer["constraints"]),
        content=body["content"].encode(),
        created_at=body["createdAt"] / 1000,
        valid_to=body["validTo"] / 1000,
        state=AgreementState.APPROVED,
    )


def _check_ids(agreement: Agreement, content: dict[str, Any]) -> None:
    """Offer and demand belong to the two who signed: their ids say whose they are."""
    for name, side, subscription, peer in (
        ("demand", "requestor", agreement.demand_id, agreement.requestor),
        ("offer", "provider", agreement.offer_id, agreement.provider),
    ):
        nonce = _SUBSCRIPTION.fullmatch(subscription)
        if content[name].get(f"{side}Id") != address_of(peer):
            raise RemoteProtocolError(f"the {name} in the agreement is not its {side}'s")
        if nonce is None or subscription_id_of(peer, bytes.fromhex(nonce[1])) != subscription:
            raise RemoteProtocolError(f"the {name}'s id does not belong to the agreement's {side}")


def _platforms(agreement: Agreement) -> frozenset[str]:
    if agreement.payment_platform is not None:
        return frozenset({agreement.payment_platform})
    return frozenset(m[1] for name in agreement.demand if name in agreement.offer and (m := _PLATFORM.fullmatch(name)))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name is given twice")
    return dict(pairs)
