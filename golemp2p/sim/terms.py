"""Offers and demands of simulated agents, with the properties of real ones (protocols/market.md) in real sizes."""

from __future__ import annotations

from typing import Final

from golemp2p.core.ids import Address
from golemp2p.core.properties import Properties
from golemp2p.provider.offer import (
    ACCEPT_TIMEOUT,
    NOTE_INTERVAL,
    PAYMENT_TIMEOUT,
    ProviderTerms,
    offer_constraints,
    offer_properties,
)
from golemp2p.sim.chain import NETWORK
from golemp2p.sim.runtime import NAME, PACKAGE
from golemp2p.wire.rest.node import RuntimeInfo
from golemp2p.wire.rest.payment import Account

SUBNET: Final = "public"
_RUNTIME: Final = RuntimeInfo(
    id=NAME, name=NAME, version="1.0.0", properties={"golem.runtime.name": NAME, "golem.runtime.version": "1.0.0"}
)


def make_terms(index: int, *, price_per_hour: float, capacity: int, note_interval_s: float) -> ProviderTerms:
    """``price_per_hour``: GLM of running time; CPU time costs as much again."""
    return ProviderTerms(
        node_name=f"provider-{index}",
        price_per_hour=price_per_hour,
        price_per_cpu_hour=price_per_hour,
        max_activities=capacity,
        memory_gib=4.0,
        threads=2,
        debit_note_interval_s=note_interval_s,
        accept_timeout_s=60.0,
    )


def offer_of(terms: ProviderTerms, address: Address) -> Properties:
    account = Account(
        platform=NETWORK.platform,
        address=address,
        driver=NETWORK.driver,
        network=NETWORK.name,
        token=NETWORK.symbol,
        send=True,
        receive=True,
    )
    # The machine that simulates must not be seen: runs on another one have the same digest.
    return {**offer_properties(terms, _RUNTIME, [account], subnet=SUBNET), "golem.inf.cpu.architecture": "x86_64"}


def offer_wants(now: float) -> str:
    return offer_constraints(now=now, subnet=SUBNET)


def demand_of(name: str, address: Address, *, expires_at: float, mid_payments_s: float | None) -> Properties:
    """``mid_payments_s``: bills are to be paid that often before the end; None: by the invoice alone."""
    properties: Properties = {
        "golem.node.id.name": name,
        "golem.node.debug.subnet": SUBNET,
        "golem.srv.comp.expiration": round(expires_at * 1000),
        "golem.srv.comp.task_package": PACKAGE,
        "golem.com.payment.protocol.version": "3",
        f"golem.com.payment.platform.{NETWORK.platform}.address": address,
        "golem.com.payment.chosen-platform": NETWORK.platform,
        "golem.srv.caps.multi-activity": True,
        ACCEPT_TIMEOUT: 60,
    }
    if mid_payments_s is not None:
        properties[NOTE_INTERVAL] = round(mid_payments_s)
        properties[PAYMENT_TIMEOUT] = round(mid_payments_s)
    return properties


DEMAND_WANTS: Final = f"(&(golem.runtime.name={NAME})(golem.com.pricing.model=linear))"
