"""protocols/vectors/payment.json (a whole exchange) and journal.json, read as a second implementer would read them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from golemp2p.core.agreement import AGREEMENT_STRUCT
from golemp2p.core.eip712 import Domain, Struct, digest
from golemp2p.core.payment import (
    ACCEPTANCE_STRUCT,
    DEBIT_NOTE_STRUCT,
    INVOICE_STRUCT,
    PAYMENT_NOTICE_STRUCT,
)
from golemp2p.core.payment.audit import audit
from golemp2p.core.payment.auditfile import AUDIT_EXPORT_STRUCT
from golemp2p.core.payment.journal import message_of
from golemp2p.core.peer import recover_address
from golemp2p.core.records import MARKET_RECORD
from golemp2p.errors import RemoteProtocolError
from golemp2p.payment.messages import parse
from golemp2p.wire.p2p import payment as wire

ROOT = Path(__file__).parents[3]
PAYMENT: dict[str, Any] = json.loads((ROOT / "protocols/vectors/payment.json").read_text())
JOURNAL: dict[str, Any] = json.loads((ROOT / "protocols/vectors/journal.json").read_text())
DOMAIN = Domain(PAYMENT["domain"]["network"], PAYMENT["domain"]["chainId"])
STRUCTS: dict[str, Struct] = {
    struct.name: struct
    for struct in (
        MARKET_RECORD,
        AGREEMENT_STRUCT,
        DEBIT_NOTE_STRUCT,
        INVOICE_STRUCT,
        ACCEPTANCE_STRUCT,
        PAYMENT_NOTICE_STRUCT,
    )
}
STEPS = [*PAYMENT["messages"], *PAYMENT["exchange"]]


def test_the_files_are_what_the_script_makes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/make-vectors"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_struct_of_the_exchange_is_there() -> None:
    assert {step["struct"] for step in PAYMENT["exchange"]} == set(STRUCTS)
    assert [step["name"] for step in PAYMENT["exchange"]][:4] == ["offer", "demand", "agreement", "approval"]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step["name"])
def test_each_message_is_signed_by_its_signer_and_its_signature_is_in_what_goes_over_the_wire(
    step: dict[str, Any],
) -> None:
    struct = STRUCTS[step["struct"]]
    assert struct.type_string == step["type"]
    hashed = digest(DOMAIN, struct, message_of(struct, step["message"]))
    assert hashed.hex() == step["digest"]
    signature = bytes.fromhex(step["signature"])
    assert recover_address(hashed, signature) == PAYMENT["addresses"][step["signer"]]
    assert msgpack.unpackb(bytes.fromhex(step["msgpack"]))["signature"] == signature


@pytest.mark.parametrize("case", PAYMENT["tampered"], ids=lambda case: case["of"])
def test_a_changed_field_makes_the_signature_somebody_elses(case: dict[str, Any]) -> None:
    (original,) = [step for step in PAYMENT["exchange"] if step["name"] == case["of"]]
    changed = {name for name, value in case["message"].items() if original["message"][name] != value}
    assert changed == {case["changed"]}
    struct = STRUCTS[case["struct"]]
    hashed = digest(DOMAIN, struct, message_of(struct, case["message"]))
    assert recover_address(hashed, bytes.fromhex(case["signature"])) != PAYMENT["addresses"][case["signer"]]
    assert "signature is not" in case["reason"]


def test_batches_and_their_answers_are_as_shown() -> None:
    batch = PAYMENT["batch"]
    message = parse(wire.BatchMessage, msgpack.unpackb(bytes.fromhex(batch["msgpack"])))
    assert [method for method, _ in message.messages] == [wire.SEND_DEBIT_NOTE, wire.SEND_INVOICE]
    for name, done in (("all_done", 2), ("second_refused", 1)):
        answer = parse(wire.BatchAnswer, msgpack.unpackb(bytes.fromhex(batch[name])))
        assert msgpack.packb(answer.model_dump()).hex() == batch[name]
        assert (answer.done, answer.code == "") == (done, done == 2)


# --- the journal ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JOURNAL["journals"])
def test_a_journal_of_the_vectors_holds_and_all_is_paid(name: str) -> None:
    report = audit(JOURNAL["journals"][name])
    assert report.findings == ()
    assert report.accounts
    assert all(account.open == 0 and account.paid == account.billed for account in report.accounts)


@pytest.mark.parametrize("name", JOURNAL["journals"])
def test_the_chain_can_be_followed_with_nothing_but_json_and_sha256(name: str) -> None:
    head, *lines = [json.loads(line) for line in JOURNAL["journals"][name]]
    previous, hashes = "00" * 32, b""
    for number, entry in enumerate(lines, 1):
        stated = entry.pop("hash")
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == stated
        assert (entry["seq"], entry["previous"]) == (number, previous)
        previous, hashes = stated, hashes + bytes.fromhex(stated)
    assert (head["entries"], head["headSeq"], head["head"]) == (len(lines), len(lines), previous)
    assert head["list"] == hashlib.sha256(hashes).hexdigest()


def test_the_header_is_signed_as_a_wallet_would_sign_it() -> None:
    head = json.loads(JOURNAL["journals"]["payee"][0])
    names = {"format": "format", "agreementId": "agreement", "entries": "entries", "headSeq": "headSeq"}
    message: dict[str, Any] = {field: head[name] for field, name in names.items()}
    message |= {"exportedAt": head["exportedAt"], "node": PAYMENT["addresses"]["payee"]}
    message |= {"list": bytes.fromhex(head["list"]), "head": bytes.fromhex(head["head"])}
    fields = [part.split(" ") for part in JOURNAL["headerType"].removeprefix("AuditExport(").rstrip(")").split(",")]
    assert [tuple(field) for field in fields] == list(AUDIT_EXPORT_STRUCT.fields)
    domain_types = [("string", "name"), ("string", "version"), ("uint256", "chainId"), ("bytes32", "salt")]
    signable = encode_typed_data(
        full_message={
            "types": {
                "EIP712Domain": [{"name": name, "type": kind} for kind, name in domain_types],
                "AuditExport": [{"name": name, "type": kind} for kind, name in fields],
            },
            "primaryType": "AuditExport",
            "domain": {**Domain(head["network"], head["chainId"]).fields},
            "message": message,
        }
    )
    signer = Account.recover_message(signable, signature=bytes.fromhex(head["signature"]))
    assert signer.lower() == PAYMENT["addresses"]["payee"]


@pytest.mark.parametrize("case", JOURNAL["tampered"]["cases"], ids=lambda case: case["name"])
def test_a_tampered_journal_is_refused_for_the_reason_given(case: dict[str, Any]) -> None:
    lines = list(JOURNAL["journals"][JOURNAL["tampered"]["of"]])
    if case["text"] is None:
        del lines[case["line"]]
    else:
        lines[case["line"]] = case["text"]
    try:
        found = [(finding.entry, finding.reason) for finding in audit(lines).findings]
    except RemoteProtocolError as exc:
        found = [(0, exc.message)]
    assert (case["entry"], case["reason"]) in found


@pytest.mark.parametrize("case", JOURNAL["forged"], ids=lambda case: case["name"])
def test_a_journal_whose_own_node_lies_is_refused_for_the_reason_given(case: dict[str, Any]) -> None:
    found = [(finding.entry, finding.reason) for finding in audit(case["lines"]).findings]
    assert found[0] == (case["entry"], case["reason"])
