"""Verdicts on offers as REST tells them."""

from __future__ import annotations

from golemp2p.api.moments import moment_of
from golemp2p.core.constraints import Terms, Ternary
from golemp2p.core.explain import judge
from golemp2p.core.properties import Properties
from golemp2p.core.records import MarketRecord
from golemp2p.market.outcomes import Outcome
from golemp2p.wire.rest import node as rest


def verdict_of(demand: Terms, offer: MarketRecord, last: Outcome | None) -> rest.OfferVerdict:
    """``last``: what became of the last attempt; it is the cause where the offer matches."""
    found = judge(demand, offer.terms)
    counts = last is not None and found.result is Ternary.TRUE
    return rest.OfferVerdict(
        offer_id=offer.id,
        provider_id=offer.address,
        provider_name=str(offer.properties.get("golem.node.id.name", "")),
        result=found.result.value,
        demand_clauses=list(found.demand.clauses),
        offer_clauses=list(found.offer.clauses),
        unresolved=[*found.demand.unresolved, *found.offer.unresolved],
        cause=last.cause if last is not None and counts else found.cause,
        has=list(found.has),
        last_attempt=None
        if last is None
        else rest.LastAttempt(at=moment_of(last.at), cause=last.cause, code=last.code, message=last.message),
        price_per_hour=_price_per_hour(offer.properties),
    )


def _price_per_hour(offer: Properties) -> float | None:
    """Of one busy thread, without the start price; None for other price models than the linear one."""
    usages, coeffs = offer.get("golem.com.usage.vector"), offer.get("golem.com.pricing.model.linear.coeffs")
    if not isinstance(usages, list) or not isinstance(coeffs, list) or len(coeffs) != len(usages) + 1:
        return None
    per_s = {"golem.usage.duration_sec", "golem.usage.cpu_sec"}
    rates = [c for u, c in zip(usages, coeffs, strict=False) if u in per_s]
    if not all(isinstance(rate, int | float) for rate in rates):
        return None
    return 3600 * sum(float(rate) for rate in rates if isinstance(rate, int | float))
