"""The contract of the chain driver port, on every adapter and every local chain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.errors import NetworkError
from golemp2p.identity.keys import NodeKey
from golemp2p.localchain import open_local_chain
from golemp2p.payment.drivers.base import ChainDriver, OutOfGasFundsError
from golemp2p.payment.drivers.erc20 import Erc20Driver
from golemp2p.payment.drivers.fake import FakeChain, FakeDriver
from tests.unit.payment.world import NETWORK, TOKEN

ETH = 10**18
YOU = Address("0x" + "99" * 20)


@dataclass
class Bench:
    driver: ChainDriver
    fund: Callable[[Address, Amount, int], Awaitable[None]]


@asynccontextmanager
async def open_bench(kind: str) -> AsyncIterator[Bench]:
    if kind == "fake":
        chain = FakeChain()

        async def fund(address: Address, tokens: Amount, gas: int) -> None:
            chain.fund(address, TOKEN, tokens, gas)

        yield Bench(FakeDriver(chain, NETWORK), fund)
        return
    async with open_local_chain(prefer="anvil" if kind == "anvil" else "embedded") as local:

        async def faucet(address: Address, tokens: Amount, gas: int) -> None:
            await local.faucet(address, tglm=tokens, eth_wei=gas)

        yield Bench(Erc20Driver(local.network()), faucet)


@pytest.mark.parametrize("kind", ["fake", "anvil", "embedded"])
async def test_a_driver_keeps_its_contract(kind: str) -> None:
    async with open_bench(kind) as bench:
        driver, key, poor = bench.driver, NodeKey.generate(), NodeKey.generate()
        assert await driver.balance(key.address) == 0
        assert await driver.gas_balance(key.address) == 0
        assert await driver.nonce(key.address) == 0
        await bench.fund(key.address, Amount(7 * ETH), ETH)
        assert await driver.balance(key.address) == 7 * ETH
        assert await driver.gas_balance(key.address) == ETH

        # Signing asks nobody and gives the same bytes each time.
        fees = await driver.fees()
        assert 0 < await driver.transfer_fee(fees) < ETH
        signed = driver.sign_transfer(key, 0, YOU, Amount(3 * ETH), fees)
        assert driver.sign_transfer(key, 0, YOU, Amount(3 * ETH), fees) == signed
        assert await driver.receipt(signed.hash) is None
        assert await driver.verify_transfer(signed.hash) is None

        # Sent once or thrice, it is one payment.
        for _ in range(3):
            await driver.broadcast(signed.raw)
        receipt = await driver.receipt(signed.hash)
        assert receipt is not None
        assert receipt.succeeded
        assert receipt.depth == 1
        assert receipt.block_hash == (await driver.head()).hash
        assert receipt.fee_wei > 0
        assert await driver.balance(YOU) == 3 * ETH
        assert await driver.nonce(key.address) == 1
        assert await driver.nonce(key.address, depth=1) == 0
        found = await driver.verify_transfer(signed.hash)
        assert found is not None
        assert (found.block_number, found.block_hash, found.depth) == (receipt.block_number, receipt.block_hash, 1)
        (leg,) = found.legs
        assert (leg.token, leg.sender, leg.recipient, leg.amount) == (
            driver.network.token,
            key.address,
            YOU,
            3 * ETH,
        )

        # A used nonce is no error (the receipt decides), and pays nothing.
        other = driver.sign_transfer(key, 0, YOU, Amount(1), fees)
        await driver.broadcast(other.raw)
        assert await driver.receipt(other.hash) is None
        assert await driver.balance(YOU) == 3 * ETH

        # More than there is: mined, and reverted without a transfer.
        assert await driver.refusal(key.address, YOU, Amount(4 * ETH)) == ""
        assert await driver.refusal(key.address, YOU, Amount(100 * ETH)) != ""
        assert await driver.nonce(key.address) == 1, "asking costs nothing"
        too_much = driver.sign_transfer(key, 1, YOU, Amount(100 * ETH), fees)
        await driver.broadcast(too_much.raw)
        receipt = await driver.receipt(too_much.hash)
        assert receipt is not None
        assert not receipt.succeeded
        reverted = await driver.verify_transfer(too_much.hash)
        assert reverted is not None
        assert reverted.legs == ()
        assert await driver.nonce(key.address) == 2

        with pytest.raises(OutOfGasFundsError):
            await driver.broadcast(driver.sign_transfer(poor, 0, YOU, Amount(0), fees).raw)


async def test_a_chain_that_is_down_or_another_one_is_a_network_error() -> None:
    async with open_local_chain(prefer="anvil") as local:
        wrong = Erc20Driver(replace(local.network(), chain_id=1))
        with pytest.raises(NetworkError, match="is chain 31337, not 1"):
            await wrong.balance(YOU)
        wrong = Erc20Driver(replace(local.network(), token=YOU))
        with pytest.raises(NetworkError, match="there is no token at"):
            await wrong.balance(YOU)
        driver = Erc20Driver(local.network())
        assert await driver.balance(YOU) == 0
    with pytest.raises(NetworkError, match="cannot be reached"):
        await driver.balance(YOU)
