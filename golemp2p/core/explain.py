"""Why an offer does or does not suit a demand, in words: the failed clauses, what they are about, what is offered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from golemp2p.core.constraints import Explanation, Terms, Ternary, explain, match, parse, property_names
from golemp2p.core.properties import Properties

MAX_SHOWN_CHARS: Final = 80  # of a foreign value


class Cause(StrEnum):
    """What keeps an offer from becoming an agreement; the first that applies, in this order."""

    RUNTIME = "runtime"
    SUBNET = "subnet"
    ISOLATION = "isolation"
    CAPACITY = "capacity"
    PRICE = "price"
    PAYMENT = "payment"
    CLAUSE = "clause"  # another clause of the demand
    PROVIDER_RULE = "provider-rule"  # a clause of the offer
    UNREACHABLE = "unreachable"
    REFUSED = "refused"  # by the provider, with its code
    WITHDRAWN = "withdrawn"  # it would match: its provider is busy, or has stopped
    NONE = "none"  # it matches


_ABOUT: Final = (
    ("golem.!exp.golemp2p.isolation", Cause.ISOLATION),
    ("golem.runtime.", Cause.RUNTIME),
    ("golem.node.debug.subnet", Cause.SUBNET),
    ("golem.inf.", Cause.CAPACITY),
    ("golem.com.payment.platform.", Cause.PAYMENT),
    ("golem.com.", Cause.PRICE),
)
_ORDER: Final = {cause: rank for rank, cause in enumerate(Cause)}


@dataclass(frozen=True)
class Judgement:
    """``has``: what the other side says where a clause fails, "name = value" or "name is not said"."""

    result: Ternary
    cause: Cause
    demand: Explanation
    offer: Explanation
    has: tuple[str, ...]


def judge(demand: Terms, offer: Terms) -> Judgement:
    """Raises ConstraintSyntaxError."""
    result = match(demand, offer)
    theirs = explain(parse(demand.constraints), offer.properties)
    ours = explain(parse(offer.constraints), demand.properties)
    causes = [_cause(clause) for clause in theirs.clauses] or [Cause.PROVIDER_RULE]
    cause = Cause.NONE if result is Ternary.TRUE else min(causes, key=_ORDER.__getitem__)
    has = [*_has(theirs.clauses, offer.properties), *_has(ours.clauses, demand.properties)]
    return Judgement(result, cause, theirs, ours, tuple(dict.fromkeys(has)))


def _cause(clause: str) -> Cause:
    names = list(property_names(parse(clause)))
    return min((about(name) for name in names), key=_ORDER.__getitem__, default=Cause.CLAUSE)


def about(name: str) -> Cause:
    """What a property is about."""
    return next((cause for prefix, cause in _ABOUT if name.startswith(prefix)), Cause.CLAUSE)


def _has(clauses: tuple[str, ...], properties: Properties) -> list[str]:
    names = dict.fromkeys(name for clause in clauses for name in property_names(parse(clause)))
    return [_said(name, properties) for name in names]


def _said(name: str, properties: Properties) -> str:
    if name not in properties:
        return f"{name} is not said"
    value = str(properties[name])
    return f"{name} = {value if len(value) <= MAX_SHOWN_CHARS else value[:MAX_SHOWN_CHARS] + '…'}"
