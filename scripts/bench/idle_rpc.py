#!/usr/bin/env python
"""How many RPC calls a node makes: nothing owed, a debt that waits for its batch, a payment under way.

Usage: scripts/bench/idle_rpc.py [--seconds 5] [--json]. A real payment service on anvil, its calls counted by a proxy.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from golemp2p.core.ids import DocumentId  # noqa: E402
from golemp2p.core.payment import Document, DocumentKind  # noqa: E402
from golemp2p.identity.keys import NodeKey  # noqa: E402
from golemp2p.localchain import LocalChain, open_local_chain  # noqa: E402
from golemp2p.payment import PaymentService  # noqa: E402
from golemp2p.payment.drivers.erc20 import Erc20Driver  # noqa: E402
from golemp2p.payment.messages import document_message  # noqa: E402
from golemp2p.payment.networks import Cycle  # noqa: E402
from golemp2p.storage import open_storage  # noqa: E402
from golemp2p.wire.p2p import payment as wire  # noqa: E402
from tests.faultproxy import FaultProxy, fault_proxy  # noqa: E402
from tests.unit.payment.world import (  # noqa: E402
    ACTIVITY,
    DOMAIN,
    PLATFORM,
    FakeAgreements,
    FakeRpc,
    glm,
    make_agreement,
    make_service,
)

POLL_S = 1.0


@dataclass
class Bench:
    chain: LocalChain
    proxy: FaultProxy
    key: NodeKey
    service: PaymentService
    rpc: FakeRpc
    agreements: FakeAgreements

    async def owe(self, name: str, *, due_in_s: float) -> None:
        """An accepted invoice of a new provider."""
        provider = NodeKey.generate()
        agreement = make_agreement(self.key, provider, name, began=time.time())
        self.agreements.known[agreement.id] = agreement
        invoice = Document(
            kind=DocumentKind.INVOICE,
            id=DocumentId(f"invoice-{name}"),
            agreement_id=agreement.id,
            activity_ids=(ACTIVITY,),
            payer=self.key.address,
            payee=provider.address,
            platform=PLATFORM,
            amount=glm("1"),
            issued_at_ms=round(time.time() * 1000),
            due_at_ms=round((time.time() + due_in_s) * 1000),
        )
        body = document_message(invoice, provider.sign(invoice.digest(DOMAIN))).model_dump()
        await self.rpc.handlers[f"{wire.PROTOCOL} {wire.SEND_INVOICE}"](provider.peer_id, body)
        allocation = await self.service.allocations.create(platform=PLATFORM, total=glm("10"))
        await self.service.documents.accept(
            DocumentKind.INVOICE, invoice.id, amount=invoice.amount, allocation_id=allocation.id
        )

    async def count(self, seconds: float) -> int:
        before = sum(self.proxy.calls.values())
        await trio.sleep(seconds)
        return sum(self.proxy.calls.values()) - before


@asynccontextmanager
async def open_bench() -> AsyncIterator[Bench]:
    key = NodeKey.generate()
    async with (
        open_local_chain(prefer="anvil") as chain,
        fault_proxy(chain.rpc_url) as proxy,
        open_storage(None) as storage,
        trio.open_nursery() as nursery,
    ):
        await chain.faucet(key.address, tglm=glm("100"), eth_wei=10**18)
        await chain.call("evm_setAutomine", False)
        cycle = Cycle(interval_s=3_600, max_payees=50, due_margin_s=60)
        network = replace(chain.network(), rpc_urls=(proxy.url,), poll_s=POLL_S, rebroadcast_s=600, bump_after_s=600)
        network = replace(network, cycle=cycle)
        rpc, agreements = FakeRpc(key.peer_id, {}), FakeAgreements({})
        service = make_service(key, rpc, agreements, storage, Erc20Driver(network), clock=time.time)
        await nursery.start(service.run)
        yield Bench(chain, proxy, key, service, rpc, agreements)
        nursery.cancel_scope.cancel()


async def main(seconds: float) -> dict[str, int]:
    """Calls in so many seconds, by what the node has to do."""
    async with open_bench() as bench:
        calls = {"nothing owed": await bench.count(seconds)}
        await bench.owe("first", due_in_s=7_200)
        await trio.sleep(1)
        calls["a debt that waits for its batch"] = await bench.count(seconds)
        bench.service.settlement.settle_now(PLATFORM)
        while not bench.proxy.calls["eth_sendRawTransaction"]:  # noqa: ASYNC110
            await trio.sleep(0.05)
        calls["a payment that is not mined"] = await bench.count(seconds)
        await bench.chain.call("evm_mine")
        while (await bench.service.status())[0].in_flight:  # noqa: ASYNC110
            await trio.sleep(0.05)
        calls["after it is final"] = await bench.count(seconds)
    return calls


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = trio.run(main, given.seconds)
    if given.json:
        print(json.dumps({"seconds": given.seconds, "poll_s": POLL_S, "calls": found}))
    else:
        for what, count in found.items():
            print(f"{what:<32} {count:>4} calls in {given.seconds:g} s ({count / given.seconds * POLL_S:.1f} a poll)")
