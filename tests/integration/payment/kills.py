"""A requestor's settlement, killed at random between any two durable steps, on a real EVM with reorganisations.

    python -m tests.integration.payment.kills [--invoices 1000] [--payees 50] [--kills 30] [--reorgs 7] [--seed N]

Each life of the node accepts some more invoices and pays. What counts is at the end: every balance exact, no payment
twice, none lost. A life is a process forked from a server that has everything imported, so it costs no start-up.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
import trio

from golemp2p.core.ids import Address, AgreementId, AllocationId, DocumentId
from golemp2p.core.money import Amount, format_amount
from golemp2p.core.payment import Document, DocumentKind, DocumentState, SlotState
from golemp2p.identity.keys import NodeKey
from golemp2p.localchain import LocalChain, open_local_chain
from golemp2p.payment import PaymentNetwork
from golemp2p.payment.drivers.erc20 import Erc20Driver
from golemp2p.payment.messages import document_message
from golemp2p.storage import open_storage
from golemp2p.storage import payment as ledger_repo
from golemp2p.storage import payment_settlement as repo
from golemp2p.wire.p2p import payment as wire
from tests.unit.payment.world import ACTIVITY, DOMAIN, PLATFORM, FakeAgreements, FakeRpc, make_agreement, make_service

INVOICE = DocumentKind.INVOICE
GLM = 10**18
CONFIRMATIONS = 3  # reorganisations are of two blocks
WAVE = 20  # invoices accepted at a time
KILL_CHANCE = 0.2  # at each step
LIFE_LIMIT_S = 60.0
MINE_EVERY_S = 0.03


@dataclass(frozen=True)
class Work:
    """All that a life of the node needs."""

    database: Path
    secret: bytes
    network: PaymentNetwork
    allocation: AllocationId
    seed: str
    kill_chance: float


@dataclass
class Outcome:
    seed: int
    lives: int = 0
    kills: int = 0
    steps: Counter[str] = field(default_factory=Counter)  # where it was killed
    reorgs: int = 0
    transactions: int = 0
    seconds: float = 0.0


def live(work: Work, steps: Path) -> None:
    """In a process of its own, until all is accepted and paid; or until it kills itself."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    trio.run(_live, work, steps)


async def _live(work: Work, steps: Path) -> None:
    chance = random.Random(work.seed)

    async def checkpoint(reached: str) -> None:
        if chance.random() < work.kill_chance:
            with steps.open("a") as file:
                file.write(reached + "\n")
            os.kill(os.getpid(), signal.SIGKILL)

    key = NodeKey(work.secret)
    async with open_storage(work.database) as storage, trio.open_nursery() as nursery:
        driver = Erc20Driver(work.network)
        rpc, agreements = FakeRpc(key.peer_id, {}), FakeAgreements({})
        service = make_service(key, rpc, agreements, storage, driver, checkpoint=checkpoint, clock=time.time)
        await nursery.start(service.run)
        received = await storage.run(lambda c: ledger_repo.find_documents(c, states=(DocumentState.RECEIVED,)))
        for stored in received:  # the agreements that this node has
            d = stored.document
            payer = NodeKey(work.secret)
            agreements.known[d.agreement_id] = replace(
                make_agreement(payer, payer, d.agreement_id, began=time.time()), provider=stored.peer
            )
        for start in range(0, len(received), WAVE):
            for stored in received[start : start + WAVE]:
                d = stored.document
                await service.documents.accept(INVOICE, d.id, amount=d.amount, allocation_id=work.allocation)
            await checkpoint("accepted")
            await trio.sleep(0.02)
        while await storage.run(repo.platforms_with_work):  # noqa: ASYNC110 - a test's wait
            await trio.sleep(0.02)
        nursery.cancel_scope.cancel()


async def prepare(
    database: Path, key: NodeKey, payees: list[NodeKey], amounts: list[Amount], network: PaymentNetwork
) -> AllocationId:
    """Invoices that the requestor's node has received. Returns the allocation."""
    async with open_storage(database) as storage:
        rpc, agreements = FakeRpc(key.peer_id, {}), FakeAgreements({})
        service = make_service(key, rpc, agreements, storage, Erc20Driver(network), clock=time.time)
        allocation = await service.allocations.create(platform=PLATFORM, total=Amount(sum(amounts)))
        handler = rpc.handlers[f"{wire.PROTOCOL} {wire.SEND_INVOICE}"]
        async with trio.open_nursery() as nursery:
            for number, amount in enumerate(amounts):
                payee = payees[number % len(payees)]
                agreement = make_agreement(key, payee, f"ag{number}", began=time.time())
                agreements.known[agreement.id] = agreement
                invoice = Document(
                    kind=INVOICE,
                    id=DocumentId(f"inv{number}"),
                    agreement_id=AgreementId(agreement.id),
                    activity_ids=(ACTIVITY,),
                    payer=key.address,
                    payee=payee.address,
                    platform=PLATFORM,
                    amount=amount,
                    issued_at_ms=1,
                    due_at_ms=2,
                )
                message = document_message(invoice, payee.sign(invoice.digest(DOMAIN)))
                nursery.start_soon(handler, payee.peer_id, message.model_dump())
    return allocation.id


