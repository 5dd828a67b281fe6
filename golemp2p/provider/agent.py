"""The provider agent's loops: offers, negotiation, activity and agreement events, one task per agreement."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

import anyio
import anyio.abc
import structlog

from golemp2p import limits
from golemp2p.client import NodeClient
from golemp2p.core.manifest import OutboundRule
from golemp2p.core.properties import Properties
from golemp2p.errors import DeadlineError, GolemError, GoneError, NotFoundError
from golemp2p.provider.billing import give_up, invoice_id_of, serve_contract
from golemp2p.provider.contract import Contract, again
from golemp2p.provider.exposure import channel_refusal
from golemp2p.provider.negotiator import ADDRESS_TAKEN, NO_CAPACITY, Refusal, answer, asks_for_network
from golemp2p.provider.offer import ProviderTerms, offer_constraints, offer_properties
from golemp2p.wire.rest.market import MarketEvent

log = structlog.get_logger("golemp2p.provider")

POLL_S: Final = 10.0  # also how long an offer may stay after the capacity is used up
APPROVE_TIMEOUT_S: Final = 10.0
APPROVAL_CHECK_S: Final = 5.0
EVENTS_AT_ONCE: Final = 16  # a requestor that does not answer must not hold up the others


class Agent:
    def __init__(self, client: NodeClient, terms: ProviderTerms, subnet: str, group: anyio.abc.TaskGroup) -> None:
        self._client = client
        self._terms = terms
        self._subnet = subnet
        self._group = group
        self._contracts: dict[str, Contract] = {}
        self._offers: dict[str, tuple[Properties, str]] = {}
        self._turned_away: set[str] = set()  # offers that someone could not have only for now
        self._renew: set[str] = set()  # of these, what is published anew: a demand negotiates once over an offer
        self._capacity = anyio.Event()
        self._handlers = anyio.Semaphore(EVENTS_AT_ONCE)
        self._since = datetime.now(UTC)  # events from here on are ours to hear

    # --- offers ---

    async def sell(self, name: str) -> None:
        """Keep an offer of this runtime on the market while there is capacity, once the machine can run it."""
        client = self._client
        told = ""
        while not (runtime := await again(client.node.runtime)(name)).works:
            if runtime.reason != told:
                told = runtime.reason
                log.warning("runtime_not_offered", runtime=name, reason=runtime.reason, hint=runtime.hint)
            await anyio.sleep(limits.PROBE_AGAIN_S)
        accounts = await again(client.payment.accounts)()
        if not accounts:
            log.warning("no_payment_network", hint="nobody can pay this node: set [[payment.networks]]")
        channels = any("channels" in network.contracts for network in await again(client.wallet.networks)())
        properties = offer_properties(self._terms, runtime, accounts, subnet=self._subnet, channels=channels)
        while True:
            await self._wait_for_capacity()
            constraints = offer_constraints(now=time.time(), subnet=self._subnet)
            offer = await again(client.market.subscribe)("offers", properties, constraints)
            self._offers[offer] = (properties, constraints)
            log.info("offer_published", offer=offer, runtime=name)
            try:
                async with anyio.create_task_group() as handlers:  # all are answered before the offer goes
                    await self._hear(offer, handlers)
                await again(client.market.unsubscribe)("offers", offer)
            except (NotFoundError, GoneError):
                log.info("offer_gone", offer=offer)
            finally:
                del self._offers[offer]
                self._turned_away.discard(offer)
                self._renew.discard(offer)

    async def _hear(self, offer: str, handlers: anyio.abc.TaskGroup) -> None:
        """Until the capacity is used up, or the offer is to be renewed, or is no longer on the market."""
        while self._free > 0 and offer not in self._renew:
            try:
                events = await again(self._client.market.events)("offers", offer, timeout_s=POLL_S)
            except (NotFoundError, GoneError):
                return
            for event in events:
                await self._handlers.acquire()
                handlers.start_soon(self._on_event, offer, event)

    @property
    def _free(self) -> int:
        """What may be sold still. An agreement keeps room for one activity, also while it has none."""
        return self._terms.max_activities - sum(max(1, len(c.live)) for c in self._contracts.values())

    def _no_room(self, requestor: str, constraints: str) -> Refusal | None:
        """Why not now. A full provider's offer stays until its poll ends; a draft would mislead golem-js meanwhile."""
        if self._free <= 0:
            return NO_CAPACITY
        if asks_for_network(constraints):
            for demand in (c.agreement.demand for c in self._contracts.values()):
                if demand.requestor_id == requestor and asks_for_network(demand.constraints):
                    return ADDRESS_TAKEN
        return None

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
        except Exception:  # what a stranger sent may hit a bug of ours; it must not end the selling to all others
            log.exception("market_event_broke_the_agent", event_type=event.event_type)
        finally:
            self._handlers.release()

    async def _on_proposal(self, offer: str, event: MarketEvent) -> None:
        proposal = event.proposal
        assert proposal is not None
        if offer not in self._offers:
            return  # withdrawn meanwhile; the requestor is told by the node
        properties, constraints = self._offers[offer]
        rule = OutboundRule(self._terms.outbound)
        reply: Properties | Refusal | None = self._no_room(proposal.issuer_id, proposal.constraints)
        if reply is None:
            reply = answer(properties, proposal.properties, issuer=proposal.issuer_id, now=time.time(), outbound=rule)
        if isinstance(reply, Refusal):
            log.info("proposal_refused", issuer=proposal.issuer_id, code=reply.code)
            if not reply.is_final:
                self._turned_away.add(offer)
            await self._client.market.reject("offers", offer, proposal.proposal_id, reply.reason())
        else:
            await self._client.market.counter("offers", offer, proposal.proposal_id, reply, constraints)

    async def _on_agreement(self, event: MarketEvent) -> None:
        agreement = event.agreement
        assert agreement is not None
        if (refusal := self._no_room(agreement.demand.requestor_id, agreement.demand.constraints)) is not None:
            await self._refuse(agreement.agreement_id, refusal.code, refusal.message)
            return
        contract = self._contracts[agreement.agreement_id] = Contract(agreement)
        self._group.start_soon(self._approve, contract)

    async def _approve(self, contract: Contract) -> None:
        """Approve and serve. It counts against our capacity from here on."""
        if (reason := await channel_refusal(self._client, contract)) != "":
            log.warning("payment_channel_refused", agreement=contract.id, reason=reason)
            await self._refuse(contract.id, "PaymentChannel", reason)
            self._release(contract)
            return
        try:
            await self._client.market.approve(contract.id, timeout_s=APPROVE_TIMEOUT_S)
            approved = True
        except DeadlineError:  # signed, and the node goes on delivering it
            log.info("approval_under_way", agreement=contract.id)
            approved = await self._outcome(contract)
        except GolemError as exc:
            log.warning("approval_failed", agreement=contract.id, error=str(exc))
            approved = False
        except Exception:  # as in _on_event
            log.exception("approval_broke_the_agent", agreement=contract.id)
            approved = False
        if approved:
            log.info("agreement_approved", agreement=contract.id)
            await self._serve(contract)
        else:
            self._release(contract)

    async def _outcome(self, contract: Contract) -> bool:
        """Whether an agreement that we signed came to be; the node ends its wait in any case."""
        while True:
            news = contract.news
            state = (await again(self._client.market.agreement)(contract.id)).state
            if state not in ("Proposal", "Pending"):
                contract.ended = state == "Terminated"
                return state in ("Approved", "Terminated")
            with anyio.move_on_after(APPROVAL_CHECK_S):
                await news.wait()

    # --- agreements ---

    async def resume(self) -> None:
        """Agreements of a former life: go on with the open ones, bill and invoice those that ended without."""
        invoices = {i.agreement_id: i for i in await again(self._client.payment.invoices)()}
        for line in await again(self._client.market.agreements)():
            if line["role"] != "Provider" or line["state"] not in ("Pending", "Approved", "Terminated"):
                continue
            invoice = invoices.get(line["id"])
            if invoice is not None:
                if invoice.status == "ISSUED" and invoice.invoice_id == invoice_id_of(line["id"]):
                    await again(self._client.payment.send)("invoice", invoice.invoice_id)  # cut off before that
                continue
            agreement = await again(self._client.market.agreement)(line["id"])
            contract = Contract(agreement, ended=line["state"] == "Terminated")
            if line["state"] == "Pending" and not agreement.approved_signature:
                await self._refuse(contract.id, "ProviderRestarted", "the provider was restarted")
                continue
            self._contracts[contract.id] = contract
            self._group.start_soon(self._approve if line["state"] == "Pending" else self._serve, contract)

    async def _refuse(self, agreement: str, code: str, message: str) -> None:
        try:
            await self._client.market.reject_agreement(agreement, {"message": message, "golem.provider.code": code})
        except GolemError as exc:
            log.info("agreement_not_rejected", agreement=agreement, error=str(exc))

    async def _serve(self, contract: Contract) -> None:
        try:
            await serve_contract(self._client, contract)
        except* GolemError as group:
            log.warning("contract_failed", agreement=contract.id, errors=[str(e) for e in group.exceptions])
        except* Exception:  # a bug that one agreement's terms bring out must not end the others
            log.exception("contract_broke_the_agent", agreement=contract.id)
            await give_up(self._client, contract)
        finally:
            self._release(contract)

    def _release(self, contract: Contract) -> None:
        self._contracts.pop(contract.id, None)
        self._renew |= self._turned_away
        self._capacity.set()

    # --- events of the node ---

    async def watch_activities(self) -> None:
        after = self._since
        while True:
            for event in await again(self._client.activity.agent_events)(after=after, timeout_s=POLL_S):
                after = datetime.fromisoformat(event["eventDate"])
                contract = self._contracts.get(event["agreementId"])
                if contract is None:
                    continue
                if event["eventType"] == "CreateActivity":
                    contract.created(event["activityId"])
                else:
                    contract.destroyed(event["activityId"])

    async def watch_agreements(self) -> None:
        after = self._since
        while True:
            for event in await again(self._client.market.agreement_events)(
                after=after, timeout_s=POLL_S, role="provider"
            ):
                after = event.event_date
                contract = self._contracts.get(event.agreement_id)
                if contract is not None and event.event_type != "AgreementApprovedEvent":
                    contract.end()


async def run_provider(client: NodeClient, terms: ProviderTerms, *, subnet: str) -> None:
    """Until cancelled. Raises UsageError when the node has no runtime to sell."""
    runtimes = await client.node.runtimes()
    async with anyio.create_task_group() as group:
        agent = Agent(client, terms, subnet, group)
        await agent.resume()
        group.start_soon(agent.watch_activities)
        group.start_soon(agent.watch_agreements)
        for runtime in runtimes:
            group.start_soon(agent.sell, runtime.id)
