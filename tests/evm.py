"""The project's contracts in an EVM inside the test process (pyrevm): thousands of calls a second, no chain.

Not for measuring gas: what one transaction has read is warm for the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyrevm

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.payment.contracts import OF_ONE_TOKEN, ContractName, load
from golemp2p.payment.drivers.transactions import allowance_call, approve_call, balance_call, mint_call

CHAIN_ID = 1  # pyrevm's own
OWNER = Address("0x" + "0a" * 20)
COIN = 10**24


def account(number: int) -> Address:
    return Address(f"0x{0xACC0000000 + number:040x}")


class Reverted(Exception):
    """With the contract's reason in its text."""


@dataclass
class Evm:
    evm: pyrevm.EVM
    token: Address
    now: int = 1_000_000  # of the next block

    @classmethod
    def start(cls) -> Evm:
        evm = pyrevm.EVM()
        evm.set_balance(OWNER, COIN)
        evm.set_block_env(pyrevm.BlockEnv(timestamp=cls.now, gas_limit=10**9))
        return cls(evm, Address(evm.deploy(OWNER, load("TestToken").deployment()).lower()))

    def deploy(self, name: ContractName) -> Address:
        code = load(name).deployment(self.token if name in OF_ONE_TOKEN else None)
        return Address(self.evm.deploy(OWNER, code).lower())

    def send(self, sender: Address, to: Address, data: bytes) -> bytes:
        """A transaction, or no change at all. Raises Reverted."""
        self.evm.reset_transient_storage()
        before = self.evm.snapshot()
        try:
            answer = self.evm.message_call(sender, to, calldata=data)
        except RuntimeError as exc:
            self.evm.revert(before)
            raise Reverted(_reason(exc, self.evm)) from exc
        self.evm.commit()
        return bytes(answer)

    def peek(self, sender: Address | None, to: Address, data: bytes) -> bytes:
        """What a transaction would answer; the caller undoes it. Raises Reverted."""
        self.evm.reset_transient_storage()
        try:
            return bytes(self.evm.message_call(sender or OWNER, to, calldata=data))
        except RuntimeError as exc:
            raise Reverted(_reason(exc, self.evm)) from exc

    def logs(self) -> Sequence[pyrevm.Log]:
        """Of the last transaction."""
        result = self.evm.result
        assert result is not None, "nothing was sent yet"
        return result.logs

    def view(self, to: Address, data: bytes) -> bytes:
        return bytes(self.evm.message_call(OWNER, to, calldata=data, is_static=True))

    def mint(self, receiver: Address, amount: int) -> None:
        self.send(OWNER, self.token, mint_call(receiver, amount))

    def approve(self, owner: Address, spender: Address) -> None:
        self.send(owner, self.token, approve_call(spender, 2**256 - 1))

    def balance(self, owner: Address) -> int:
        return int.from_bytes(self.view(self.token, balance_call(owner)), "big")

    def allowance(self, owner: Address, spender: Address) -> int:
        return int.from_bytes(self.view(self.token, allowance_call(owner, spender)), "big")

    def warp(self, seconds: int) -> None:
        self.now += seconds
        self.evm.set_block_env(pyrevm.BlockEnv(timestamp=self.now, gas_limit=10**9))


def selector(signature: str) -> bytes:
    return keccak256(signature.encode())[:4]


def _reason(error: Exception, evm: pyrevm.EVM) -> str:
    """Solidity's Error(string), as Vyper writes it too, out of pyrevm's message."""
    text = str(error)
    output = text.partition("output: 0x")[2].partition(" ")[0].strip("})")
    try:
        data = bytes.fromhex(output)
        return data[68 : 68 + int.from_bytes(data[36:68], "big")].decode() if len(data) > 68 else text
    except ValueError:
        return text