async def _blocks(chain: LocalChain, chance: random.Random, outcome: Outcome, reorgs: int) -> None:
    """Blocks come all the time; now and then the last two are undone, and their transactions forgotten."""
    while True:
        await chain.call("anvil_mine", "0x1")
        if outcome.reorgs < reorgs and chance.random() < 0.04:
            await chain.call("anvil_reorg", 2, [])
            outcome.reorgs += 1
        await trio.sleep(MINE_EVERY_S)


async def run(*, invoices: int, payees: int, kills: int, reorgs: int, seed: int, directory: Path) -> Outcome:
    """Raises AssertionError when one balance is wrong."""
    chance, outcome, began = random.Random(seed), Outcome(seed), time.perf_counter()
    key, providers = NodeKey.generate(), [NodeKey.generate() for _ in range(payees)]
    amounts = [Amount(chance.randrange(1, GLM)) for _ in range(invoices)]
    database, steps = directory / "node.sqlite", directory / "steps"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "web3.providers.rpc", "alembic.command"])
    async with open_local_chain(prefer="anvil") as chain, trio.open_nursery() as nursery:
        network = replace(chain.network(), confirmations=CONFIRMATIONS, poll_s=0.03, rebroadcast_s=0.5)
        await chain.faucet(key.address, tglm=Amount(2 * sum(amounts)), eth_wei=100 * GLM)
        allocation = await prepare(database, key, providers, amounts, network)
        nursery.start_soon(_blocks, chain, chance, outcome, reorgs)
        while True:
            outcome.lives += 1
            may_kill = KILL_CHANCE if outcome.kills < kills else 0.0
            work = Work(database, key.secret, network, allocation, f"{seed} {outcome.lives}", may_kill)
            process = context.Process(target=live, args=(work, steps))
            process.start()
            await trio.to_thread.run_sync(process.join, LIFE_LIMIT_S)
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL, f"a life ended with {process.exitcode}, seed {seed}"
            outcome.kills += 1
        nursery.cancel_scope.cancel()
        await check(Erc20Driver(network), database, key.address, providers, amounts)
    outcome.steps.update(steps.read_text().split() if steps.exists() else [])
    async with open_storage(database) as storage:
        outcome.transactions = len(await storage.run(repo.find_slots))
    outcome.seconds = time.perf_counter() - began
    return outcome


async def check(
    driver: Erc20Driver, database: Path, payer: Address, payees: list[NodeKey], amounts: list[Amount]
) -> None:
    expected = [Amount(sum(amounts[i :: len(payees)])) for i in range(len(payees))]
    found = [await driver.balance(payee.address) for payee in payees]
    wrong = [
        f"{payee.address}: has {format_amount(have)}, is owed {format_amount(want)}"
        for payee, have, want in zip(payees, found, expected, strict=True)
        if have != want
    ]
    assert not wrong, wrong
    assert await driver.balance(payer) == sum(amounts), "the payer had twice the sum"
    async with open_storage(database) as storage:
        slots = await storage.run(repo.find_slots)
        documents = await storage.run(ledger_repo.find_documents)
        assert [s.nonce for s in slots] == list(range(len(slots)))
        assert {s.state for s in slots} == {SlotState.FINAL}
        assert sum(s.amount for s in slots) == sum(amounts)
        assert {d.state for d in documents} == {DocumentState.SETTLED}
        assert len(documents) == len(amounts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--invoices", type=int, default=1_000)
    parser.add_argument("--payees", type=int, default=50)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--reorgs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = vars(parser.parse_args())
    print(f"seed {options['seed']}", flush=True)
    with tempfile.TemporaryDirectory(prefix="golemp2p-kills-") as folder:

        async def go() -> Outcome:
            return await run(directory=Path(folder), **options)

        outcome = trio.run(go)
    print(
        f"{options['invoices']} invoices to {options['payees']} payees: every balance exact after {outcome.kills}"
        f" SIGKILLs ({dict(sorted(outcome.steps.items()))}) and {outcome.reorgs} reorganisations of two blocks;"
        f" {outcome.transactions} transactions, {outcome.lives} lives, {outcome.seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
