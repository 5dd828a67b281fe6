"""A saved agreement is checked from the file alone, and no byte of what was signed can be changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from golemp2p.api.agreements import agreement_of
from golemp2p.cli.agreement import app
from golemp2p.cli.document import check_document, read_document
from golemp2p.core.agreement import AGREEMENT_STRUCT, Agreement, AgreementState, Role
from golemp2p.core.eip712 import Domain, digest
from golemp2p.core.ids import SubscriptionId, new_agreement_id
from golemp2p.core.properties import Properties
from golemp2p.errors import UsageError
from golemp2p.identity.keys import NodeKey

DOMAIN = Domain("testnet", 31337)


@pytest.fixture(scope="module")
def text() -> str:
    """As GET /golemp2p/v1/agreements/{id} has it."""
    requestor, provider = NodeKey.generate(), NodeKey.generate()
    demand: Properties = {"golem.srv.comp.expiration": 1_900_000_000_000, "price.cap": 0.0}
    offer: Properties = {"golem.inf.mem.gib": 4.0, "golem.com.pricing.model.linear.coeffs": [0.1, 0.2, 0.0]}
    terms = {
        "demand": {
            "demandId": "d",
            "requestorId": requestor.address,
            "properties": demand,
            "constraints": "(a=1)",
            "timestamp": 1,
        },
        "offer": {
            "offerId": "o",
            "providerId": provider.address,
            "properties": offer,
            "constraints": "()",
            "timestamp": 2,
        },
    }
    made = Agreement(
        id=new_agreement_id(),
        role=Role.REQUESTOR,
        requestor=requestor.peer_id,
        provider=provider.peer_id,
        demand_id=SubscriptionId("d"),
        offer_id=SubscriptionId("o"),
        demand=demand,
        offer=offer,
        demand_constraints="(a=1)",
        offer_constraints="()",
        content=json.dumps(terms, sort_keys=True, separators=(",", ":")).encode(),
        created_at=datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC).timestamp(),
        valid_to=datetime(2026, 1, 2, 4, 4, 5, 678_000, UTC).timestamp(),
        state=AgreementState.APPROVED,
    )
    signed = digest(DOMAIN, AGREEMENT_STRUCT, made.signed_message())
    made = replace(made, requestor_signature=requestor.sign(signed), provider_signature=provider.sign(signed))
    return json.dumps(
        {
            "agreement": agreement_of(made).to_json(),
            "role": "requestor",
            "requestor": made.requestor,
            "provider": made.provider,
            "content": made.content.decode(),
            "createdAtMs": round(made.created_at * 1000),
            "validToMs": round(made.valid_to * 1000),
            "network": DOMAIN.network,
            "chainId": DOMAIN.chain_id,
            "requestorSignature": made.requestor_signature.hex(),
            "providerSignature": made.provider_signature.hex(),
        }
    )


def run(path: Path, *arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, ["verify", str(path), *arguments])
    return ended.exit_code, ended.stdout


def test_an_untouched_file_is_valid(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    code, told = run(tmp_path / "a.json")
    assert code == 0
    assert "requestor's signature: valid" in told
    assert "provider's signature: valid" in told
    assert CliRunner().invoke(app, ["verify", "-"], input=text).exit_code == 0


def test_no_byte_of_the_signed_content_can_be_changed(text: str, tmp_path: Path) -> None:
    start = text.index('"content"') + len('"content": "')
    end = text.index('"createdAtMs"') - len('", ')
    assert end - start > 200
    for position in range(start, end):
        changed = text[:position] + ("x" if text[position] != "x" else "y") + text[position + 1 :]
        (tmp_path / "a.json").write_text(changed)
        try:
            found = read_document(changed)
        except UsageError:  # no JSON any more
            continue
        assert not all(check_document(found).values())
    assert run(tmp_path / "a.json")[0] == 1


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(document: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for name in parents:
            document = document[name]
        document[last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("network", "mainnet"),
        ("chainId", 1),
        ("chainId", "31337"),
        ("createdAtMs", 1),
        ("validToMs", 10**30),
        ("requestor", "16Uiu2nonsense"),
        ("provider", None),
        ("requestorSignature", ""),
        ("providerSignature", "00" * 65),
        ("providerSignature", 5),
        ("content", "[]"),
        ("agreement/agreementId", "0" * 64),
        ("agreement/timestamp", "2020-01-01T00:00:00Z"),
        ("agreement/offer/properties", {}),
        ("agreement/offer/constraints", "(b=1)"),
        ("agreement/offer/providerId", "0x" + "0" * 40),
        ("agreement/demand/demandId", "e"),
        ("agreement/demand/properties", {"golem.srv.comp.expiration": 1_900_000_000_000, "price.cap": 0}),
        ("agreement/demand", None),
    ],
)
def test_a_changed_document_is_not_valid(text: str, tmp_path: Path, path: str, value: Any) -> None:
    document = json.loads(text)
    change(path, value)(document)
    (tmp_path / "a.json").write_text(json.dumps(document))
    code, told = run(tmp_path / "a.json", "--json")
    assert code == 1
    assert not all(json.loads(told)["verified"].values())


def test_signatures_in_capitals_are_another_spelling_and_refused(text: str) -> None:
    document = json.loads(text)
    document["providerSignature"] = document["providerSignature"].upper()
    assert check_document(document) == {"requestor": True, "provider": False, "terms": False}
