"""Settlement on a real EVM: paid, verified, forged, and every trouble that a chain and its endpoints make."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
import trio

from golemp2p import limits
from golemp2p.core.agreement import Role
from golemp2p.core.ids import Address, AgreementId, DocumentId, PeerId
from golemp2p.core.payment import Cycle, DocumentKind, DocumentState, Fees, PaymentNotice, SlotState
from golemp2p.identity.keys import NodeKey
from golemp2p.localchain import LocalChain, open_local_chain
from golemp2p.localchain.chain import Kind
from golemp2p.payment import PaymentNetwork, PaymentService
from golemp2p.payment.drivers.base import Call, SignedTransaction
from golemp2p.payment.drivers.erc20 import Erc20Driver
from golemp2p.payment.drivers.transactions import Transaction, transfer_call
from golemp2p.payment.messages import notice_message
from golemp2p.payment.networks import GWEI
from golemp2p.storage import Storage, open_storage
from golemp2p.storage import orders as order_repo
from golemp2p.storage import payment_notices as notices
from golemp2p.storage import payment_settlement as repo
from golemp2p.storage.orders import Order
from golemp2p.storage.payment_settlement import Mode, Slot
from golemp2p.wire.p2p import payment as wire
from tests.faultproxy import Fault, after_accepting, busy, delay, drop, fault_proxy, garbage, refuse, silent
from tests.unit.payment.world import (
    ACTIVITY,
    DOMAIN,
    PLATFORM,
    FakeAgreements,
    FakeRpc,
    glm,
    make_agreement,
    make_service,
)

INVOICE = DocumentKind.INVOICE


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Troubles are looked at again much sooner than by real nodes."""
    monkeypatch.setattr(limits, "SETTLEMENT_RETRY_S", 0.1)
    monkeypatch.setattr(limits, "SETTLEMENT_RETRY_MAX_S", 0.4)
    monkeypatch.setattr(limits, "CHAIN_BACKOFF_S", 0.05)


class Side:
    """One node on the local chain."""

    def __init__(
        self, storage: Storage, wires: dict[PeerId, FakeRpc], chain: LocalChain, network: PaymentNetwork | None
    ) -> None:
        self.key = NodeKey.generate()
        self.storage = storage
        self.rpc = wires[self.key.peer_id] = FakeRpc(self.key.peer_id, wires)
        self.agreements = FakeAgreements({})
        self.driver = Erc20Driver(network or chain.network())
        self.service: PaymentService = make_service(
            self.key, self.rpc, self.agreements, storage, self.driver, clock=time.time
        )


@asynccontextmanager
async def open_sides(
    chain: LocalChain, network: PaymentNetwork | None = None, *, providers: int = 1, coin: int = 10**18
) -> AsyncIterator[tuple[Side, list[Side]]]:
    """A requestor with 100 tGLM, and providers. ``network``: as the requestor has it."""
    wires: dict[PeerId, FakeRpc] = {}
    async with AsyncExitStack() as stack:
        sides = [
            Side(await stack.enter_async_context(open_storage(None)), wires, chain, None if number else network)
            for number in range(providers + 1)
        ]
        await chain.faucet(sides[0].key.address, tglm=glm("100"), eth_wei=coin)
        nursery = await stack.enter_async_context(trio.open_nursery())
        for side in sides:
            await nursery.start(side.service.run)
        yield sides[0], sides[1:]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_pair(
    chain: LocalChain, network: PaymentNetwork | None = None, *, coin: int = 10**18
) -> AsyncIterator[tuple[Side, Side]]:
    async with open_sides(chain, network, coin=coin) as (requestor, (provider,)):
        yield requestor, provider


async def owe(requestor: Side, provider: Side, amount: str, name: str = "ag1") -> DocumentId:
    """An accepted invoice."""
    allocation = await requestor.service.allocations.create(platform=PLATFORM, total=glm(amount))
    invoice = await bill(requestor, provider, agree(requestor, provider, name), amount)
    await requestor.service.documents.accept(INVOICE, invoice, amount=glm(amount), allocation_id=allocation.id)
    return invoice


async def problem_says(requestor: Side, text: str) -> None:
    with trio.fail_after(20):
        while text not in (await requestor.service.status())[0].problem:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def settled(invoice: DocumentId, *sides: Side) -> None:
    for side in sides:
        await reaches(side, invoice, DocumentState.SETTLED)


