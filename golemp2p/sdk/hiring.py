"""From a demand to agreements: the cheapest offers first, several negotiations at a time, as many as are wanted."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.abc

from golemp2p import limits
from golemp2p.client import NodeClient
from golemp2p.core.money import Amount, format_amount
from golemp2p.core.properties import Properties
from golemp2p.errors import GolemError, NetworkError, RemoteError
from golemp2p.sdk.errors import BudgetError, NoOffersError
from golemp2p.sdk.log import get_logger
from golemp2p.sdk.news import News
from golemp2p.sdk.offers import LinearPrice, name_of, why_no_offers
from golemp2p.wire.rest.market import Agreement, MarketEvent, Proposal

log = get_logger()

CHOSEN_PLATFORM: Final = "golem.com.payment.chosen-platform"


@dataclass(frozen=True)
class Terms:
    """What is demanded. ``expires_at``: seconds since the epoch, also the end of the agreements."""

    properties: Properties
    constraints: str
    platform: str
    expires_at: float
    budget: Amount
    max_price_per_hour: Amount | None
    offers_timeout_s: float
    session_id: str


def log_waiting(why: str) -> None:
    log.warning("waiting_for_a_provider", why=why)


@dataclass(order=True)
class _Candidate:
    rank: tuple[int, str]
    proposal: Proposal = field(compare=False)
    price: LinearPrice = field(compare=False)

    @property
    def name(self) -> str:
        return name_of(self.proposal.properties, self.proposal.issuer_id)


class Hiring:
    """``working``: how many work now; ``wanted``: how many should; ``hire`` gets each approved agreement.

    ``room``: what is left of the budget, in the smallest unit.

    ``avoided`` are provider ids that are never asked; it may grow meanwhile.
    """

    def __init__(
        self,
        client: NodeClient,
        terms: Terms,
        *,
        working: Callable[[], int],
        wanted: Callable[[], int],
        hire: Callable[[Agreement, LinearPrice], None],
        room: Callable[[], int],
        avoided: set[str],
        news: News,
        on_waiting: Callable[[str], None],
    ) -> None:
        self._client = client
        self._terms = terms
        self._working = working
        self._wanted = wanted
        self._hire = hire
        self._room = room
        self._avoided = avoided
        self._news = news
        self._on_waiting = on_waiting
        self._demand = ""
        self._candidates: list[_Candidate] = []
        self._answers: dict[str, Proposal | str] = {}  # our proposal -> the provider's draft, or why it refused
        self._negotiating = 0
        self._refusals: dict[str, int] = {}
        self._too_dear: Amount | None = None  # the cheapest offer that was passed over for its price
        self.problems: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled. Raises NoOffersError, BudgetError when nobody can be hired."""
        self._demand = await self._client.market.subscribe("demands", self._terms.properties, self._terms.constraints)
        log.info("demand_published", demand=self._demand)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen)
                group.start_soon(self._explain_waiting)
                await self._keep_hiring(group)
        finally:
            with anyio.move_on_after(limits.SDK_CLOSE_TIMEOUT_S, shield=True):
                try:
                    await self._client.market.unsubscribe("demands", self._demand)
                except GolemError as exc:
                    log.info("demand_not_withdrawn", demand=self._demand, error=str(exc))

    async def _keep_hiring(self, group: anyio.abc.TaskGroup) -> None:
        alone_since_s = anyio.current_time()
        while True:
            news = self._news.next()
            while self._candidates and self._working() + self._negotiating < self._wanted() and self._affordable():
                candidate = heapq.heappop(self._candidates)
                if candidate.proposal.issuer_id not in self._avoided:
                    self._negotiating += 1
                    group.start_soon(self._negotiate, candidate)
            if self._working() or self._negotiating or not self._wanted():
                alone_since_s = anyio.current_time()
            patience_s = self._terms.offers_timeout_s
            if self._too_dear is not None and not self._candidates:
                patience_s = min(patience_s, limits.SDK_TOO_DEAR_S)
            left_s = alone_since_s + patience_s - anyio.current_time()
            if left_s <= 0:
                raise await self._nobody()
            with anyio.move_on_after(left_s):
                await news.wait()

    async def _explain_waiting(self) -> None:
        """While work waits and nobody does it: why."""
        waited_s, asked_s = 0.0, limits.SDK_EXPLAIN_AFTER_S
        while True:
            await anyio.sleep(1)
            waited_s = 0.0 if self._working() or not self._wanted() else waited_s + 1
            if waited_s == 0:
                asked_s = limits.SDK_EXPLAIN_AFTER_S
            elif waited_s >= asked_s:
                asked_s = waited_s + limits.SDK_EXPLAIN_AGAIN_S
                try:
                    verdicts = await self._client.node.explain(self._terms.properties, self._terms.constraints)
                except GolemError as exc:
                    log.info("waiting_not_explained", error=exc.message)
                else:
                    self._on_waiting(why_no_offers(verdicts, self.problems, waited_s=waited_s))

    def _affordable(self) -> bool:
        """The cheapest candidate, beside those that work or are being negotiated with."""
        return self._candidates[0].price.least * (self._working() + self._negotiating + 1) <= self._room()

    async def _nobody(self) -> GolemError:
        terms = self._terms
        if self._too_dear is not None and not self.problems:
            dear = format_amount(self._too_dear)
            return BudgetError(
                f"every matching offer is too expensive: 10 s at the cheapest cost {dear} GLM,"
                f" the budget is {format_amount(terms.budget)} GLM",
                hint="raise the budget or the price limit",
            )
        if self._candidates and not self._affordable():
            left = format_amount(max(0, self._room()))
            return BudgetError(f"the {left} GLM that are left of the budget pay no provider for 10 s")
        verdicts = await self._client.node.explain(terms.properties, terms.constraints)
        return NoOffersError(
            why_no_offers(verdicts, self.problems, waited_s=terms.offers_timeout_s),
            hint="relax the constraints, or wait longer with offers_timeout_s",
        )

    # --- events ---

    async def _listen(self) -> None:
        while True:
            for event in await self._client.market.events(
                "demands", self._demand, timeout_s=limits.SDK_POLL_S, max_events=limits.MAX_POLL_EVENTS
            ):
                self._on_event(event)
            self._news.tell()

    def _on_event(self, event: MarketEvent) -> None:
        proposal = event.proposal
        if event.event_type == "ProposalRejectedEvent" and event.proposal_id is not None:
            self._answers[event.proposal_id] = str((event.reason or {}).get("message", ""))
        elif proposal is not None and proposal.state == "Initial":
            try:
                self._consider(proposal)
            except Exception:
                # Broad: anybody may publish anything; one offer must not stop a job that others can do.
                log.exception("offer_not_understood", provider=proposal.issuer_id)
                self.problems[proposal.issuer_id] = "its offer is not understood"
        elif proposal is not None and proposal.prev_proposal_id is not None:
            self._answers[proposal.prev_proposal_id] = proposal

    def _consider(self, proposal: Proposal) -> None:
        price = LinearPrice.of(proposal.properties)
        if price is None:
            self.problems[proposal.issuer_id] = "what it will cost cannot be foreseen"
            return
        terms = self._terms
        dear = terms.max_price_per_hour is not None and price.per_hour > terms.max_price_per_hour
        if dear or price.least > terms.budget:
            self._too_dear = price.least if self._too_dear is None else min(self._too_dear, price.least)
            return
        if self._refusals.get(proposal.issuer_id, 0) < limits.SDK_MAX_REFUSALS:
            heapq.heappush(self._candidates, _Candidate((price.rank, proposal.proposal_id), proposal, price))

    # --- one negotiation ---

    async def _negotiate(self, candidate: _Candidate) -> None:
        provider = candidate.proposal.issuer_id
        try:
            with anyio.fail_after(limits.SDK_NEGOTIATION_TIMEOUT_S):
                agreement = await self._agree(candidate)
        except Exception as exc:
            # Broad: what a provider answers must not stop a job that others can do.
            if isinstance(exc, GolemError):
                why = exc.message
            elif isinstance(exc, TimeoutError):
                why = "it did not answer in time"
            else:
                log.exception("answer_not_understood", provider=provider)
                why = "its answer is not understood"
            self.problems[candidate.name] = why
            self._refusals[provider] = self._refusals.get(provider, 0) + 1
            log.info("negotiation_failed", provider=provider, error=why)
            # The market offers the pair again at once; a provider that refuses must not be asked in a tight loop.
            await anyio.sleep(limits.SDK_RETRY_S)
            if isinstance(exc, NetworkError) and self._refusals[provider] < limits.SDK_MAX_REFUSALS:
                heapq.heappush(self._candidates, candidate)  # nobody heard of it: the same proposal can be answered
        else:
            self._hire(agreement, candidate.price)
        finally:
            self._negotiating -= 1
            self._news.tell()

    async def _agree(self, candidate: _Candidate) -> Agreement:
        market, terms = self._client.market, self._terms
        properties = {**terms.properties, CHOSEN_PLATFORM: terms.platform}
        ours = await market.counter(
            "demands", self._demand, candidate.proposal.proposal_id, properties, terms.constraints
        )
        draft = await self._answer(ours)
        if LinearPrice.of(draft.properties) != candidate.price:
            await market.reject("demands", self._demand, draft.proposal_id, {"message": "the price was changed"})
            raise RemoteError("it changed its price while negotiating")
        agreement_id = await market.create_agreement(draft.proposal_id, valid_to=terms.expires_at)
        approved = False
        try:
            await market.confirm(agreement_id, session_id=terms.session_id)
            await market.wait_approved(agreement_id, timeout_s=limits.SDK_NEGOTIATION_TIMEOUT_S)
            agreement = await market.agreement(agreement_id)
            approved = True
        finally:
            if not approved:
                await self._withdraw(agreement_id)
        log.info("agreement_approved", agreement=agreement_id, provider=candidate.proposal.issuer_id)
        return agreement

    async def _answer(self, ours: str) -> Proposal:
        while ours not in self._answers:
            await self._news.next().wait()
        answer = self._answers.pop(ours)
        if isinstance(answer, str):
            raise RemoteError(f"it refused: {answer or 'no reason given'}")
        return answer

    async def _withdraw(self, agreement_id: str) -> None:
        """Nothing binding may stay behind, whatever state it got to."""
        reason = {"message": "the requestor does not need it any more", "golem.requestor.code": "Cancelled"}
        with anyio.move_on_after(limits.SDK_CLOSE_TIMEOUT_S, shield=True):
            for end in (self._client.market.cancel, self._client.market.terminate):
                try:
                    await end(agreement_id, reason)
                except GolemError as exc:  # not in the state for this one
                    log.debug("agreement_not_withdrawn", agreement=agreement_id, error=str(exc))
                else:
                    return
