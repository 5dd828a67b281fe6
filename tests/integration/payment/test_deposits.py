"""Golem's deposits: tokens that somebody locked for this node pay for its work. On anvil, with a stand-in contract."""

from __future__ import annotations

import time

import pytest
import trio

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.payment import Fees
from golemp2p.errors import UsageError
from golemp2p.identity.keys import NodeKey
from golemp2p.localchain import LocalChain, open_local_chain
from golemp2p.payment.drivers import transactions as calls
from golemp2p.payment.drivers.base import Call
from golemp2p.payment.drivers.deposits import Deposit, look_up
from golemp2p.payment.drivers.erc20 import Erc20Driver
from golemp2p.payment.networks import GWEI
from golemp2p.storage.payment_settlement import Mode
from tests.integration.payment.test_settlement import INVOICE, agree, bill, open_pair, settled, slots
from tests.unit.payment.world import PLATFORM, glm

CREATE = keccak256(b"createDeposit(uint64,address,uint128,uint128,int64,uint64)")[:4]
FEES = Fees(10 * GWEI, GWEI)


async def lock(chain: LocalChain, funder: NodeKey, spender: Address, amount: str, *, valid_s: float) -> Deposit:
    """As a funder's wallet does it."""
    assert chain.lock is not None
    driver = Erc20Driver(chain.network())
    await chain.faucet(funder.address, tglm=glm(amount), eth_wei=10**18)
    approve = Call(chain.token_address, calls.approve_call(chain.lock, glm(amount)), 100_000)
    await driver.broadcast(driver.sign(funder, 0, approve, FEES).raw)
    create = create_call(1, spender, glm(amount), valid_to=round(time.time() + valid_s))
    await driver.broadcast(driver.sign(funder, 1, Call(chain.lock, create, 300_000), FEES).raw)
    return Deposit(chain.lock, deposit_id(funder.address, 1))


def create_call(nonce: int, spender: Address, amount: int, *, valid_to: int) -> bytes:
    words = [nonce, int(spender, 16), amount, 0, 0, valid_to]
    return CREATE + b"".join(word.to_bytes(32, "big") for word in words)


def deposit_id(funder: Address, nonce: int) -> int:
    return (int(funder, 16) << 96) ^ nonce


async def test_a_deposit_pays_the_provider_and_its_rest_goes_back_to_the_funder() -> None:
    async with open_local_chain(prefer="anvil", standins=True) as chain, open_pair(chain) as (requestor, provider):
        funder, driver = NodeKey.generate(), requestor.driver
        deposit = await lock(chain, funder, requestor.key.address, "10", valid_s=3_600)
        allocation = await requestor.service.allocations.create(
            platform=PLATFORM, total=glm("8"), timeout_at=time.time() + 600, deposit=deposit
        )
        with pytest.raises(UsageError, match="has an allocation already"):
            await requestor.service.allocations.create(
                platform=PLATFORM, total=glm("1"), timeout_at=time.time() + 600, deposit=deposit
            )
        invoice = await bill(requestor, provider, agree(requestor, provider, "ag1"), "3")
        await requestor.service.documents.accept(INVOICE, invoice, amount=glm("3"), allocation_id=allocation.id)
        await requestor.service.allocations.release(allocation.id)
        await settled(invoice, requestor, provider)
        assert await driver.balance(provider.key.address) == glm("3")
        assert await driver.balance(requestor.key.address) == glm("100"), "none of the node's own"
        with trio.fail_after(20):
            while await driver.balance(funder.address) != glm("7"):  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert [s.mode for s in await slots(requestor)] == [Mode.DEPOSIT, Mode.ORDER]
        assert (await look_up(driver, deposit)).amount == 0


async def test_a_deposit_that_is_not_for_us_or_too_small_or_too_short_is_refused() -> None:
    async with open_local_chain(prefer="anvil", standins=True) as chain, open_pair(chain) as (requestor, _):
        mine, stranger = requestor.key.address, NodeKey.generate().address

        async def refused(deposit: Deposit, why: str, *, total: str = "1", timeout_s: float | None = 60.0) -> None:
            timeout_at = None if timeout_s is None else time.time() + timeout_s
            with pytest.raises(UsageError, match=why):
                await requestor.service.allocations.create(
                    platform=PLATFORM, total=glm(total), timeout_at=timeout_at, deposit=deposit
                )

        good = await lock(chain, NodeKey.generate(), mine, "2", valid_s=600)
        other = await lock(chain, NodeKey.generate(), stranger, "2", valid_s=600)
        await refused(good, "holds 2", total="3")
        await refused(good, "valid until", timeout_s=900.0)
        await refused(good, "valid until", timeout_s=None)
        await refused(other, f"for spender {stranger}")
        await refused(Deposit(stranger, good.id), "is not the deposit contract")
        await refused(Deposit(good.contract, 7), "for spender 0x0000")


def test_deposits_are_read_as_agents_write_them() -> None:
    contract = "0x" + "Ab" * 20
    deposit = Deposit.parse(contract, "0xFf")
    assert deposit == Deposit.parse(contract, "ff") == Deposit(Address(contract.lower()), 255)
    assert Deposit.stored(str(deposit)) == deposit
    for bad_contract, bad_id in (("0x12", "1"), (contract, "-1"), (contract, "0x"), (contract, "1" * 65)):
        with pytest.raises(UsageError, match="deposit"):
            Deposit.parse(bad_contract, bad_id)
