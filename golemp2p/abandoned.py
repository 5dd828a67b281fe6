"""Agreements whose requestor agent has gone: the node ends them after the silence that both sides agreed on.

The agent had promised to accept debit notes within the accept timeout. When for that long nobody has called about an
agreement, its activities, its demand, its debit notes or its session, and nobody had a connection to its provider in a
private network, the agreement is terminated; its activities end with it, the
invoice comes, and the payment service answers it within the agent's budget or leaves it visible.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import NoReturn

import structlog
import trio

from golemp2p import limits
from golemp2p.activity.service import ActivityService
from golemp2p.api.presence import (
    Presence,
    activity_key,
    agreement_key,
    demand_key,
    document_key,
    place_key,
    session_key,
)
from golemp2p.core.agreement import Agreement, Role
from golemp2p.core.ids import Address, AgreementId
from golemp2p.core.properties import number
from golemp2p.core.records import RecordKind
from golemp2p.errors import GolemError
from golemp2p.market.agreements import Agreements
from golemp2p.market.service import MarketService

log = structlog.get_logger("golemp2p.node")

ACCEPT_TIMEOUT = "golem.com.payment.debit-notes.accept-timeout?"
NOTE_INTERVAL = "golem.com.scheme.payu.debit-note.interval-sec?"
REASON = {"message": "the requestor's program is gone", "golem.requestor.code": "AgentSilent"}


PlacesOf = Callable[[Address], Iterable[tuple[str, str]]]
"""(network, IP) of a node in the private networks here."""
DocumentsOf = Callable[[AgreementId], Awaitable[Iterable[str]]]
"""Ids of an agreement's debit notes and invoices."""


def allowed_silence_s(agreement: Agreement) -> float:
    """The accept timeout: of the demand, else of the offer, else ours; never less than a slow program needs.

    Programs without an app session (yapapi) cannot be told apart by their polls for events. What counts for them is
    what names the agreement or what belongs to it, at the latest the acceptance of its next debit note.
    """
    allowed_s = max(_agreed(agreement, ACCEPT_TIMEOUT, limits.AGENT_SILENCE_S), limits.MIN_AGENT_SILENCE_S)
    if not agreement.session_id:
        allowed_s += _agreed(agreement, NOTE_INTERVAL, limits.USUAL_NOTE_INTERVAL_S)
    return allowed_s


def _agreed(agreement: Agreement, name: str, default: float) -> float:
    """A time of the demand, else of the offer."""
    for properties in (agreement.demand, agreement.offer):
        seconds = number(properties.get(name))
        if seconds is not None:
            return seconds
    return default


async def end_silent_demands(market: MarketService, presence: Presence, clock: Callable[[], float]) -> NoReturn:
    """For ever: withdraw the demands that nobody asks about any more, which would be renewed for ever."""
    while True:
        for demand in market.subscriptions.all(RecordKind.DEMAND):
            silent_s = min(clock() - demand.created_at, presence.silent_s([demand_key(demand.id)]))
            if silent_s > limits.DEMAND_SILENCE_S:
                log.warning("demand_silent", demand_id=demand.id, owner=demand.owner, silent_s=round(silent_s, 1))
                try:
                    await market.unsubscribe(RecordKind.DEMAND, demand.id)
                except GolemError as exc:  # its program has just done so
                    log.info("demand_not_withdrawn", demand_id=demand.id, error=str(exc))
        await trio.sleep(limits.DEMAND_SILENCE_S / 10)


async def end_abandoned(
    agreements: Agreements,
    activity: ActivityService,
    presence: Presence,
    *,
    silence_s: float | None = None,
    clock: Callable[[], float],
    places_of: PlacesOf,
    documents_of: DocumentsOf,
) -> NoReturn:
    """For ever. ``silence_s``: for all agreements, instead of what each of them says. ``clock``: of their dates."""
    while True:
        for agreement in agreements.approved(Role.REQUESTOR):
            since = agreement.approved_at or agreement.created_at
            allowed_s = silence_s or allowed_silence_s(agreement)
            if clock() - since <= allowed_s:
                continue
            keys = [agreement_key(agreement.id), demand_key(agreement.demand_id)]
            keys += [session_key(agreement.session_id)] if agreement.session_id else []
            keys += [activity_key(a.id) for a in activity.requestor.of_agreement(agreement.id)]
            keys += [place_key(network, ip) for network, ip in places_of(agreement.provider_address)]
            silent_s = presence.silent_s(keys)
            if silent_s > allowed_s:  # only now, for there may be many
                silent_s = presence.silent_s([*keys, *map(document_key, await documents_of(agreement.id))])
            if silent_s > allowed_s:
                log.warning("agent_silent", agreement_id=agreement.id, silent_s=round(silent_s, 1))
                try:
                    await agreements.terminate(agreement.id, REASON)
                except GolemError as exc:  # it has just ended by itself
                    log.info("agreement_not_terminated", agreement_id=agreement.id, error=str(exc))
        await trio.sleep(min(limits.AGENT_CHECK_S, (silence_s or limits.AGENT_CHECK_S) / 4))
