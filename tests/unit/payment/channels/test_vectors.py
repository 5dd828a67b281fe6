"""protocols/vectors/channels.json is what this version computes. ``python -m tests.unit.payment.channels.test_vectors``
writes it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.core.payment.vouchers import ChannelConfig, Voucher, VoucherDomain, check_voucher
from golemp2p.identity import NodeKey
from golemp2p.payment.channels import abi
from golemp2p.payment.contracts import deployed_sha256

FILE = Path(__file__).parents[4] / "protocols" / "vectors" / "channels.json"
SIGNER, PAYER, PAYEE = (NodeKey(bytes([n]) * 32) for n in (0x11, 0x22, 0x33))


def _vector(chain_id: int, contract: str, config: ChannelConfig, cumulative: int) -> dict[str, Any]:
    domain = VoucherDomain(chain_id, Address(contract))
    digest = domain.digest(config.id, cumulative)
    signature = SIGNER.sign(digest)
    check_voucher(domain, config, Voucher(config.id, Amount(cumulative), signature))
    item = abi.ClaimItem(config, Amount(cumulative), signature)
    return {
        "chainId": chain_id,
        "contract": contract,
        "payer": config.payer,
        "payee": config.payee,
        "signer": config.signer,
        "grace": config.grace_s,
        "salt": "0x" + config.salt.hex(),
        "channelId": "0x" + config.id.hex(),
        "cumulative": str(cumulative),
        "digest": "0x" + digest.hex(),
        "signature": "0x" + signature.hex(),
        "claimCall": "0x" + abi.claim_call(item).hex(),
    }


def vectors() -> dict[str, Any]:
    hot = ChannelConfig(PAYER.address, PAYEE.address, SIGNER.address, 86_400, bytes(range(32)))
    same = ChannelConfig(SIGNER.address, PAYEE.address, SIGNER.address, 3_600, b"\xff" * 32)
    token = "0x" + "70" * 20
    return {
        "signerKey": "0x" + SIGNER.secret.hex(),
        "vouchers": [
            _vector(137, "0x" + "ab" * 20, hot, 1),
            _vector(80_002, "0x" + "01" * 20, hot, 12_345_678_901_234_567_890),
            _vector(31_337, "0x" + "cd" * 20, same, 2**96 - 1),
        ],
        "deployedCode": {"token": token, "sha256": deployed_sha256("VoucherChannels", Address(token))},
    }


def test_the_vectors_are_what_this_version_computes() -> None:
    assert json.loads(FILE.read_text()) == vectors()


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n")