def agree(requestor: Side, provider: Side, agreement_id: str) -> AgreementId:
    agreement = make_agreement(requestor.key, provider.key, agreement_id, began=time.time())
    requestor.agreements.known[agreement.id] = agreement
    provider.agreements.known[agreement.id] = replace(agreement, role=Role.PROVIDER)
    return agreement.id


async def bill(requestor: Side, provider: Side, agreement_id: AgreementId, amount: str) -> DocumentId:
    stored = await provider.service.documents.issue_invoice(
        agreement_id, glm(amount), activity_ids=[ACTIVITY], due_at=time.time() + 3_600
    )
    await provider.service.documents.send(INVOICE, stored.document.id)
    await reaches(requestor, stored.document.id, DocumentState.RECEIVED)
    return stored.document.id


async def reaches(side: Side, document_id: DocumentId, state: DocumentState) -> None:
    with trio.fail_after(30):
        while True:
            found = [s for s in await side.service.list_documents(INVOICE) if s.document.id == document_id]
            if found and found[0].state is state:
                return
            await trio.sleep(0.02)


@pytest.mark.parametrize("kind", ["anvil", "embedded"])
async def test_an_invoice_is_paid_and_verified_on_the_chain(kind: Kind) -> None:
    async with open_local_chain(prefer=kind) as chain, open_pair(chain) as (requestor, provider):
        allocation = await requestor.service.allocations.create(platform=PLATFORM, total=glm("10"))
        invoice = await bill(requestor, provider, agree(requestor, provider, "ag1"), "2.5")
        await requestor.service.documents.accept(INVOICE, invoice, amount=glm("2.5"), allocation_id=allocation.id)
        for side in (requestor, provider):
            await reaches(side, invoice, DocumentState.SETTLED)
        assert await provider.driver.balance(provider.key.address) == glm("2.5")
        assert await requestor.driver.balance(requestor.key.address) == glm("97.5")


async def test_forged_payments_are_refused_each_for_its_reason() -> None:
    """Another token, another recipient, the native coin, a reused transaction, too small a sum."""
    async with open_local_chain(prefer="anvil") as chain, open_pair(chain) as (requestor, provider):
        key, network = requestor.key, requestor.driver.network
        fees = Fees(10**10, 10**9)

        def transfer(token: Address, nonce: int, recipient: Address, amount: str) -> SignedTransaction:
            return requestor.driver.sign(key, nonce, Call(token, transfer_call(recipient, glm(amount)), 100_000), fees)

        you, stranger = provider.key.address, NodeKey.generate().address
        signed = {
            "other token": transfer(await chain.deploy_token(), 0, you, "0"),
            "other recipient": transfer(network.token, 1, stranger, "1"),
            "native coin": Transaction(network.chain_id, 2, fees, 100_000, you, 10**17, b"").sign(key),
            "too small": transfer(network.token, 3, you, "0.5"),
            "honest": transfer(network.token, 4, you, "1"),
        }
        for transaction in signed.values():
            await requestor.driver.broadcast(transaction.raw)
        handler = provider.rpc.handlers[f"{wire.PROTOCOL} {wire.PAYMENT_NOTICE}"]
        invoices = {}
        for name, transaction in {**signed, "reused": signed["honest"]}.items():
            agreement_id = agree(requestor, provider, name)
            invoices[name] = await bill(requestor, provider, agreement_id, "1")
            notice = PaymentNotice(
                name, key.address, you, PLATFORM, transaction.hash, ((agreement_id, glm("1")),), (), 1
            )
            await handler(key.peer_id, notice_message(notice, key.sign(notice.digest(DOMAIN))).model_dump())
            with trio.fail_after(10):
                while any(p.state == notices.CLAIMED for p in await provider.service.payments()):  # noqa: ASYNC110
                    await trio.sleep(0.02)
        verdicts = {p.notice.id: p.reason for p in await provider.service.payments()}
        assert "holds no transfer of token" in verdicts["other token"]
        assert "holds no transfer of token" in verdicts["other recipient"]
        assert "holds no transfer of token" in verdicts["native coin"]
        assert "transfers 0.5, the notice claims 1" in verdicts["too small"]
        assert "paid for something else already" in verdicts["reused"]
        assert verdicts["honest"] == ""


