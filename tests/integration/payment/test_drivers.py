"""The contract of the chain driver port, on every adapter and every local chain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio

from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.core.payment import Fees, first_bid
from golemp2p.errors import NetworkError
from golemp2p.identity.keys import NodeKey
from golemp2p.localchain import open_local_chain
from golemp2p.payment.drivers.base import (
    Call,
    CallRevertedError,
    ChainDriver,
    OutOfGasFundsError,
    Receipt,
    SignedTransaction,
    WrongNetworkError,
)
from golemp2p.payment.drivers.erc20 import Erc20Driver
from golemp2p.payment.drivers.fake import FakeChain, FakeDriver
from golemp2p.payment.drivers.transactions import (
    BATCH_PAID_TOPIC,
    MAX_UINT256,
    TRANSFER_GAS,
    approve_call,
    batch_done_call,
    encode_address,
    on_chain_id,
    pay_once_call,
    transfer_call,
)
from tests.unit.payment.world import NETWORK, TOKEN

ETH = 10**18
YOU = Address("0x" + "99" * 20)
THEM = Address("0x" + "88" * 20)
BATCH = Address("0x" + "ba" * 20)


@dataclass
class Bench:
    driver: ChainDriver
    fund: Callable[[Address, Amount, int], Awaitable[None]]


@asynccontextmanager
async def open_bench(kind: str) -> AsyncIterator[Bench]:
    if kind == "fake":
        chain = FakeChain(batch=BATCH, token=TOKEN)

        async def fund(address: Address, tokens: Amount, gas: int) -> None:
            chain.fund(address, TOKEN, tokens, gas)

        yield Bench(FakeDriver(chain, replace(NETWORK, batch=BATCH)), fund)
        return
    async with open_local_chain(prefer="anvil" if kind == "anvil" else "embedded") as local:

        async def faucet(address: Address, tokens: Amount, gas: int) -> None:
            await local.faucet(address, tglm=tokens, eth_wei=gas)

        yield Bench(Erc20Driver(replace(local.network(), poll_s=0.0)), faucet)


async def mined(driver: ChainDriver, transaction: str) -> Receipt:
    """Anvil answers a broadcast a moment before the block is there."""
    with trio.fail_after(10):
        while (receipt := await driver.receipt(transaction)) is None:  # noqa: ASYNC110
            await trio.sleep(0.01)
    return receipt


@dataclass
class Sender:
    """An account that sends one call after the other."""

    driver: ChainDriver
    key: NodeKey
    fees: Fees
    nonce: int = 0

    async def send(self, to: Address, data: bytes, gas: int = TRANSFER_GAS) -> SignedTransaction:
        signed = self.driver.sign(self.key, self.nonce, Call(to, data, gas), self.fees)
        self.nonce += 1
        await self.driver.broadcast(signed.raw)
        await mined(self.driver, signed.hash)
        return signed


async def fees_of(driver: ChainDriver) -> Fees:
    bid = first_bid(await driver.market(), min_tip=1, cap=500 * 10**9)
    assert bid is not None
    return bid


@pytest.mark.parametrize("kind", ["fake", "anvil", "embedded"])
async def test_a_driver_keeps_its_contract(kind: str) -> None:
    async with open_bench(kind) as bench:
        driver, key, poor = bench.driver, NodeKey.generate(), NodeKey.generate()
        token = driver.network.token
        assert await driver.balance(key.address) == 0
        assert await driver.gas_balance(key.address) == 0
        assert await driver.nonce(key.address) == 0
        assert await driver.nonce(key.address, final=True) == 0
        await bench.fund(key.address, Amount(7 * ETH), ETH)
        assert await driver.balance(key.address) == 7 * ETH
        assert await driver.gas_balance(key.address) == ETH

        # Signing asks nobody and gives the same bytes each time.
        fees = await fees_of(driver)
        call = Call(token, transfer_call(YOU, 3 * ETH), TRANSFER_GAS)
        signed = driver.sign(key, 0, call, fees)
        assert driver.sign(key, 0, call, fees) == signed
        assert (signed.nonce, signed.fees) == (0, fees)
        assert await driver.receipt(signed.hash) is None
        assert await driver.verify_transfer(signed.hash) is None

        # Sent once or thrice, it is one payment.
        for _ in range(3):
            await driver.broadcast(signed.raw)
        receipt = await mined(driver, signed.hash)
        assert receipt.succeeded
        assert receipt.final
        assert receipt.depth == 1
        assert receipt.block_hash == (await driver.head()).hash
        assert receipt.block_number <= await driver.final_block()
        assert receipt.fee_wei > 0
        assert await driver.balance(YOU) == 3 * ETH
        assert await driver.nonce(key.address) == 1
        assert await driver.nonce(key.address, final=True) == 1
        found = await driver.verify_transfer(signed.hash)
        assert found is not None
        assert (found.block_number, found.block_hash, found.depth) == (receipt.block_number, receipt.block_hash, 1)
        assert found.final
        (leg,) = found.legs
        assert (leg.token, leg.sender, leg.recipient, leg.amount) == (token, key.address, YOU, 3 * ETH)

        # A used nonce is no error (the receipt decides), and pays nothing.
        other = driver.sign(key, 0, Call(token, transfer_call(YOU, 1), TRANSFER_GAS), fees)
        await driver.broadcast(other.raw)
        assert await driver.receipt(other.hash) is None
        assert await driver.balance(YOU) == 3 * ETH

        # More than there is: mined, and reverted without a transfer.
        too_much = Call(token, transfer_call(YOU, 100 * ETH))
        assert await driver.refusal(key.address, YOU, Amount(4 * ETH)) == ""
        assert await driver.refusal(key.address, YOU, Amount(100 * ETH)) != ""
        assert await driver.estimate(key.address, Call(token, transfer_call(YOU, 1))) <= TRANSFER_GAS
        with pytest.raises(CallRevertedError):
            await driver.estimate(key.address, too_much)
        with pytest.raises(CallRevertedError):
            await driver.call(token, too_much.data, sender=key.address)
        assert await driver.nonce(key.address) == 1, "asking costs nothing"
        sender = Sender(driver, key, fees, nonce=1)
        reverted = await mined(driver, (await sender.send(token, too_much.data)).hash)
        assert not reverted.succeeded
        legs = await driver.verify_transfer(reverted.transaction)
        assert legs is not None
        assert legs.legs == ()
        assert await driver.nonce(key.address) == 2

        with pytest.raises(OutOfGasFundsError):
            await driver.broadcast(driver.sign(poor, 0, call, fees).raw)


@pytest.mark.parametrize("kind", ["fake", "anvil"])
async def test_a_driver_pays_several_at_once_and_finds_the_batch_again(kind: str) -> None:
    async with open_bench(kind) as bench:
        driver, key = bench.driver, NodeKey.generate()
        batch, token = driver.network.batch, driver.network.token
        assert batch is not None
        assert await driver.has_code(batch)
        assert not await driver.has_code(YOU)
        await bench.fund(key.address, Amount(7 * ETH), ETH)
        sender = Sender(driver, key, await fees_of(driver))
        assert await driver.allowance(key.address, batch) == 0
        await sender.send(token, approve_call(batch, MAX_UINT256))
        assert await driver.allowance(key.address, batch) == MAX_UINT256

        legs = [(YOU, 2 * ETH), (THEM, ETH)]
        gas = await driver.estimate(key.address, Call(batch, pay_once_call("b1", legs)))
        assert await driver.call(batch, batch_done_call(key.address, "b1"), final=True) == bytes(32)
        signed = await sender.send(batch, pay_once_call("b1", legs), gas * 2)
        found = await driver.verify_transfer(signed.hash)
        assert found is not None
        assert [(leg.sender, leg.recipient, leg.amount) for leg in found.legs] == [
            (key.address, batch, 3 * ETH),
            (batch, YOU, 2 * ETH),
            (batch, THEM, ETH),
        ]
        assert int.from_bytes(await driver.call(batch, batch_done_call(key.address, "b1"), final=True), "big") == 1
        with pytest.raises(CallRevertedError):
            await driver.estimate(key.address, Call(batch, pay_once_call("b1", legs)))

        last = await driver.final_block()
        topics = [BATCH_PAID_TOPIC, "0x" + encode_address(key.address).hex(), "0x" + on_chain_id("b1").hex()]
        (log,) = await driver.logs(batch, topics, first=0, last=last)
        assert (log.transaction, log.address, log.block_number) == (signed.hash, batch, found.block_number)
        assert await driver.logs(batch, [BATCH_PAID_TOPIC, None, "0x" + "00" * 32], first=0, last=last) == []


async def test_a_chain_that_is_down_or_another_one_is_a_network_error() -> None:
    async with open_local_chain(prefer="anvil") as local:
        wrong = Erc20Driver(replace(local.network(), chain_id=1))
        with pytest.raises(NetworkError, match="is chain 31337, not 1"):
            await wrong.balance(YOU)
        wrong = Erc20Driver(replace(local.network(), token=YOU))
        with pytest.raises(WrongNetworkError, match="there is no token at"):
            await wrong.balance(YOU)
        driver = Erc20Driver(local.network())
        assert await driver.balance(YOU) == 0
    with pytest.raises(NetworkError, match="cannot be reached"):
        await driver.balance(YOU)
