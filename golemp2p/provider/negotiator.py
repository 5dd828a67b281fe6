"""Which demands we serve, and on what terms. Pure: the demand, who makes it, our offer, now -> an answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from golemp2p.core.agreement import CHOSEN_PLATFORM, platform_of
from golemp2p.core.manifest import NOTHING_OUTSIDE, OutboundRule, read_manifest
from golemp2p.core.payment.vouchers import BATCH, EXPOSURE, MODES, mode_of
from golemp2p.core.properties import Properties, number
from golemp2p.errors import UsageError
from golemp2p.provider.offer import ACCEPT_TIMEOUT, NOTE_INTERVAL, PAYMENT_TIMEOUT

EXPIRATION: Final = "golem.srv.comp.expiration"
MIN_LIFE_S: Final = 5.0  # a demand that expires sooner is not worth an agreement
MAX_LIFE_S: Final = 30 * 24 * 3600.0
MIN_ACCEPT_TIMEOUT_S: Final = 5.0
MIN_NOTE_INTERVAL_S: Final = 1.0
MAX_NOTE_INTERVAL_S: Final = 900.0  # golem-core asks for ten minutes
DAY_S: Final = 24 * 3600.0  # JavaScript agents ask for a payment timeout of twelve hours


@dataclass(frozen=True)
class Refusal:
    """``code`` is stable, for programs; the message is for the requestor."""

    code: str
    message: str
    is_final: bool = True

    def reason(self) -> dict[str, object]:
        return {
            "message": self.message,
            "golem.proposal.rejection.is-final": self.is_final,
            "golem.provider.code": self.code,
        }


_VPN: Final = re.compile(r"\(\s*golem\.runtime\.capabilities\s*=\s*vpn\s*\)")

NO_CAPACITY: Final = Refusal("NoCapacity", "no capacity left", is_final=False)
# yapapi and golem-js name an activity's address in a network by the provider alone, and fail at a second one.
ADDRESS_TAKEN: Final = Refusal(
    "NetworkAddressTaken", "an agreement with you has this provider's address in your networks", is_final=False
)


def asks_for_network(constraints: str) -> bool:
    """Whether the demand wants a runtime that can join private networks."""
    return _VPN.search(constraints) is not None


def answer(
    offer: Properties, demand: Properties, *, issuer: str, now: float, outbound: OutboundRule = NOTHING_OUTSIDE
) -> Properties | Refusal:
    """Our counter-proposal's properties, or why not. ``issuer``: the address of who made the demand."""
    if (refusal := _manifest_refusal(demand, outbound)) is not None:
        return refusal
    expiration = number(demand.get(EXPIRATION))
    if expiration is None:
        return Refusal("NoExpiration", f"the demand has no {EXPIRATION}")
    life_s = expiration / 1000 - now
    if life_s < MIN_LIFE_S:
        return Refusal("ExpiresTooSoon", f"the demand expires in {life_s:.0f} s; at least {MIN_LIFE_S:.0f} s is needed")
    if life_s > MAX_LIFE_S:
        return Refusal("ExpiresTooLate", f"the demand lives {life_s:.0f} s; at most {MAX_LIFE_S:.0f} s is served")
    platform = platform_of(demand, offer)
    if platform is None:
        return Refusal("NoPlatform", f"the demand chooses no payment platform ({CHOSEN_PLATFORM})", is_final=False)
    address = f"golem.com.payment.platform.{platform}.address"
    if address not in offer:
        return Refusal("UnknownPlatform", f"payment platform {platform!r} is not offered")
    if address not in demand:
        return Refusal("NoPayer", f"the demand names no payer address for {platform!r}", is_final=False)
    if str(demand[address]).lower() != issuer.lower():
        return Refusal("PayerNotIssuer", f"{address} is not the requestor's own address {issuer}")
    counter = dict(offer)
    mode = mode_of(demand)
    offered = offer.get(MODES)
    if mode != BATCH and not (isinstance(offered, list) and mode in offered):
        return Refusal("UnknownPaymentMode", f"payment mode {mode!r} is not offered; {offered or [BATCH]} are")
    if EXPOSURE in demand:
        asked, most = number(demand[EXPOSURE]), number(offer.get(EXPOSURE)) or 0.0
        if asked is None or not 0 < asked <= most:
            return Refusal("TermOutOfRange", f"{EXPOSURE} is {demand[EXPOSURE]!r}; up to {most:g} GLM is served")
        counter[EXPOSURE] = demand[EXPOSURE]
    for name, lowest, highest in (
        (ACCEPT_TIMEOUT, MIN_ACCEPT_TIMEOUT_S, number(offer.get(ACCEPT_TIMEOUT)) or DAY_S),
        # Between two notes we work on credit.
        (NOTE_INTERVAL, MIN_NOTE_INTERVAL_S, max(number(offer.get(NOTE_INTERVAL)) or 0.0, MAX_NOTE_INTERVAL_S)),
        (PAYMENT_TIMEOUT, MIN_NOTE_INTERVAL_S, max(number(offer.get(PAYMENT_TIMEOUT)) or 0.0, DAY_S)),
    ):
        if name not in demand:
            continue
        wanted = number(demand[name])
        if wanted is None or not lowest <= wanted <= highest:
            return Refusal("TermOutOfRange", f"{name} is {demand[name]!r}; {lowest:g} to {highest:g} is served")
        counter[name] = demand[name]
    return counter


def _manifest_refusal(demand: Properties, rule: OutboundRule) -> Refusal | None:
    try:
        manifest = read_manifest(demand)
    except UsageError as exc:
        return Refusal("BadManifest", str(exc))
    if manifest is None or manifest.outbound is None:
        return None
    reason = rule.refusal(manifest.outbound)
    return None if reason is None else Refusal("OutboundNotAllowed", reason)
