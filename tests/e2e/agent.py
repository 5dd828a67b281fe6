"""A requestor agent of few words, over the REST client alone: negotiate, run commands, end, pay."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from golemp2p.client import NodeClient
from golemp2p.errors import GolemError, GoneError, NetworkError, NotFoundError
from golemp2p.wire.rest.payment import Invoice

NEGOTIATE_TIMEOUT_S = 15.0
SETTLE_TIMEOUT_S = 30.0
LIMIT = "golem.!exp.golemp2p.limit."
Command = dict[str, Any]


@dataclass(frozen=True)
class Deal:
    """An approved agreement. ``negotiated_s``: from the demand's publication to the approval."""

    client: NodeClient
    agreement: str
    provider: str
    allocation: str
    negotiated_s: float

    async def activity(self) -> str:
        return await self.client.activity.create(self.agreement, timeout_s=10.0)

    async def run(self, activity: str, commands: Sequence[Command], *, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        """The results up to the one that ends the batch."""
        batch = await self.client.activity.execute(activity, commands)
        return await self.results(activity, batch, timeout_s=timeout_s)

    async def results(self, activity: str, batch: str, *, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        found = await self.client.activity.results(activity, batch, timeout_s=timeout_s)
        assert found, "no result in time"
        assert found[-1]["isBatchFinished"], found
        return found

    async def end(self) -> None:
        await self.client.market.terminate(self.agreement, {"message": "done"})

    async def invoice(self, *states: str, timeout_s: float = SETTLE_TIMEOUT_S) -> Invoice:
        """The agreement's invoice, once it is in one of ``states``."""
        seen: list[Invoice] = []
        with trio.move_on_after(timeout_s):
            while True:
                seen = [i for i in await self.client.payment.invoices() if i.agreement_id == self.agreement]
                if seen and (not states or seen[0].status in states):
                    assert len(seen) == 1, "one invoice per agreement"
                    return seen[0]
                await trio.sleep(0.05)
        raise AssertionError(f"waited for an invoice in {states}; there is {seen}")

    async def pay(self) -> Invoice:
        """Accept the invoice and wait until it is settled."""
        invoice = await self.invoice("RECEIVED", "ACCEPTED", "SETTLED")
        if invoice.status == "RECEIVED":
            await self.accept(invoice)
        return await self.invoice("SETTLED")

    async def accept(self, invoice: Invoice) -> None:
        await self.client.payment.accept(
            "invoice", invoice.invoice_id, amount=invoice.amount, allocation=self.allocation
        )


def deploy_and_run(*args: str) -> list[Command]:
    return [{"deploy": {}}, {"start": {"args": []}}, run("program", *args)]


def run(*args: str) -> Command:
    capture: dict[str, Any] = {"stdout": {"stream": {}}, "stderr": {"stream": {}}}
    return {"run": {"entry_point": args[0], "args": list(args[1:]), "capture": capture}}


@asynccontextmanager
async def deal(
    client: NodeClient,
    program: bytes,
    *,
    provider: str | None = None,
    budget: str = "10",
    demand: Mapping[str, Any] | None = None,
    package: str | None = None,
    life_s: float = 300.0,
) -> AsyncIterator[Deal]:
    """An approved agreement to run ``program`` (with ``provider``, an address); ended and paid at the end."""
    made = await negotiate(
        client, program, provider=provider, budget=budget, demand=demand, package=package, life_s=life_s
    )
    yield made
    await made.end()
    await made.pay()
    await client.payment.release_allocation(made.allocation)


async def negotiate(
    client: NodeClient,
    program: bytes,
    *,
    provider: str | None = None,
    budget: str = "10",
    demand: Mapping[str, Any] | None = None,
    package: str | None = None,
    life_s: float = 300.0,
    runtime: str = "wasmtime",
) -> Deal:
    if package is None:
        file = await client.files.publish(program)
        package = f"hash:sha3:{file.sha3_256}:{file.url}"
    allocation = await client.payment.create_allocation(budget)
    decoration = await client.payment.decorate_demand(allocation.allocation_id)
    properties: dict[str, Any] = {
        "golem.srv.comp.expiration": round((time.time() + life_s) * 1000),
        "golem.srv.comp.task_package": package,
        "golem.node.debug.subnet": "public",
        "golem.srv.caps.multi-activity": True,
        **{p.key: p.value for p in decoration.properties},
        **(demand or {}),
    }
    constraints = (
        f"(&(golem.runtime.name={runtime})(golem.node.debug.subnet=public)" + "".join(decoration.constraints) + ")"
    )
    started = time.monotonic()
    subscription = await client.market.subscribe("demands", properties, constraints)
    with trio.fail_after(NEGOTIATE_TIMEOUT_S):
        while True:
            for event in await client.market.events("demands", subscription, timeout_s=5.0):
                proposal = event.proposal
                if proposal is None or provider not in (None, proposal.issuer_id):
                    continue
                # What a market is like: an offer goes, or its provider dies, while we answer it. The next one, then.
                try:
                    if proposal.state == "Initial":
                        chosen = {**properties, "golem.com.payment.chosen-platform": allocation.payment_platform}
                        await client.market.counter("demands", subscription, proposal.proposal_id, chosen, constraints)
                        continue
                    agreement = await client.market.create_agreement(proposal.proposal_id, valid_to=time.time() + 60)
                    await client.market.confirm(agreement, session_id=allocation.allocation_id)
                except (NetworkError, NotFoundError, GoneError):
                    continue
                try:
                    await client.market.wait_approved(agreement, timeout_s=10.0)
                except GolemError:  # another agreement took its capacity
                    continue
                took_s = time.monotonic() - started
                await client.market.unsubscribe("demands", subscription)
                return Deal(client, agreement, proposal.issuer_id, allocation.allocation_id, took_s)


async def wait_for_state(client: NodeClient, activity: str, *states: str, timeout_s: float = 30.0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with trio.move_on_after(timeout_s):
        while True:
            found = await client.activity.state(activity)
            if found["state"][0] in states:
                return found
            await trio.sleep(0.05)
    raise AssertionError(f"activity {activity} is {found}, not {states}")
