"""Golem's lock contract (LockPayment): tokens that a funder locked for this node to pay with.

The spender's account sends the transactions, the contract holds the tokens. What the funder locked is not secured for
providers: the spender can close the deposit at any time (research: settlement.md, section 3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.money import Amount, format_amount
from golemp2p.errors import NetworkError, UsageError
from golemp2p.payment.drivers.base import CallRevertedError, ChainDriver
from golemp2p.payment.drivers.transactions import encode_address

GET_SELECTOR: Final = keccak256(b"getDeposit(uint256)")[:4]
PAY_SELECTOR: Final = keccak256(b"depositSingleTransfer(uint256,address,uint128)")[:4]
CLOSE_SELECTOR: Final = keccak256(b"closeDeposit(uint256)")[:4]
_ID: Final = re.compile(r"(0x)?[0-9a-fA-F]{1,64}")
_CONTRACT: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_VIEW_WORDS: Final = 7  # id, nonce, funder, spender, amount, fee, valid to


@dataclass(frozen=True)
class Deposit:
    """Which one. As text, in the database: ``contract/0xid``."""

    contract: Address
    id: int

    def __str__(self) -> str:
        return f"{self.contract}/{self.id:#x}"

    @classmethod
    def stored(cls, text: str) -> Deposit:
        contract, _, number = text.partition("/")
        return cls(Address(contract), int(number, 16))

    @classmethod
    def parse(cls, contract: str, deposit_id: str) -> Deposit:
        """As agents write it: the id in hex, as yagna reads it. Raises UsageError."""
        if not _CONTRACT.fullmatch(contract):
            raise UsageError(f"deposit.contract {contract[:60]!r} is not an address")
        if not _ID.fullmatch(deposit_id):
            raise UsageError(f"deposit.id {deposit_id[:80]!r} is not a number in hex")
        return cls(Address(contract.lower()), int(deposit_id, 16))

    @property
    def _word(self) -> bytes:
        return self.id.to_bytes(32, "big")

    def get_call(self) -> bytes:
        return GET_SELECTOR + self._word

    def pay_call(self, payee: Address, amount: int) -> bytes:
        return PAY_SELECTOR + self._word + encode_address(payee) + amount.to_bytes(32, "big")

    def close_call(self) -> bytes:
        return CLOSE_SELECTOR + self._word


@dataclass(frozen=True)
class Locked:
    """What the contract says of a deposit. ``valid_to``: seconds since the epoch, from when the funder may take it."""

    funder: Address
    spender: Address
    amount: Amount
    valid_to: int


async def look_up(driver: ChainDriver, deposit: Deposit) -> Locked:
    """Raises UsageError (no such deposit), NetworkError."""
    try:
        answer = await driver.call(deposit.contract, deposit.get_call())
    except CallRevertedError as exc:
        raise UsageError(f"deposit {deposit}: {exc.message}") from exc
    if len(answer) < 32 * _VIEW_WORDS:
        raise NetworkError(f"the contract {deposit.contract} does not answer like a lock contract")
    words = [answer[32 * i : 32 * (i + 1)] for i in range(_VIEW_WORDS)]
    funder, spender = (Address("0x" + word[12:].hex()) for word in words[2:4])
    return Locked(funder, spender, Amount(int.from_bytes(words[4], "big")), int.from_bytes(words[6], "big"))


async def check(
    driver: ChainDriver, deposit: Deposit, *, spender: Address, total: Amount, timeout_at: float | None
) -> None:
    """Whether this node may pay ``total`` from it. Raises UsageError, NetworkError."""
    if deposit.contract != driver.network.lock:
        raise UsageError(
            f"{deposit.contract} is not the deposit contract of network {driver.network.name}",
            hint=f"that is {driver.network.lock}" if driver.network.lock else "it has none; set `lock` of the network",
        )
    locked = await look_up(driver, deposit)
    if locked.spender != spender:
        raise UsageError(f"deposit {deposit.id:#x} is for spender {locked.spender}, this node is {spender}")
    if locked.amount < total:
        raise UsageError(
            f"deposit {deposit.id:#x} holds {format_amount(locked.amount)}, {format_amount(total)} is wanted",
            hint="its funder can extend it",
        )
    if timeout_at is None or timeout_at > locked.valid_to:
        raise UsageError(
            f"deposit {deposit.id:#x} is valid until {locked.valid_to} (seconds since the epoch), the allocation must"
            " end before that",
            hint="give the allocation a timeout",
        )
