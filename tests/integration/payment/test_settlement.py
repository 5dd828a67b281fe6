"""Settlement on a real EVM: paid, verified, forged, killed at every step."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from golemp2p.core.agreement import Role
from golemp2p.core.ids import AgreementId, DocumentId
from golemp2p.core.payment import Document, DocumentKind, DocumentState, PaymentNotice, SlotState
from golemp2p.identity.keys import NodeKey
from golemp2p.localchain import LocalChain, open_local_chain
from golemp2p.localchain.chain import Kind
from golemp2p.payment import PaymentService
from golemp2p.payment.drivers.erc20 import Erc20Driver
from golemp2p.payment.drivers.transactions import Transaction
from golemp2p.payment.messages import document_message, notice_message
from golemp2p.storage import Storage, open_storage
from golemp2p.storage import payment_settlement as repo
from golemp2p.wire.p2p import payment as wire
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

ROOT = Path(__file__).parents[3]
INVOICE = DocumentKind.INVOICE


class Side:
    """One node on the local chain."""

    def __init__(self, storage: Storage, wires: dict, chain: LocalChain) -> None:  # type: ignore[type-arg]  # of FakeRpc
        self.key = NodeKey.generate()
        self.storage = storage
        self.rpc = wires[self.key.peer_id] = FakeRpc(self.key.peer_id, wires)
        self.agreements = FakeAgreements({})
        self.driver = Erc20Driver(chain.network())
        self.service: PaymentService = make_service(
            self.key, self.rpc, self.agreements, storage, self.driver, clock=time.time
        )


@asynccontextmanager
async def open_pair(chain: LocalChain) -> AsyncIterator[tuple[Side, Side]]:
    """A requestor with 100 tGLM and a provider."""
    wires: dict[str, FakeRpc] = {}
    async with open_storage(None) as first, open_storage(None) as second, trio.open_nursery() as nursery:
        requestor, provider = Side(first, wires, chain), Side(second, wires, chain)
        await chain.faucet(requestor.key.address, tglm=glm("100"), eth_wei=10**18)
        for side in (requestor, provider):
            await nursery.start(side.service.run)
        yield requestor, provider
        nursery.cancel_scope.cancel()


def agree(requestor: Side, provider: Side, agreement_id: str) -> AgreementId:
    agreement = make_agreement(requestor.key, provider.key, agreement_id, began=time.time())
    requestor.agreements.known[agreement.id] = agreement
    provider.agreements.known[agreement.id] = replace(agreement, role=Role.PROVIDER)
    return agreement.id


async def bill(requestor: Side, provider: Side, agreement_id: AgreementId, amount: str) -> DocumentId:
    stored = await provider.service.documents.issue_invoice(agreement_id, glm(amount), activity_ids=[ACTIVITY])
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
        fees = await requestor.driver.fees()
        worthless = Erc20Driver(replace(network, token=await chain.deploy_token()))
        you, stranger = provider.key.address, NodeKey.generate().address
        signed = {
            "other token": worthless.sign_transfer(key, 0, you, glm("0"), fees),
            "other recipient": requestor.driver.sign_transfer(key, 1, stranger, glm("1"), fees),
            "native coin": Transaction(network.chain_id, 2, fees, 100_000, you, 10**17, b"").sign(key),
            "too small": requestor.driver.sign_transfer(key, 3, you, glm("0.5"), fees),
            "honest": requestor.driver.sign_transfer(key, 4, you, glm("1"), fees),
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
                while any(p.state == repo.CLAIMED for p in await provider.service.payments()):  # noqa: ASYNC110
                    await trio.sleep(0.02)
        verdicts = {p.notice.id: p.reason for p in await provider.service.payments()}
        assert "holds no transfer of token" in verdicts["other token"]
        assert "holds no transfer of token" in verdicts["other recipient"]
        assert "holds no transfer of token" in verdicts["native coin"]
        assert "transfers 0.5, the notice claims 1" in verdicts["too small"]
        assert "paid for something else already" in verdicts["reused"]
        assert verdicts["honest"] == ""


async def test_two_blocks_of_depth_are_waited_for_and_a_reorganised_payment_is_sent_again() -> None:
    async with open_local_chain(prefer="anvil") as chain, open_pair(chain) as (requestor, provider):
        deep = replace(chain.network(), confirmations=3)
        for side in (requestor, provider):
            side.driver._network = deep
        allocation = await requestor.service.allocations.create(platform=PLATFORM, total=glm("10"))
        invoice = await bill(requestor, provider, agree(requestor, provider, "ag1"), "2")
        await requestor.service.documents.accept(INVOICE, invoice, amount=glm("2"), allocation_id=allocation.id)
        await slot_reaches(requestor, SlotState.MINED)
        await chain.call("anvil_reorg", 1, [])
        with trio.fail_after(20):
            while await provider.driver.balance(provider.key.address) == 0:  # noqa: ASYNC110
                await trio.sleep(0.05)
        await slot_reaches(requestor, SlotState.MINED)
        await chain.call("anvil_mine", "0x3")
        for side in (requestor, provider):
            await reaches(side, invoice, DocumentState.SETTLED)
        assert await provider.driver.balance(provider.key.address) == glm("2")


async def slot_reaches(side: Side, state: SlotState) -> None:
    with trio.fail_after(20):
        while [s.state for s in await side.storage.run(repo.find_slots)] != [state]:  # noqa: ASYNC110
            await trio.sleep(0.02)


STEPS = ["planned", "signed", "broadcast", "sent", "mined", "final"]


async def test_a_payer_killed_between_all_steps_pays_everybody_exactly_once(tmp_path: Path) -> None:
    """Issue: requestor killed after results, before payment."""
    database = tmp_path / "node.sqlite"
    key, providers = NodeKey.generate(), [NodeKey.generate() for _ in range(8)]
    async with open_local_chain(prefer="anvil") as chain:
        await chain.faucet(key.address, tglm=glm("100"), eth_wei=10**18)
        async with open_storage(database) as storage:  # accepted, and nothing paid yet
            rpc, agreements = FakeRpc(key.peer_id, {}), FakeAgreements({})
            service = make_service(key, rpc, agreements, storage, Erc20Driver(chain.network()), clock=time.time)
            allocation = await service.allocations.create(platform=PLATFORM, total=glm("50"))
            for number, provider in enumerate(providers):
                agreement = make_agreement(key, provider, f"ag{number}", began=time.time())
                agreements.known[agreement.id] = agreement
                invoice = Document(
                    kind=INVOICE,
                    id=DocumentId(f"inv{number}"),
                    agreement_id=agreement.id,
                    activity_ids=(ACTIVITY,),
                    payer=key.address,
                    payee=provider.address,
                    platform=PLATFORM,
                    amount=glm(str(number + 1)),
                    issued_at_ms=1,
                    due_at_ms=2,
                )
                body = document_message(invoice, provider.sign(invoice.digest(DOMAIN))).model_dump()
                await rpc.handlers[f"{wire.PROTOCOL} {wire.SEND_INVOICE}"](provider.peer_id, body)
                await service.documents.accept(INVOICE, invoice.id, amount=invoice.amount, allocation_id=allocation.id)
        arguments = [str(database), chain.rpc_url, str(chain.chain_id), chain.token_address, key.secret.hex()]
        codes = []
        for step in [*STEPS, "-"]:
            command = [sys.executable, "-m", "tests.integration.payment.crash_worker", *arguments, step]
            with trio.fail_after(30):
                codes.append(
                    (await trio.run_process(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)).returncode
                )
        assert codes == [-9] * len(STEPS) + [0]
        driver = Erc20Driver(chain.network())
        assert [await driver.balance(p.address) for p in providers] == [glm(str(n + 1)) for n in range(8)]
        assert await driver.nonce(key.address) == 8, "one transaction each"
        async with open_storage(database) as storage:
            slots = await storage.run(repo.find_slots)
        assert [s.state for s in slots] == [SlotState.FINAL] * 8
