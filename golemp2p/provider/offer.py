"""What is offered: hardware, runtime, price, payment platforms, as Golem's properties (protocols/market.md).

Billed are running time and CPU time, as everywhere in Golem (USAGE_VECTOR). Disk space and a wasm runtime's fuel are
counted, too; they become usage counters where the owner sets a price for them, because agents know prices of the two.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from golemp2p.core.payment.vouchers import BATCH, CHANNEL, EXPOSURE, MODES
from golemp2p.core.properties import Properties
from golemp2p.wire.rest.node import RuntimeInfo
from golemp2p.wire.rest.payment import Account

USAGE_VECTOR: Final = ("golem.usage.duration_sec", "golem.usage.cpu_sec")
ACCEPT_TIMEOUT: Final = "golem.com.payment.debit-notes.accept-timeout?"
NOTE_INTERVAL: Final = "golem.com.scheme.payu.debit-note.interval-sec?"
PAYMENT_TIMEOUT: Final = "golem.com.scheme.payu.payment-timeout-sec?"
CAPABILITIES: Final = "golem.runtime.capabilities"
GIB: Final = 1024**3
MEMORY_SHARE: Final = 0.7  # of the machine, for all activities together; the offer's figure is for one
HOUR_S: Final = 3600.0
LEAST_EXPOSURE_S: Final = 20.0  # of work: a requestor's agent and two nodes have to act in the meantime


@dataclass(frozen=True)
class ProviderTerms:
    """One preset: linear prices in GLM, capacity, and the time limits of payment (seconds)."""

    node_name: str = ""
    price_start: float = 0.0
    price_per_hour: float = 0.02
    price_per_cpu_hour: float = 0.1
    price_per_storage_gib: float = 0.0  # of the most that was in use at a time
    price_per_gfuel: float = 0.0
    max_activities: int = 2
    memory_gib: float | None = None
    storage_gib: float = 2.0
    threads: int | None = None
    debit_note_interval_s: float = 120.0
    accept_timeout_s: float = 240.0
    payment_timeout_s: float = 120.0
    exposure: float = 0.0  # GLM of work that may be unvouched in mode channel; 0: what one interval can cost
    outbound: tuple[str, ...] = ()  # whitelist of what payloads may reach outside

    @property
    def coeffs(self) -> list[float]:
        """A price per counter of the usage vector, then the start price; floats (yapapi drops offers with integers)."""
        further = [float(price) for _, price in self._further]
        return [self.price_per_hour / HOUR_S, self.price_per_cpu_hour / HOUR_S, *further, float(self.price_start)]

    @property
    def exposure_glm(self) -> float:
        """What may be unvouched: as set, else what the machine can cost between two debit notes, and the start."""
        if self.exposure:
            return self.exposure
        per_hour = self.price_per_hour + (self.threads or os.cpu_count() or 1) * self.price_per_cpu_hour
        return round(self.price_start + per_hour * max(LEAST_EXPOSURE_S, self.debit_note_interval_s) / HOUR_S, 18)

    @property
    def usage_vector(self) -> list[str]:
        return [*USAGE_VECTOR, *(counter for counter, _ in self._further)]

    @property
    def _further(self) -> list[tuple[str, float]]:
        prices = (("golem.usage.storage_gib", self.price_per_storage_gib), ("golem.usage.fuel", self.price_per_gfuel))
        return [(counter, price) for counter, price in prices if price > 0]


def machine_memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def offer_properties(
    terms: ProviderTerms, runtime: RuntimeInfo, accounts: Sequence[Account], *, subnet: str, channels: bool = False
) -> Properties:
    """``channels``: a payment network of the node has the contract for them."""
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
        "golem.activity.caps.transfer.report-progress": True,
        "golem.activity.caps.deploy.report-progress": True,
        "golem.com.scheme": "payu",
        "golem.com.pricing.model": "linear",
        "golem.com.usage.vector": [*terms.usage_vector],
        "golem.com.pricing.model.linear.coeffs": list(terms.coeffs),
        "golem.com.payment.protocol.version": 3,
        NOTE_INTERVAL: round(terms.debit_note_interval_s),
        PAYMENT_TIMEOUT: round(terms.payment_timeout_s),
        ACCEPT_TIMEOUT: round(terms.accept_timeout_s),
        MODES: [BATCH, CHANNEL] if channels else [BATCH],
    }
    if channels:
        properties[EXPOSURE] = float(terms.exposure_glm)
    for account in accounts:
        properties[f"golem.com.payment.platform.{account.platform}.address"] = account.address
    properties.update(runtime.properties)
    capabilities = properties.get(CAPABILITIES)
    if isinstance(capabilities, list) and not terms.outbound:  # the runtime could, the owner does not want it
        properties[CAPABILITIES] = [name for name in capabilities if name != "inet"]
    return properties


def offer_constraints(*, now: float, subnet: str) -> str:
    return f"(&(golem.srv.comp.expiration>{round(now * 1000)})(golem.node.debug.subnet={subnet}))"
