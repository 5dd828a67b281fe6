"""The provider agent's loops: offers, negotiation, activity and agreement events, one task per agreement."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, ParamSpec, TypeVar

import anyio
import anyio.abc
import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from golemp2p.client import NodeClient
from golemp2p.core.properties import Properties
from golemp2p.errors import GolemError, GoneError, NetworkError, NotFoundError
from golemp2p.provider.billing import Contract, serve_contract
from golemp2p.provider.negotiator import Refusal, answer
from golemp2p.provider.offer import ProviderTerms, offer_constraints, offer_properties
from golemp2p.wire.rest.market import MarketEvent
from golemp2p.wire.rest.node import RuntimeInfo

log = structlog.get_logger("golemp2p.provider")

POLL_S: Final = 30.0
RETRY_S: Final = 0.5
RETRY_MAX_S: Final = 30.0
APPROVE_TIMEOUT_S: Final = 10.0


P = ParamSpec("P")
T = TypeVar("T")


def again(call: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """``call``, repeated with growing waits while the node cannot be reached."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(NetworkError),
        wait=wait_exponential_jitter(initial=RETRY_S, max=RETRY_MAX_S),
        sleep=anyio.sleep,
        reraise=True,
    )

    async def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        return await retrying(call, *args, **kwargs)

    return repeated


class Agent:
    def __init__(self, client: NodeClient, terms: ProviderTerms, subnet: str, group: anyio.abc.TaskGroup) -> None:
        self._client = client
        self._terms = terms
        self._subnet = subnet
        self._group = group
        self._contracts: dict[str, Contract] = {}
        self._offers: dict[str, tuple[Properties, str]] = {}
        self._capacity = anyio.Event()

    # --- offers ---

    async def sell(self, runtime: RuntimeInfo) -> None:
        """Keep an offer of ``runtime`` on the market while there is capacity."""
        client = self._client
        accounts = await client.payment.accounts()
        properties = offer_properties(self._terms, runtime, accounts, subnet=self._subnet)
        while True:
            await self._wait_for_capacity()
            constraints = offer_constraints(now=time.time(), subnet=self._subnet)
            offer = await client.market.subscribe("offers", properties, constraints)
            self._offers[offer] = (properties, constraints)
            log.info("offer_published", offer=offer, runtime=runtime.name)
            try:
                while self._free > 0:
                    for event in await again(client.market.events)("offers", offer, timeout_s=POLL_S):
                        await self._on_event(offer, event)
                await client.market.unsubscribe("offers", offer)
            except (NotFoundError, GoneError):
                log.info("offer_gone", offer=offer)
            finally:
                del self._offers[offer]

    @property
    def _free(self) -> int:
        return self._terms.max_activities - len(self._contracts)

    async def _wait_for_capacity(self) -> None:
        while self._free <= 0:
            self._capacity = anyio.Event()
            await self._capacity.wait()

    async def _on_event(self, offer: str, event: MarketEvent) -> None:
        """One bad proposal or agreement never stops the loop."""
        try:
            if event.event_type == "ProposalEvent" and event.proposal is not None:
                await self._on_proposal(offer, event)
            elif event.event_type == "AgreementEvent" and event.agreement is not None:
                await self._on_agreement(event)
        except GolemError as exc:
            log.warning("market_event_failed", event_type=event.event_type, error=str(exc))

    async def _on_proposal(self, offer: str, event: MarketEvent) -> None:
        proposal = event.proposal
        assert proposal is not None
        properties, constraints = self._offers[offer]
        reply = answer(properties, proposal.properties, now=time.time())
        if isinstance(reply, Refusal):
            log.info("proposal_refused", issuer=proposal.issuer_id, code=reply.code)
            await self._client.market.reject("offers", offer, proposal.proposal_id, reply.reason())
        else:
            await self._client.market.counter("offers", offer, proposal.proposal_id, reply, constraints)

    async def _on_agreement(self, event: MarketEvent) -> None:
        agreement = event.agreement
        assert agreement is not None
        if self._free <= 0:
            reason = {"message": "no capacity left", "golem.provider.code": "NoCapacity"}
            await self._client.market.reject_agreement(agreement.agreement_id, reason)
            return
        contract = self._contracts[agreement.agreement_id] = Contract(agreement)
        try:
            await self._client.market.approve(agreement.agreement_id, timeout_s=APPROVE_TIMEOUT_S)
        except GolemError:
            self._release(contract)
            raise
        log.info("agreement_approved", agreement=contract.id)
        self._group.start_soon(self._serve, contract)

    # --- agreements ---

    async def resume(self) -> None:
        """Agreements of a former life: go on with the open ones, invoice those that ended without one."""
        invoiced = {invoice.agreement_id for invoice in await self._client.payment.invoices()}
        activities = await self._client.node.activities()
        for line in await self._client.market.agreements():
            if line["role"] != "Provider" or line["state"] not in ("Approved", "Terminated") or line["id"] in invoiced:
                continue
            contract = Contract(await self._client.market.agreement(line["id"]))
            contract.ended = line["state"] == "Terminated"
            for activity in activities:
                if activity["agreementId"] == contract.id:
                    contract.live.add(activity["activityId"])
            self._contracts[contract.id] = contract
            self._group.start_soon(self._serve, contract)

    async def _serve(self, contract: Contract) -> None:
        try:
            await serve_contract(self._client, contract)
        except* GolemError as group:
            log.warning("contract_failed", agreement=contract.id, errors=[str(e) for e in group.exceptions])
        finally:
            self._release(contract)

    def _release(self, contract: Contract) -> None:
        self._contracts.pop(contract.id, None)
        self._capacity.set()

    # --- events of the node ---

    async def watch_activities(self) -> None:
        after = datetime.now(UTC)
        while True:
            for event in await again(self._client.activity.agent_events)(after=after, timeout_s=POLL_S):
                after = datetime.fromisoformat(event["eventDate"])
                contract = self._contracts.get(event["agreementId"])
                if contract is None:
                    continue
                if event["eventType"] == "CreateActivity":
                    contract.live.add(event["activityId"])
                else:
                    contract.live.discard(event["activityId"])
                contract.wake()

    async def watch_agreements(self) -> None:
        after = datetime.now(UTC)
        while True:
            for event in await again(self._client.market.agreement_events)(after=after, timeout_s=POLL_S):
                after = event.event_date
                contract = self._contracts.get(event.agreement_id)
                if contract is not None and event.event_type != "AgreementApprovedEvent":
                    contract.ended = True
                    contract.wake()


async def run_provider(client: NodeClient, terms: ProviderTerms, *, subnet: str) -> None:
    """Until cancelled. Raises UsageError when the node has no runtime to sell."""
    runtimes = await client.node.runtimes()
    async with anyio.create_task_group() as group:
        agent = Agent(client, terms, subnet, group)
        await agent.resume()
        group.start_soon(agent.watch_activities)
        group.start_soon(agent.watch_agreements)
        for runtime in runtimes:
            group.start_soon(agent.sell, runtime)
