"""Compiled contracts as package data: made by scripts/build-contracts of protocols/contracts, never by hand.

Contracts that are of one token have it in their code: the constructor appends it, padded to 32 bytes, to what the
compiler made. So one hash of a deployed contract's code says both which program it is and for which token, and
:func:`deployed_sha256` knows it beforehand.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Final, Literal

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address

ContractName = Literal["BatchPayer", "VoucherChannels", "TestToken", "MultiTransferStandIn", "LockPaymentStandIn"]
# Those whose constructor takes the token's address.
OF_ONE_TOKEN: Final = frozenset({"BatchPayer", "VoucherChannels", "MultiTransferStandIn", "LockPaymentStandIn"})


@dataclass(frozen=True)
class Artifact:
    name: str
    source_sha256: str
    abi: tuple[dict[str, Any], ...]
    bytecode: bytes  # what deploys it, without constructor arguments
    runtime: bytes  # what is deployed, without what the constructor appends

    def deployment(self, token: Address | None = None) -> bytes:
        """The data of the transaction that deploys it."""
        return self.bytecode + _appended(self.name, token)


@lru_cache
def load(name: ContractName) -> Artifact:
    data = json.loads((resources.files(__name__) / f"{name}.json").read_text())
    return Artifact(
        data["contract"],
        data["source_sha256"],
        tuple(data["abi"]),
        bytes.fromhex(data["bytecode"][2:]),
        bytes.fromhex(data["runtime"][2:]),
    )


def deployed_sha256(name: ContractName, token: Address | None = None) -> str:
    """In hex, of the code that ``eth_getCode`` answers for this contract of ``token``."""
    artifact = load(name)
    return hashlib.sha256(artifact.runtime + _appended(artifact.name, token)).hexdigest()


# A contract that deploys what it is sent, on most chains at this address (and on anvil): the same code and salt give
# the same address everywhere. https://github.com/Arachnid/deterministic-deployment-proxy
DEPLOYER: Final = Address("0x4e59b44847b379578588920ca78fbf26c0b4956c")
_SALT: Final = bytes(32)


def deployer_call(name: ContractName, token: Address | None = None) -> bytes:
    """Call data for DEPLOYER that deploys it at :func:`deterministic_address`."""
    return _SALT + load(name).deployment(token)


def deterministic_address(name: ContractName, token: Address | None = None) -> Address:
    """Where DEPLOYER puts it (EIP-1014)."""
    code = keccak256(load(name).deployment(token))
    return Address("0x" + keccak256(b"\xff" + bytes.fromhex(DEPLOYER[2:]) + _SALT + code)[12:].hex())


def _appended(name: str, token: Address | None) -> bytes:
    if (token is not None) != (name in OF_ONE_TOKEN):
        raise ValueError(f"{name} is {'' if name in OF_ONE_TOKEN else 'not '}of one token")
    return b"" if token is None else bytes(12) + bytes.fromhex(token[2:])
