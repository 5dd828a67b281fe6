"""The settlement engine over three endpoints that misbehave while it pays: paid once, settled when they agree."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio

from golemp2p import limits
from golemp2p.core.ids import DocumentId
from golemp2p.core.payment import Document, DocumentKind
from golemp2p.identity.keys import NodeKey
from golemp2p.localchain import LocalChain, open_local_chain
from golemp2p.payment import PaymentService
from golemp2p.payment.drivers.erc20 import Erc20Driver
from golemp2p.payment.messages import document_message
from golemp2p.payment.settlement import PlatformStatus
from golemp2p.storage import open_storage
from golemp2p.wire.p2p import payment as wire
from tests.faultproxy import FaultProxy, after_accepting, drop, fault_proxy, lie
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


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SETTLEMENT_RETRY_S", 0.2)
    monkeypatch.setattr(limits, "CHAIN_BACKOFF_S", 0.1)


@dataclass
class Bench:
    chain: LocalChain
    proxies: list[FaultProxy]
    key: NodeKey
    provider: NodeKey
    service: PaymentService
    accept: Any  # () -> awaitable

    async def status(self) -> PlatformStatus:
        return (await self.service.status())[0]

    async def until_paid(self) -> None:
        with trio.fail_after(30):
            while (await self.status()).owed:  # noqa: ASYNC110
                await trio.sleep(0.05)

    async def check_paid_once(self) -> None:
        direct = Erc20Driver(self.chain.network())
        assert await direct.balance(self.provider.address) == glm("2")
        assert await direct.nonce(self.key.address) == 1


@asynccontextmanager
async def open_bench(quorum: int = 2) -> AsyncIterator[Bench]:
    """A payer with an invoice of 2 that is not accepted yet."""
    key, provider = NodeKey.generate(), NodeKey.generate()
    async with AsyncExitStack() as stack:
        chain = await stack.enter_async_context(open_local_chain(prefer="anvil"))
        await chain.faucet(key.address, tglm=glm("10"), eth_wei=10**18)
        proxies = [await stack.enter_async_context(fault_proxy(chain.rpc_url)) for _ in range(3)]
        network = replace(chain.network(), rpc_urls=tuple(p.url for p in proxies), quorum=quorum, rebroadcast_s=0.5)
        storage = await stack.enter_async_context(open_storage(None))
        nursery = await stack.enter_async_context(trio.open_nursery())
        agreement = make_agreement(key, provider, "ag1", began=time.time())
        rpc, agreements = FakeRpc(key.peer_id, {}), FakeAgreements({agreement.id: agreement})
        service = make_service(key, rpc, agreements, storage, Erc20Driver(network), clock=time.time)
        await nursery.start(service.run)
        invoice = Document(
            kind=DocumentKind.INVOICE,
            id=DocumentId("inv1"),
            agreement_id=agreement.id,
            activity_ids=(ACTIVITY,),
            payer=key.address,
            payee=provider.address,
            platform=PLATFORM,
            amount=glm("2"),
            issued_at_ms=1,
            due_at_ms=2,
        )
        body = document_message(invoice, provider.sign(invoice.digest(DOMAIN))).model_dump()
        await rpc.handlers[f"{wire.PROTOCOL} {wire.SEND_INVOICE}"](provider.peer_id, body)
        allocation = await service.allocations.create(platform=PLATFORM, total=glm("5"))

        async def accept() -> None:
            await service.documents.accept(
                DocumentKind.INVOICE, invoice.id, amount=invoice.amount, allocation_id=allocation.id
            )

        yield Bench(chain, proxies, key, provider, service, accept)
        nursery.cancel_scope.cancel()


async def test_a_transaction_that_every_endpoint_took_and_none_admitted_is_paid_once() -> None:
    async with open_bench() as bench:
        for proxy in bench.proxies:
            proxy.fault = after_accepting(times=1)
        await bench.accept()
        await bench.until_paid()
        await bench.check_paid_once()


async def test_endpoints_that_fail_in_turn_delay_a_payment_and_never_double_it() -> None:
    async with open_bench() as bench:
        for proxy, fault in zip(
            bench.proxies,
            (drop(times=3), drop("eth_sendRawTransaction", times=2), drop("eth_getTransactionReceipt", times=2)),
            strict=True,
        ):
            proxy.fault = fault
        await bench.accept()
        await bench.until_paid()
        await bench.check_paid_once()


async def test_nothing_is_settled_on_answers_that_differ_and_the_status_says_who_says_what() -> None:
    """Two of three lie about the receipt, each in its own way: whoever is right, nobody is believed."""
    async with open_bench() as bench:

        def failed(_method: str, _params: list[Any], receipt: Any) -> Any:
            return receipt and {**receipt, "status": "0x0"}

        def elsewhere(_method: str, _params: list[Any], receipt: Any) -> Any:
            return receipt and {**receipt, "blockHash": "0x" + "13" * 32}

        bench.proxies[0].fault = lie(failed, "eth_getTransactionReceipt")
        bench.proxies[1].fault = lie(elsewhere, "eth_getTransactionReceipt")
        await bench.accept()
        with trio.fail_after(20):
            while "do not agree on eth_getTransactionReceipt" not in (await bench.status()).problem:  # noqa: ASYNC110
                await trio.sleep(0.05)
        status = await bench.status()
        assert status.owed == glm("2")
        assert f"{bench.proxies[0].url.removeprefix('http://')} says failed in block" in status.problem
        assert "(0x13131313…)" in status.problem
        for proxy in bench.proxies:
            proxy.fault = None
        await bench.until_paid()
        await bench.check_paid_once()
        assert (await bench.status()).problem == ""


async def test_one_endpoint_that_knows_the_nonce_and_one_that_lags_do_not_make_a_payment_look_lost() -> None:
    """Each tells the truth as far as it knows it; put together, a foreign transaction seems to have the nonce."""
    async with open_bench(quorum=1) as bench:

        def behind(method: str, params: list[Any], result: Any) -> Any:
            if method == "eth_getTransactionReceipt":
                return None
            if params[1] != "latest":
                raise ValueError("header not found")
            return result

        bench.proxies[0].fault = drop("eth_getTransactionReceipt")
        for proxy in bench.proxies[1:]:
            proxy.fault = lie(behind, "eth_getTransactionReceipt", "eth_getTransactionCount")
        await bench.accept()
        await trio.sleep(2.5)
        for proxy in bench.proxies:
            proxy.fault = None
        await bench.until_paid()
        await bench.check_paid_once()
