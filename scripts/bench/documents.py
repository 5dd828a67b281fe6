#!/usr/bin/env python
"""Debit notes from issue to acceptance between two nodes, durable on both sides at every step.

Usage: scripts/bench/documents.py [--notes 2000] [--at-once 64] [--json]. Takes about 20 s; exit code 1 when the goal is
missed. Two processes with a database each, joined by libp2p over loopback: the provider issues and sends a note, the
requestor checks, stores and accepts it, the provider checks and stores the acceptance. Every step is on disk (WAL,
synchronous=FULL, group commit) before the next; journal entries, signatures and events included. Nothing is paid here.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from golemp2p import limits
from golemp2p.core.agreement import Role
from golemp2p.core.ids import ActivityId, AgreementId, AllocationId, DocumentId
from golemp2p.core.money import Amount
from golemp2p.core.payment import DocumentKind, Side
from golemp2p.identity.keys import NodeKey
from golemp2p.net.libp2p import open_libp2p_network
from golemp2p.net.rpc import Rpc
from golemp2p.payment import PaymentService, PaymentSettings
from golemp2p.payment.drivers.fake import FakeChain, FakeDriver
from golemp2p.storage import Storage, journal, open_storage
from tests.unit.audit.exchange import fixed_key, glm, make_signed_agreement
from tests.unit.payment.world import DOMAIN, NETWORK, PLATFORM, TOKEN, FakeAgreements

GOAL_PER_S = 150.0
NOTES_EACH = int(limits.DEBIT_NOTES_BURST)  # of one agreement: the limit on notes is part of what is measured
REQUESTOR, PROVIDER = fixed_key(1), fixed_key(2)
NOTE = DocumentKind.DEBIT_NOTE


@dataclass
class Node:
    storage: Storage
    service: PaymentService
    network: Any


@asynccontextmanager
async def open_node(directory: Path, key: NodeKey, role: Role, agreements: int) -> AsyncIterator[Node]:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    known = FakeAgreements({})
    for number in range(agreements):
        made = make_signed_agreement(
            REQUESTOR,
            PROVIDER,
            f"{number:064x}",
            domain=DOMAIN,
            platform=PLATFORM,
            began_ms=round(time.time() * 1000),
        )
        known.known[made.id] = replace(made, role=role)
    chain = FakeChain()
    chain.fund(REQUESTOR.address, TOKEN, glm("1000000"))
    async with (
        open_storage(directory / f"{role.value}.sqlite") as storage,
        open_libp2p_network(key) as network,
        trio.open_nursery() as nursery,
    ):
        rpc = Rpc(network)
        service = PaymentService(
            storage=storage,
            rpc=rpc,
            agreements=known,
            signer=key,
            domain=DOMAIN,
            drivers={PLATFORM: FakeDriver(chain, NETWORK)},
            clock=time.time,
            settings=PaymentSettings(auto_accept_after_s=None),
        )
        await nursery.start(rpc.run)
        await nursery.start(service.run)
        yield Node(storage, service, network)
        nursery.cancel_scope.cancel()


async def requestor(directory: Path, agreements: int) -> None:
    """Accepts whatever comes, as an agent does: events, then one acceptance for each."""
    async with open_node(directory, REQUESTOR, Role.REQUESTOR, agreements) as node, trio.open_nursery() as nursery:
        budget = (await node.service.allocations.create(platform=PLATFORM, total=glm("900000"))).id
        print(node.network.addresses()[0], flush=True)
        after_us = 0
        while True:
            events = await node.service.events(NOTE, after_us=after_us, timeout_s=60.0)
            for event in events:
                nursery.start_soon(_accept, node, event.document_id, budget)
                after_us = event.date_us


async def _accept(node: Node, document_id: DocumentId, budget: AllocationId) -> None:
    stored = await node.service.document(NOTE, document_id)
    await node.service.documents.accept(NOTE, document_id, amount=stored.document.amount, allocation_id=budget)


async def provider(directory: Path, address: str, notes: int, at_once: int, agreements: int) -> dict[str, float]:
    async with open_node(directory, PROVIDER, Role.PROVIDER, agreements) as node, trio.open_nursery() as nursery:
        await node.network.connect(address)
        sent: dict[str, float] = {}
        accepted: dict[str, float] = {}
        more = trio.Event()

        async def listen() -> None:
            nonlocal more
            after_us = 0
            while True:
                types = {Side.PAYEE: frozenset({"Accepted"})}
                for event in await node.service.events(NOTE, after_us=after_us, timeout_s=60.0, types=types):
                    accepted[event.document_id] = time.perf_counter()
                    after_us = event.date_us
                more.set()
                more = trio.Event()

        async def bill(number: int) -> None:
            agreement = AgreementId(f"{number % agreements:064x}")
            total = Amount(10**12 * (1 + number // agreements))
            document_id = DocumentId(f"note-{number}")
            sent[document_id] = time.perf_counter()
            documents = node.service.documents
            await documents.issue_debit_note(
                agreement, ActivityId("a" * 32), total, usage=(1.0, 0.0), document_id=document_id
            )
            await documents.send(NOTE, document_id)

        nursery.start_soon(listen)
        commits = node.storage.statistics().commits
        begun, cpu = time.perf_counter(), time.process_time()
        # An agreement's notes go one after the other, as they grow; different ones at the same time.
        for start in range(0, notes, at_once):
            async with trio.open_nursery() as bills:
                for number in range(start, min(start + at_once, notes)):
                    bills.start_soon(bill, number)
            while len(accepted) < start - at_once:  # so many may be under way beside the ones being issued
                await more.wait()
        while len(accepted) < notes:
            await more.wait()
        took = time.perf_counter() - begun
        waits = sorted((accepted[i] - sent[i]) * 1000 for i in sent)
        entries = await node.storage.run(journal.head)
        result = {
            "notes": notes,
            "per_s": notes / took,
            "median_ms": statistics.median(waits),
            "p99_ms": waits[int(0.99 * len(waits))],
            "commits": node.storage.statistics().commits - commits,
            "cpu_ms": (time.process_time() - cpu) * 1000 / notes,
            "entries": entries[0],
        }
        nursery.cancel_scope.cancel()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notes", type=int, default=2_000)
    parser.add_argument("--at-once", type=int, default=64, help="bills under way at a time")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requestor", metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help="of the provider's process, by total time")
    options = parser.parse_args()
    agreements = max(options.at_once, -(-options.notes // NOTES_EACH))
    if options.requestor:
        trio.run(requestor, Path(options.requestor), agreements)
        return
    with tempfile.TemporaryDirectory(prefix="golemp2p-bench-") as name:
        command = [sys.executable, __file__, "--requestor", name, "--notes", str(options.notes)]
        with subprocess.Popen(
            [*command, "--at-once", str(options.at_once)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ},
        ) as other:
            assert other.stdout is not None
            try:
                address = other.stdout.readline().strip()
                run = partial(provider, Path(name), address, options.notes, options.at_once, agreements)
                if options.profile:
                    with cProfile.Profile() as profile:
                        found = trio.run(run)
                    pstats.Stats(profile).sort_stats("tottime").print_stats(35)
                else:
                    found = trio.run(run)
            finally:
                other.kill()
    met = found["per_s"] >= GOAL_PER_S
    if options.json:
        print(json.dumps({**found, "goal_per_s": GOAL_PER_S, "met": met}))
    else:
        print(f"{'what':<64}{'goal':>6}{'value':>9}")
        what = f"debit notes issued, sent, accepted, stored ({options.at_once} at a time)"
        print(f"{what:<64}{GOAL_PER_S:>6.0f}{found['per_s']:>9.1f} /s   {'ok' if met else 'MISSED'}")
        print(f"{'  issue -> acceptance stored, median':<64}{'-':>6}{found['median_ms']:>9.1f} ms")
        print(f"{'  issue -> acceptance stored, p99':<64}{'-':>6}{found['p99_ms']:>9.1f} ms")
        print(f"{'  CPU of the provider, each note':<64}{'-':>6}{found['cpu_ms']:>9.2f} ms")
        print(f"{'  commits of the provider, each note':<64}{'-':>6}{found['commits'] / found['notes']:>9.2f}")
    sys.exit(not met)


if __name__ == "__main__":
    main()
