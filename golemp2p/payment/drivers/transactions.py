"""EIP-1559 transactions by hand: RLP is a page of code, and the key stays with the Signer that only sees digests.

Sources: Ethereum yellow paper, appendix B (RLP); EIP-2718, EIP-1559. A test compares every byte with eth-account's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.identity.keys import Signer
from golemp2p.payment.drivers.base import Fees, SignedTransfer

Rlp = bytes | int | list["Rlp"]

TRANSFER_SELECTOR: Final = keccak256(b"transfer(address,uint256)")[:4]
MINT_SELECTOR: Final = keccak256(b"mint(address,uint256)")[:4]
BALANCE_OF_SELECTOR: Final = keccak256(b"balanceOf(address)")[:4]
TRANSFER_TOPIC: Final = "0x" + keccak256(b"Transfer(address,address,uint256)").hex()


def rlp_encode(item: Rlp) -> bytes:
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8, "big")
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _length(len(item), 0x80) + item
    payload = b"".join(rlp_encode(part) for part in item)
    return _length(len(payload), 0xC0) + payload


def _length(length: int, offset: int) -> bytes:
    if length < 56:
        return bytes([offset + length])
    encoded = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([offset + 55 + len(encoded)]) + encoded


def encode_address(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


def transfer_call(recipient: Address, amount: int) -> bytes:
    """Call data of ERC-20 ``transfer``."""
    return TRANSFER_SELECTOR + encode_address(recipient) + amount.to_bytes(32, "big")


def balance_call(address: Address) -> bytes:
    """Call data of ERC-20 ``balanceOf``."""
    return BALANCE_OF_SELECTOR + encode_address(address)


@dataclass(frozen=True)
class Transaction:
    """An EIP-1559 transaction without access list."""

    chain_id: int
    nonce: int
    fees: Fees
    gas: int
    to: Address
    value: int
    data: bytes

    def sign(self, signer: Signer) -> SignedTransfer:
        fields: list[Rlp] = [
            self.chain_id,
            self.nonce,
            self.fees.tip,
            self.fees.max_fee,
            self.gas,
            bytes.fromhex(self.to[2:]),
            self.value,
            self.data,
            [],
        ]
        signature = signer.sign(keccak256(b"\x02" + rlp_encode(fields)))
        fields += [
            signature[64] - 27,
            int.from_bytes(signature[:32], "big"),
            int.from_bytes(signature[32:64], "big"),
        ]
        raw = b"\x02" + rlp_encode(fields)
        return SignedTransfer(raw, "0x" + keccak256(raw).hex(), self.nonce, self.fees)


def mint_call(recipient: Address, amount: int) -> bytes:
    """Call data of the test token's ``mint`` (protocols/contracts/TestToken.vy)."""
    return MINT_SELECTOR + encode_address(recipient) + amount.to_bytes(32, "big")
