"""What an activity used, in the order of the agreement's ``golem.com.usage.vector``, and what it may use."""

from __future__ import annotations

from typing import Final

from golemp2p import limits
from golemp2p.core.agreement import Agreement
from golemp2p.core.properties import Properties
from golemp2p.runtimes.base import Limits, Usage

FUEL_UNIT: Final = 1_000_000_000  # golem.usage.fuel counts giga-instructions: prices stay readable
GIB: Final = 1024**3
STORAGE_COUNTER: Final = "golem.usage.storage_gib"
_MOST: Final = 2**53  # a limit beyond it is none; the numbers below it fit the kernel's and wasmtime's
WALL_PROPERTY: Final = "golem.!exp.golemp2p.limit.wall_sec"
CPU_PROPERTY: Final = "golem.!exp.golemp2p.limit.cpu_sec"
FUEL_PROPERTY: Final = "golem.!exp.golemp2p.limit.fuel"
CPUS_PROPERTY: Final = "golem.!exp.golemp2p.limit.cpus"
MEMORY_PROPERTY: Final = "golem.!exp.golemp2p.limit.memory_gib"
STORAGE_PROPERTY: Final = "golem.!exp.golemp2p.limit.storage_gib"
PROCESSES_PROPERTY: Final = "golem.!exp.golemp2p.limit.processes"
DETERMINISTIC_PROPERTY: Final = "golem.!exp.golemp2p.deterministic"


def usage_vector(agreement: Agreement, used: Usage, duration_s: float) -> tuple[float, ...]:
    """One number per counter of the agreement; counters that we do not know stay 0.0, so they cost nothing."""
    counters = {
        "golem.usage.duration_sec": duration_s,
        "golem.usage.cpu_sec": used.cpu_s,
        "golem.usage.fuel": used.fuel / FUEL_UNIT,
        STORAGE_COUNTER: used.storage_bytes / GIB,
    }
    return tuple(float(counters.get(name, 0.0)) for name in agreement.usage_vector)


def limits_of(agreement: Agreement) -> Limits:
    """What the offer has, of that no more than the demand asks for (the properties above)."""
    offer, demand = agreement.offer, agreement.demand
    memory = _least(_number(offer, "golem.inf.mem.gib"), _number(demand, MEMORY_PROPERTY))
    storage = _least(_number(offer, "golem.inf.storage.gib"), _number(demand, STORAGE_PROPERTY))
    processes = _number(demand, PROCESSES_PROPERTY)
    fuel = _number(demand, FUEL_PROPERTY)
    return Limits(
        memory_bytes=None if memory is None else int(memory * GIB),
        storage_bytes=None if storage is None else int(storage * GIB),
        cpu_s=_number(demand, CPU_PROPERTY),
        wall_s=_number(demand, WALL_PROPERTY),
        fuel=None if fuel is None else int(fuel),
        cpus=_least(_number(offer, "golem.inf.cpu.threads"), _number(demand, CPUS_PROPERTY)),
        processes=None if processes is None else min(max(int(processes), 1), limits.MAX_GUEST_PROCESSES),
    )


def wants_fuel(agreement: Agreement) -> bool:
    """Whether fuel is limited or paid for; counting what nobody asks for makes programs slower by a third."""
    return limits_of(agreement).fuel is not None or "golem.usage.fuel" in agreement.usage_vector


def _least(*numbers: float | None) -> float | None:
    return min((number for number in numbers if number is not None), default=None)


def _number(properties: Properties, name: str) -> float | None:
    """A positive number, or None: properties are written by others."""
    value = properties.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST:
        return None
    return float(value)
