"""What is offered: hardware, runtime, price, payment platforms, as Golem's properties (protocols/market.md).

Billed are running time and CPU time (USAGE_VECTOR), as everywhere in Golem. Fuel, which a wasm runtime counts too, only
limits a program; it is no usage counter, because agents know a price for these two.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from golemp2p.core.properties import Properties
from golemp2p.wire.rest.node import RuntimeInfo
from golemp2p.wire.rest.payment import Account

USAGE_VECTOR: Final = ("golem.usage.duration_sec", "golem.usage.cpu_sec")
ACCEPT_TIMEOUT: Final = "golem.com.payment.debit-notes.accept-timeout?"
NOTE_INTERVAL: Final = "golem.com.scheme.payu.debit-note.interval-sec?"
PAYMENT_TIMEOUT: Final = "golem.com.scheme.payu.payment-timeout-sec?"
GIB: Final = 1024**3
MEMORY_SHARE: Final = 0.7  # of the machine, for all activities together; the offer's figure is for one
HOUR_S: Final = 3600.0


@dataclass(frozen=True)
class ProviderTerms:
    """One preset: linear prices in GLM, capacity, and the time limits of payment (seconds)."""

    node_name: str = ""
    price_start: float = 0.0
    price_per_hour: float = 0.02
    price_per_cpu_hour: float = 0.1
    max_activities: int = 2
    memory_gib: float | None = None
    storage_gib: float = 2.0
    threads: int | None = None
    debit_note_interval_s: float = 120.0
    accept_timeout_s: float = 240.0
    payment_timeout_s: float = 120.0

    @property
    def coeffs(self) -> list[float]:
        """Price per second, per cpu-second, and the start price; always floats (yapapi drops offers with integers)."""
        return [self.price_per_hour / HOUR_S, self.price_per_cpu_hour / HOUR_S, float(self.price_start)]


def machine_memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def offer_properties(
    terms: ProviderTerms, runtime: RuntimeInfo, accounts: Sequence[Account], *, subnet: str
) -> Properties:
    threads = terms.threads or os.cpu_count() or 1
    memory_gib = terms.memory_gib or round(machine_memory_gib() * MEMORY_SHARE / terms.max_activities, 3)
    properties: Properties = {
        "golem.node.id.name": terms.node_name or socket.gethostname(),
        "golem.node.debug.subnet": subnet,
        "golem.node.net.is-public": False,
        "golem.inf.mem.gib": float(memory_gib),
        "golem.inf.storage.gib": float(terms.storage_gib),
        "golem.inf.cpu.architecture": platform.machine(),
        "golem.inf.cpu.cores": threads,
        "golem.inf.cpu.threads": threads,
        "golem.srv.caps.multi-activity": True,
        "golem.activity.caps.transfer.protocol": ["gftp"],
        "golem.com.scheme": "payu",
        "golem.com.pricing.model": "linear",
        "golem.com.usage.vector": list(USAGE_VECTOR),
        "golem.com.pricing.model.linear.coeffs": list(terms.coeffs),
        "golem.com.payment.protocol.version": 3,
        NOTE_INTERVAL: round(terms.debit_note_interval_s),
        PAYMENT_TIMEOUT: round(terms.payment_timeout_s),
        ACCEPT_TIMEOUT: round(terms.accept_timeout_s),
    }
    for account in accounts:
        properties[f"golem.com.payment.platform.{account.platform}.address"] = account.address
    properties.update(runtime.properties)
    return properties


def offer_constraints(*, now: float, subnet: str) -> str:
    return f"(&(golem.srv.comp.expiration>{round(now * 1000)})(golem.node.debug.subnet={subnet}))"
