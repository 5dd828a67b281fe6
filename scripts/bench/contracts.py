#!/usr/bin/env python3
"""Gas of the project's contracts, as a markdown table (protocols/contracts/README.md holds one). On anvil.

scripts/bench/contracts.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.core.payment.vouchers import ChannelConfig, VoucherDomain
from golemp2p.identity.keys import NodeKey
from golemp2p.localchain import LocalChain, open_local_chain
from golemp2p.payment.channels import abi
from golemp2p.payment.channels.abi import ClaimItem
from golemp2p.payment.contracts import load
from golemp2p.payment.drivers.transactions import (
    MAX_UINT256,
    Leg,
    approve_call,
    mint_call,
    multi_transfer_call,
    pay_once_call,
    transfer_call,
)

GLM = 10**18
GRACE_S = 86_400
HOLDERS = 200


class Bench:
    def __init__(self, chain: LocalChain) -> None:
        self.chain = chain
        self.rows: list[tuple[str, int, int]] = []

    async def send(self, sender: Address, to: Address, data: bytes) -> int:
        """The gas that it used. The sender needs no key: anvil lets everybody be impersonated."""
        sent = await self.chain.call(
            "eth_sendTransaction", {"from": sender, "to": to, "data": "0x" + data.hex(), "gas": hex(16_000_000)}
        )
        with trio.fail_after(10):
            while (receipt := await self.chain.call("eth_getTransactionReceipt", sent)) is None:  # noqa: ASYNC110
                await trio.sleep(0.002)
        assert int(receipt["status"], 16) == 1, data[:4].hex()
        return int(receipt["gasUsed"], 16)

    async def account(self, number: int, *, tokens: int = 0) -> Address:
        address = Address(f"0x{0xACC0000000 + number:040x}")
        await self.chain.call("anvil_impersonateAccount", address)
        await self.chain.call("anvil_setBalance", address, hex(10**21))
        if tokens:
            await self.chain.faucet(address, tglm=Amount(tokens), eth_wei=0)
        return address

    def add(self, what: str, gas: int, parts: int = 1) -> None:
        self.rows.append((what, gas, parts))

    async def run(self) -> None:
        chain, token = self.chain, self.chain.token_address
        assert chain.multi is not None
        payer = await self.account(1, tokens=1_000_000 * GLM)
        holders = [Address(f"0x{0xBEE0000000 + n:040x}") for n in range(HOLDERS)]
        for holder in holders:
            await self.send(payer, token, mint_call(holder, 1))
        fresh = iter(Address(f"0x{0xCAFE000000 + n:040x}") for n in range(10_000))
        self.add("ERC-20 `transfer`, first-time holder", await self.send(payer, token, transfer_call(next(fresh), GLM)))
        self.add("ERC-20 `transfer`, existing holder", await self.send(payer, token, transfer_call(holders[0], GLM)))
        self.add("`approve`", await self.send(payer, token, approve_call(chain.batch, MAX_UINT256)))
        for contract in (chain.multi, chain.channels):
            await self.send(payer, token, approve_call(contract, MAX_UINT256))
        for count in (1, 10, 50, 100, 200):
            legs: list[Leg] = [(holder, GLM) for holder in holders[:count]]
            gas = await self.send(payer, chain.batch, pay_once_call(f"batch {count}", legs))
            self.add(f"`payOnce`, {count} existing holders", gas, count)
        legs = [(next(fresh), GLM) for _ in range(50)]
        self.add(
            "`payOnce`, 50 first-time holders", await self.send(payer, chain.batch, pay_once_call("new", legs)), 50
        )
        for count in (10, 50):
            legs = [(holder, GLM) for holder in holders[:count]]
            gas = await self.send(payer, chain.multi, multi_transfer_call(legs))
            self.add(f"stand-in of Golem's multi-transfer, {count} existing holders", gas, count)
        await self._channels(holders, token)

    async def _channels(self, holders: Sequence[Address], token: Address) -> None:
        chain, contract = self.chain, self.chain.channels
        key = NodeKey(keccak256(b"payer"))
        domain = VoucherDomain(chain.chain_id, contract)
        payers = [await self.account(100 + n, tokens=1_000 * GLM) for n in range(20)]
        for payer in payers:
            await self.send(payer, token, approve_call(contract, MAX_UINT256))
        first = payers[0]

        def fund(payees: Sequence[Address], salt: bytes = bytes(32)) -> bytes:
            return abi.fund_call([(p, Amount(GLM)) for p in payees], signer=key.address, grace_s=GRACE_S, salt=salt)

        def item(payer: Address, payee: Address, amount: int) -> ClaimItem:
            config = ChannelConfig(payer, payee, key.address, GRACE_S, bytes(32))
            return ClaimItem(config, Amount(amount), key.sign(domain.digest(config.id, amount)))

        self.add("`fundMany`, open 1", await self.send(first, contract, fund(holders[50:51])))
        self.add("`fundMany`, open 50", await self.send(first, contract, fund(holders[:50])), 50)
        self.add("`fundMany`, top up 50", await self.send(first, contract, fund(holders[:50])), 50)
        relay = await self.account(2)
        gas = await self.send(relay, contract, abi.claim_call(item(first, holders[0], GLM)))
        self.add("`claim`, first of a channel", gas)
        gas = await self.send(relay, contract, abi.claim_call(item(first, holders[0], GLM + 1)))
        self.add("`claim`, a later one", gas)
        gas = await self.send(relay, contract, abi.claim_call(item(first, holders[0], GLM)))
        self.add("`claim`, stale voucher: nothing is paid", gas)
        items = [item(first, holder, GLM) for holder in holders[1:50]]
        gas = await self.send(relay, contract, abi.claim_all_call(items, selector=abi.CLAIM_MANY))
        self.add("`claimMany`, 49 payees", gas, 49)
        for payer in payers:
            await self.send(payer, contract, fund(holders[60:61]))
        items = [item(payer, holders[60], GLM) for payer in payers]
        self.add("`claimAll`, 20 payers of one payee", await self.send(relay, contract, abi.claim_all_call(items)), 20)
        config = items[0].config
        self.add("`requestClose`", await self.send(first, contract, abi.request_close_call(config)))
        await chain.call("evm_increaseTime", GRACE_S + 1)
        await self.send(first, contract, fund(holders[51:52]))
        rest = ChannelConfig(first, holders[51], key.address, GRACE_S, bytes(32))
        await self.send(first, contract, abi.request_close_call(rest))
        await chain.call("evm_increaseTime", GRACE_S + 1)
        self.add("`finalize`, with a refund", await self.send(first, contract, abi.finalize_call(rest)))


async def main() -> None:
    async with open_local_chain(prefer="anvil", standins=True) as chain:
        bench = Bench(chain)
        await bench.run()
    print("| operation | gas | each |\n|---|---:|---:|")
    for what, gas, parts in bench.rows:
        print(f"| {what} | {gas:,} | {gas // parts:,} |" if parts > 1 else f"| {what} | {gas:,} | |")
    print("\n| contract | bytes deployed |\n|---|---:|")
    for name in ("BatchPayer", "VoucherChannels"):
        print(f"| {name} | {len(load(name).runtime) + 32:,} |")


if __name__ == "__main__":
    trio.run(main)
