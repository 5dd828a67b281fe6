"""What is shipped is what the sources say; scripts/build-contracts --check compiles them again (scripts/test)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.networks import builtin_names, builtin_profile
from golemp2p.networks.schema import checksummed
from golemp2p.payment.channels import abi
from golemp2p.payment.contracts import OF_ONE_TOKEN, ContractName, deployed_sha256, deterministic_address, load
from golemp2p.payment.drivers import transactions
from tests.evm import Evm

SOURCES = Path(__file__).parents[4] / "protocols" / "contracts"
NAMES: list[ContractName] = [
    "BatchPayer",
    "LockPaymentStandIn",
    "MultiTransferStandIn",
    "TestToken",
    "VoucherChannels",
]


def _selectors(name: ContractName) -> dict[str, bytes]:
    def kind(found: dict[str, object]) -> str:
        text = str(found["type"])
        parts = found.get("components", [])
        assert isinstance(parts, list)
        return f"({','.join(kind(part) for part in parts)}){text[5:]}" if text.startswith("tuple") else text

    functions = [entry for entry in load(name).abi if entry["type"] == "function"]
    return {
        f["name"]: keccak256(f"{f['name']}({','.join(kind(i) for i in f['inputs'])})".encode())[:4] for f in functions
    }


@pytest.mark.parametrize("name", NAMES)
def test_an_artifact_is_of_the_source_in_the_tree(name: ContractName) -> None:
    (source,) = SOURCES.rglob(f"{name}.vy")
    assert load(name).source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest(), "run scripts/build-contracts"


def test_every_source_has_its_artifact() -> None:
    assert sorted(path.stem for path in SOURCES.rglob("*.vy")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_one_hash_says_which_program_it_is_and_for_which_token(name: ContractName) -> None:
    evm = Evm.start()
    deployed = evm.deploy(name)
    token = evm.token if name in OF_ONE_TOKEN else None
    code = bytes(evm.evm.get_code(deployed) or b"")
    code = code[: len(load(name).runtime) + (32 if token else 0)]  # pyrevm pads it for its own use
    assert hashlib.sha256(code).hexdigest() == deployed_sha256(name, token)
    if token is not None:
        assert deployed_sha256(name, deployed) != deployed_sha256(name, token)


def test_selectors_by_hand_are_those_of_the_compiled_contracts() -> None:
    channels = _selectors("VoucherChannels")
    assert channels["fundMany"] == abi.FUND_MANY
    assert channels["claim"] == abi.CLAIM
    assert channels["claimAll"] == abi.CLAIM_ALL
    assert channels["claimMany"] == abi.CLAIM_MANY
    assert channels["requestClose"] == abi.REQUEST_CLOSE
    assert channels["finalize"] == abi.FINALIZE
    assert channels["states"] == abi.STATES
    batch = _selectors("BatchPayer")
    assert batch["payOnce"] == transactions.PAY_ONCE_SELECTOR
    assert batch["batchDone"] == transactions.BATCH_DONE_SELECTOR
    assert _selectors("MultiTransferStandIn")["golemTransferIndirectPacked"] == transactions.MULTI_SELECTOR


def test_the_readme_names_the_addresses_that_deployment_gives() -> None:
    text = (SOURCES / "README.md").read_text()
    for name in builtin_names():
        profile = builtin_profile(name)
        assert profile is not None
        if name != "local":  # whose token is another one each time
            token = Address(profile.token.lower())
            batch = checksummed(deterministic_address("BatchPayer", token))
            channels = checksummed(deterministic_address("VoucherChannels", token))
            assert f"| {name} | {batch} | {channels} |" in text
