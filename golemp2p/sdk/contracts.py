"""What one agreement costs: bills, estimates, and who gets which share of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from golemp2p import limits
from golemp2p.core.money import ZERO, Amount
from golemp2p.sdk.offers import LinearPrice


@dataclass
class Attempt:
    """One attempt at one task. ``outcome``: done, failed (by the task's fault) or lost (by the provider's)."""

    task: int
    agreement_id: str
    seconds: float
    outcome: str


@dataclass
class Meter:
    """A live activity: when it began (any clock, seconds) and the CPU seconds last heard."""

    began_s: float
    cpu_s: float = 0.0


@dataclass
class Contract:
    """One agreement and its bills, all amounts in the smallest unit. ``approved_s`` is by the clock of ``now_s``."""

    agreement_id: str
    provider_id: str
    provider_name: str
    price: LinearPrice
    threads: float
    approved_s: float
    notes: dict[str, Amount] = field(default_factory=dict)  # activity -> newest accepted total
    meters: dict[str, Meter] = field(default_factory=dict)
    invoice_id: str = ""
    invoiced: Amount | None = None
    accepted: bool = False
    problem: str = ""
    ended: bool = False
    lost: bool = False

    @property
    def billed(self) -> Amount:
        return self.invoiced if self.invoiced is not None else Amount(sum(self.notes.values()))

    def owed(self, now_s: float) -> Amount:
        """At most, as far as we can tell before the bill comes.

        CPU time is heard with the heartbeat's delay; it cannot have grown faster than the wall clock times threads.
        """
        if self.invoiced is not None:
            return self.invoiced
        running = ZERO
        for meter in self.meters.values():
            wall_s = now_s - meter.began_s
            cpu_s = min(wall_s, meter.cpu_s + limits.ACTIVITY_HEARTBEAT_S)
            running = Amount(running + self.price.cost_of_time(wall_s, max(cpu_s, meter.cpu_s)))
        ended = sum(amount for activity, amount in self.notes.items() if activity not in self.meters)
        return Amount(max(running + ended, self.billed))


def shares(total: Amount, weights: Sequence[float]) -> list[Amount]:
    """``total`` split in proportion; the shares add up exactly."""
    whole = sum(weights)
    if not weights:
        return []
    if whole <= 0:
        weights, whole = [1.0] * len(weights), float(len(weights))
    found: list[Amount] = []
    before = running = 0
    reached = 0.0
    for weight in weights:
        reached += weight
        running = round(total * (reached / whole))
        found.append(Amount(running - before))
        before = running
    found[-1] = Amount(found[-1] + total - running)
    return found