async def test_three_blocks_of_depth_are_waited_for_and_a_reorganised_payment_is_sent_again() -> None:
    async with open_local_chain(prefer="anvil") as chain:
        deep = replace(chain.network(), confirmations=3)
        async with open_pair(chain, deep) as (requestor, provider):
            provider.driver = Erc20Driver(deep)
            invoice = await owe(requestor, provider, "2")
            await slot_reaches(requestor, SlotState.MINED)
            await chain.call("anvil_reorg", 1, [])
            with trio.fail_after(20):
                while await provider.driver.balance(provider.key.address) == 0:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            await slot_reaches(requestor, SlotState.MINED)
            await chain.call("anvil_mine", "0x3")
            await settled(invoice, requestor, provider)
            assert await provider.driver.balance(provider.key.address) == glm("2")


async def slot_reaches(side: Side, state: SlotState) -> None:
    with trio.fail_after(20):
        while [s.state for s in await side.storage.run(repo.find_slots)] != [state]:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def slots(side: Side) -> list[Slot]:
    return await side.storage.run(repo.find_slots)


@pytest.mark.parametrize("mode", [Mode.BATCH, Mode.MULTI])
async def test_several_providers_are_paid_by_one_transaction_and_each_finds_its_leg(mode: Mode) -> None:
    async with open_local_chain(prefer="anvil", standins=mode is Mode.MULTI) as chain:
        network = replace(chain.network(), cycle=Cycle(interval_s=1.0))
        if mode is Mode.MULTI:
            network = replace(network, batch=None)
        async with open_sides(chain, network, providers=3) as (requestor, providers):
            due_later = [await owe(requestor, p, str(n + 1), f"ag{n}") for n, p in enumerate(providers)]
            for invoice, provider in zip(due_later, providers, strict=True):
                await settled(invoice, requestor, provider)
            balances = [await requestor.driver.balance(p.key.address) for p in providers]
            assert balances == [glm("1"), glm("2"), glm("3")]
            assert mode in {s.mode for s in await slots(requestor)}
            transactions = {p.notice.transaction for p in await requestor.service.payments()}
            assert len(transactions) < 3


async def test_a_gas_spike_raises_bids_of_the_same_nonce_and_pays_once() -> None:
    """Golem: stalls when gas spikes, wrong nonce after that (yagna #2270, #1886, #3062, #3028)."""
    async with open_local_chain(prefer="anvil") as chain:
        network = replace(chain.network(), bump_after_s=0.2, rebroadcast_s=0.2)
        async with open_pair(chain, network) as (requestor, provider):
            await chain.call("evm_setAutomine", False)
            invoice = await owe(requestor, provider, "2")
            await slot_reaches(requestor, SlotState.SENT)
            await chain.call("anvil_setNextBlockBaseFeePerGas", hex(60 * GWEI))
            (slot,) = await slots(requestor)
            with trio.fail_after(30):
                while True:
                    await chain.call("anvil_mine", "0x1")
                    versions = await requestor.storage.run(lambda c: repo.get_versions(c, slot.id))
                    if (await slots(requestor))[0].state is SlotState.FINAL:
                        break
                    await trio.sleep(0.05)
            await settled(invoice, requestor, provider)
            assert len(versions) > 1
            assert await requestor.driver.nonce(requestor.key.address) == 1
            assert await requestor.driver.balance(provider.key.address) == glm("2")


async def test_a_nonce_that_somebody_else_used_is_noticed_and_the_payment_sent_with_the_next() -> None:
    """Golem: receipt not found despite proper nonce; it stops until an operator removes the row."""
    async with open_local_chain(prefer="anvil") as chain:
        network = replace(chain.network(), rebroadcast_s=0.2)
        async with open_pair(chain, network) as (requestor, provider):
            await chain.call("evm_setAutomine", False)
            invoice = await owe(requestor, provider, "2")
            await slot_reaches(requestor, SlotState.SENT)
            await chain.call("anvil_dropAllTransactions")
            key, driver = requestor.key, requestor.driver
            call = Call(network.token, transfer_call(key.address, 1), 100_000)
            await driver.broadcast(driver.sign(key, 0, call, Fees(100 * GWEI, 50 * GWEI)).raw)
            await chain.call("anvil_mine", "0x1")
            await chain.call("evm_setAutomine", True)
            await settled(invoice, requestor, provider)
            assert [s.state for s in await slots(requestor)] == [SlotState.FOREIGN, SlotState.FINAL]
            assert await driver.balance(provider.key.address) == glm("2")


