"""Judging offers: prices, whether they can be afforded, and why none matched. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeGuard

from golemp2p import limits
from golemp2p.core.money import Amount, linear_cost
from golemp2p.core.properties import Properties
from golemp2p.wire.rest.node import OfferVerdict

DURATION: Final = "golem.usage.duration_sec"
CPU: Final = "golem.usage.cpu_sec"
STORAGE: Final = "golem.usage.storage_gib"
FUEL: Final = "golem.usage.fuel"
MAX_GFUEL_PER_CPU_S: Final = 10.0  # more instructions than a core of today gets done in a second
_MAX_STORAGE_GIB: Final = 2.0**40
TYPICAL_TASK_S: Final = 60.0  # by which start prices and rates are compared
SHORTEST_JOB_S: Final = 10.0  # a budget that does not pay so much of one provider is too small to begin
HOUR_S: Final = 3_600.0


@dataclass(frozen=True)
class LinearPrice:
    """``coeffs``: GLM per unit of each counter of ``usage``, then the start price. ``storage_gib``: the disk's size."""

    usage: tuple[str, ...]
    coeffs: tuple[float, ...]
    storage_gib: float = 0.0

    @classmethod
    def of(cls, offer: Properties) -> LinearPrice | None:
        """None when we could not tell in advance what it will cost: no linear price, a price on unknown counters or
        on a disk of unknown size, numbers that no price has. Never raises.
        """
        usage, coeffs = offer.get("golem.com.usage.vector"), offer.get("golem.com.pricing.model.linear.coeffs")
        if (
            offer.get("golem.com.pricing.model") != "linear"
            or not isinstance(usage, list)
            or not isinstance(coeffs, list)
        ):
            return None
        # The comparison comes before float(): offers are written by others, and an int may be beyond any float.
        numbers = [
            float(c)
            for c in coeffs
            if isinstance(c, int | float) and not isinstance(c, bool) and 0 <= c <= limits.SDK_MAX_RATE_GLM
        ]
        names = tuple(name for name in usage if isinstance(name, str))
        if len(numbers) != len(coeffs) or len(names) != len(usage) or len(coeffs) != len(usage) + 1:
            return None
        priced = {name for name, price in zip(names, numbers, strict=False) if price}
        storage_gib = offer.get("golem.inf.storage.gib") if STORAGE in priced else 0.0
        if not priced <= {DURATION, CPU, STORAGE, FUEL} or not _is_number(storage_gib):
            return None
        return cls(names, tuple(numbers), float(storage_gib))

    def cost(self, usage: Sequence[float]) -> Amount:
        """Raises UsageError when the usage does not fit."""
        return linear_cost(list(self.coeffs), list(usage))

    def cost_of_time(self, wall_s: float, cpu_s: float) -> Amount:
        """The most that it can come to: of disk and fuel, too."""
        by_name = {DURATION: wall_s, CPU: cpu_s, STORAGE: self.storage_gib, FUEL: cpu_s * MAX_GFUEL_PER_CPU_S}
        return self.cost([by_name.get(name, 0.0) for name in self.usage])

    @property
    def rank(self) -> Amount:
        """What a typical task costs; cheaper offers are asked first."""
        return self.cost_of_time(TYPICAL_TASK_S, TYPICAL_TASK_S)

    @property
    def per_hour(self) -> Amount:
        """One hour with one busy CPU, the start price included."""
        return self.cost_of_time(HOUR_S, HOUR_S)

    @property
    def least(self) -> Amount:
        return self.cost_of_time(SHORTEST_JOB_S, SHORTEST_JOB_S)


def implausible(price: LinearPrice, usage: Sequence[float], *, life_s: float, threads: float) -> str:
    """Why the reported usage cannot be, or "". ``life_s``: how long the agreement has existed by our clock."""
    if len(usage) != len(price.usage):
        return f"{len(usage)} usage counters instead of {len(price.usage)}"
    for name, counter in zip(price.usage, usage, strict=True):
        limit = {
            DURATION: life_s,
            CPU: life_s * threads,
            FUEL: life_s * threads * MAX_GFUEL_PER_CPU_S,
            STORAGE: price.storage_gib or None,
        }.get(name)
        if counter < 0 or (limit is not None and counter > limit):
            return f"{name} of {counter:.3f} is not possible after {life_s:.0f} s"
    return ""


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_STORAGE_GIB


def threads_of(offer: Properties) -> float:
    value = offer.get("golem.inf.cpu.threads")
    return float(min(value, limits.SDK_MAX_THREADS)) if isinstance(value, int | float) and value >= 1 else 1.0


def name_of(offer: Properties, provider_id: str) -> str:
    """What the provider calls itself, else its id."""
    name = offer.get("golem.node.id.name")
    return name if isinstance(name, str) and name else provider_id


def why_no_offers(verdicts: Sequence[OfferVerdict], problems: Mapping[str, str], *, waited_s: float) -> str:
    """One sentence: the clauses that fail for most offers, or what kept matching offers from becoming agreements.

    ``problems``: provider name -> what happened last.
    """
    if not verdicts:
        return f"no offers were seen within {waited_s:g} s"
    withdrawn = sum(v.cause == "withdrawn" for v in verdicts)
    matching = [v for v in verdicts if v.result == "true" and v.cause != "withdrawn"]
    if withdrawn and not matching and not problems:
        return f"{_offers(withdrawn)} would match, but withdrawn since: busy providers do that, and those that stop"
    if matching:
        # What other jobs of this node met with, when this one has not asked anybody.
        problems = problems or {
            v.provider_name: f"{v.cause}: {v.last_attempt.message}" for v in matching if v.last_attempt
        }
        if problems:
            told = "; ".join(f"{name}: {problem}" for name, problem in sorted(problems.items())[:5])
            return f"{_offers(len(verdicts))} seen, {len(matching)} match, but no agreement came about: {told}"
        return f"{_offers(len(matching))} match, but no provider answered within {waited_s:g} s"
    failing: Counter[str] = Counter()
    for verdict in verdicts:
        failing.update(set(verdict.demand_clauses))
        failing.update(f"the offer's {clause}" for clause in set(verdict.offer_clauses))
    told = ", ".join(f"{clause} fails for {count} of them" for clause, count in failing.most_common(5))
    return f"{_offers(len(verdicts))} seen, none matches: {told}"


def _offers(count: int) -> str:
    return "1 offer" if count == 1 else f"{count} offers"


def both(clauses: Sequence[str]) -> str:
    """All of ``clauses``."""
    return "()" if not clauses else clauses[0] if len(clauses) == 1 else f"(&{''.join(clauses)})"
