"""EIP-1559 transactions by hand: RLP is a page of code, and the key stays with the Signer that only sees digests.

Sources: Ethereum yellow paper, appendix B (RLP); EIP-2718, EIP-1559. A test compares every byte with eth-account's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.payment import Fees
from golemp2p.identity.keys import Signer
from golemp2p.payment.drivers.base import Call, SignedTransaction

Rlp = bytes | int | list["Rlp"]

TRANSFER_SELECTOR: Final = keccak256(b"transfer(address,uint256)")[:4]
MINT_SELECTOR: Final = keccak256(b"mint(address,uint256)")[:4]
BALANCE_OF_SELECTOR: Final = keccak256(b"balanceOf(address)")[:4]
TRANSFER_TOPIC: Final = "0x" + keccak256(b"Transfer(address,address,uint256)").hex()


APPROVE_SELECTOR: Final = keccak256(b"approve(address,uint256)")[:4]
ALLOWANCE_SELECTOR: Final = keccak256(b"allowance(address,address)")[:4]
PAY_ONCE_SELECTOR: Final = keccak256(b"payOnce(bytes32,bytes32[],uint256)")[:4]
BATCH_DONE_SELECTOR: Final = keccak256(b"batchDone(address,bytes32)")[:4]
BATCH_PAID_TOPIC: Final = "0x" + keccak256(b"BatchPaid(address,bytes32,uint256,uint256)").hex()
MULTI_SELECTOR: Final = keccak256(b"golemTransferIndirectPacked(bytes32[],uint256)")[:4]  # Golem's multi-transfer
# First transfer to a new holder of a plain ERC-20 takes 51.5 k gas; Polygon's proxied GLM about 60 k. Unused gas is
# not charged, so one generous constant saves an estimate per transfer (and its failure mode).
TRANSFER_GAS: Final = 100_000
MAX_UINT256: Final = 2**256 - 1
MAX_LEG: Final = 2**96 - 1  # 12 bytes of a packed word

Leg = tuple[Address, int]


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

    def sign(self, signer: Signer) -> SignedTransaction:
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
        return SignedTransaction(raw, "0x" + keccak256(raw).hex(), self.nonce, self.fees)


def mint_call(recipient: Address, amount: int) -> bytes:
    """Call data of the test token's ``mint`` (protocols/contracts/TestToken.vy)."""
    return MINT_SELECTOR + encode_address(recipient) + amount.to_bytes(32, "big")


def approve_call(spender: Address, amount: int) -> bytes:
    """Call data of ERC-20 ``approve``."""
    return APPROVE_SELECTOR + encode_address(spender) + amount.to_bytes(32, "big")


def allowance_call(owner: Address, spender: Address) -> bytes:
    """Call data of ERC-20 ``allowance``."""
    return ALLOWANCE_SELECTOR + encode_address(owner) + encode_address(spender)


def on_chain_id(batch_id: str) -> bytes:
    """A batch's id on the chain."""
    return keccak256(batch_id.encode())


def pay_once_call(batch_id: str, legs: Sequence[Leg]) -> bytes:
    """Call data of BatchPayer's ``payOnce(bytes32 batchId, bytes32[] packed, uint256 total)``."""
    total = sum(amount for _, amount in legs)
    head = on_chain_id(batch_id) + _word(96) + _word(total)
    return PAY_ONCE_SELECTOR + head + _packed(legs)


def multi_transfer_call(legs: Sequence[Leg]) -> bytes:
    """Call data of Golem's multi-transfer: pull the sum, push the legs."""
    total = sum(amount for _, amount in legs)
    return MULTI_SELECTOR + _word(64) + _word(total) + _packed(legs)


def batch_done_call(payer: Address, batch_id: str) -> bytes:
    """Call data of BatchPayer's ``batchDone``."""
    return BATCH_DONE_SELECTOR + encode_address(payer) + on_chain_id(batch_id)


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _packed(legs: Sequence[Leg]) -> bytes:
    """A dynamic array: 20 bytes of address and 12 of amount in each word."""
    words = [bytes.fromhex(payee[2:]) + amount.to_bytes(12, "big") for payee, amount in legs]
    return _word(len(words)) + b"".join(words)


def unpack_legs(data: bytes) -> list[Leg]:
    """The legs of call data made by :func:`pay_once_call` or :func:`multi_transfer_call`: for people, and tests."""
    offset = 4 + (64 if data[:4] == MULTI_SELECTOR else 96)
    count = int.from_bytes(data[offset : offset + 32], "big")
    words = [data[offset + 32 * (i + 1) : offset + 32 * (i + 2)] for i in range(count)]
    return [(Address("0x" + word[:20].hex()), int.from_bytes(word[20:], "big")) for word in words]


def describe(call: Call) -> str:
    """What a transaction does, in words."""
    selector, words = call.data[:4], [call.data[4 + i : 36 + i] for i in range(0, len(call.data) - 4, 32)]
    match selector:
        case x if x == TRANSFER_SELECTOR:
            return f"transfer {int.from_bytes(words[1], 'big')} to 0x{words[0][12:].hex()}"
        case x if x == APPROVE_SELECTOR:
            return f"approve 0x{words[0][12:].hex()}"
        case x if x == MINT_SELECTOR:
            return f"mint {int.from_bytes(words[1], 'big')} to 0x{words[0][12:].hex()}"
        case x if x in (PAY_ONCE_SELECTOR, MULTI_SELECTOR):
            return f"pay {len(unpack_legs(call.data))} payees"
        case b"":
            return f"send {call.value} wei"
        case _:
            return f"call 0x{selector.hex()}"