async def test_out_of_tokens_or_gas_is_a_state_that_ends_with_a_top_up() -> None:
    """Golem: stuck after out-of-funds, not resumed after a top-up (yagna #2658, #3236)."""
    async with open_local_chain(prefer="anvil") as chain, open_pair(chain, coin=0) as (requestor, provider):
        invoice = await owe(requestor, provider, "2")
        await problem_says(requestor, "lacks")
        await problem_says(requestor, "the chain's own coin for the fee")
        await chain.faucet(requestor.key.address, tglm=glm("0"), eth_wei=10**18)
        await settled(invoice, requestor, provider)
        assert (await requestor.service.status())[0].problem == ""
        rich = await requestor.driver.balance(requestor.key.address)
        drain = await requestor.driver.nonce(requestor.key.address)
        call = Call(requestor.driver.network.token, transfer_call(provider.key.address, rich), 100_000)
        second = await owe_then_drain(requestor, provider, call, drain)
        await problem_says(requestor, "lacks 3 tglm to pay 3")
        await chain.faucet(requestor.key.address, tglm=glm("3"), eth_wei=0)
        await settled(second, requestor, provider)


async def owe_then_drain(requestor: Side, provider: Side, drain: Call, nonce: int) -> DocumentId:
    """The account's tokens leave after the budget was made, and before the invoice is accepted."""
    allocation = await requestor.service.allocations.create(platform=PLATFORM, total=glm("3"))
    invoice = await bill(requestor, provider, agree(requestor, provider, "ag2"), "3")
    signed = requestor.driver.sign(requestor.key, nonce, drain, Fees(10 * GWEI, GWEI))
    await requestor.driver.broadcast(signed.raw)
    requestor.service.settlement._slots.chain_nonces.clear()  # the wallet's transaction is known
    await requestor.service.documents.accept(INVOICE, invoice, amount=glm("3"), allocation_id=allocation.id)
    return invoice


@pytest.mark.parametrize(
    "fault",
    [
        drop("eth_sendRawTransaction", times=2),
        after_accepting(times=2),
        busy(times=4),
        delay(0.2, times=10),
        refuse("replacement transaction underpriced", "eth_sendRawTransaction", times=1),
        garbage(times=3),
    ],
    ids=["dropped", "accepted but lost", "429", "slow", "underpriced", "garbage"],
)
async def test_what_an_endpoint_does_wrong_delays_a_payment_and_never_doubles_it(fault: Fault) -> None:
    async with open_local_chain(prefer="anvil") as chain, fault_proxy(chain.rpc_url) as proxy:
        network = replace(chain.network(), rpc_urls=(proxy.url,), rebroadcast_s=0.2)
        async with open_pair(chain, network) as (requestor, provider):
            await requestor.driver.head()
            proxy.fault = fault
            invoice = await owe(requestor, provider, "2")
            await settled(invoice, requestor, provider)
            assert await provider.driver.balance(provider.key.address) == glm("2")
            assert await provider.driver.nonce(requestor.key.address) == 1


async def test_a_dead_network_neither_hangs_the_status_nor_holds_up_another() -> None:
    """Golem: the status command hangs because an unrelated testnet is dead (yagna #3112, #3263, #3066)."""
    async with open_local_chain(prefer="anvil") as chain, fault_proxy(chain.rpc_url) as proxy:
        dead = replace(chain.network("dead"), rpc_urls=(proxy.url,))
        proxy.fault = silent()
        async with open_pair(chain) as (requestor, provider):
            drivers = dict(requestor.service._context.drivers)
            drivers[dead.platform] = Erc20Driver(dead)
            object.__setattr__(requestor.service._context, "drivers", drivers)
            order = Order("k", dead.platform, dead.token, b"", glm("0"), "test the dead network", value=1)
            await requestor.storage.run(lambda c: order_repo.place_order(c, order, now=time.time()))
            requestor.service._context.debts.tell()
            with trio.fail_after(30):
                invoice = await owe(requestor, provider, "2")
                await settled(invoice, requestor, provider)
                assert {s.platform for s in await requestor.service.status()} == {PLATFORM, dead.platform}
                balances = {b.account.platform: b for b in await requestor.service.balances()}
            assert balances[dead.platform].problem
            assert balances[PLATFORM].tokens == glm("98")
