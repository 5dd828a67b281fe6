"""market-api."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from golemp2p import limits
from golemp2p.client.session import POLL_SLACK_S, Session
from golemp2p.wire.rest import market as rest
from golemp2p.wire.rest.base import iso_time

Side = Literal["demands", "offers"]
_PREFIX = "/market-api/v1"
CONFIRM_TIMEOUT_S = limits.CHANNEL_OPEN_TIMEOUT_S + POLL_SLACK_S


class MarketApi:
    """``side`` is "demands" for a requestor and "offers" for a provider; the calls are the same."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def subscribe(self, side: Side, properties: Mapping[str, Any], constraints: str) -> str:
        body = {"properties": dict(properties), "constraints": constraints}
        return str(await self._session.request("POST", f"{_PREFIX}/{side}", json=body))

    async def unsubscribe(self, side: Side, subscription: str) -> None:
        await self._session.request("DELETE", f"{_PREFIX}/{side}/{subscription}")

    async def events(
        self, side: Side, subscription: str, *, timeout_s: float = 5.0, max_events: int = 100
    ) -> list[rest.MarketEvent]:
        """Long poll; each event is given once. Raises NotFoundError when the subscription is gone."""
        found = await self._session.request(
            "GET",
            f"{_PREFIX}/{side}/{subscription}/events",
            params={"timeout": timeout_s, "maxEvents": max_events},
            timeout_s=timeout_s + POLL_SLACK_S,
        )
        return [rest.MarketEvent.model_validate(event) for event in found]

    async def proposal(self, side: Side, subscription: str, proposal: str) -> rest.Proposal:
        found = await self._session.request("GET", f"{_PREFIX}/{side}/{subscription}/proposals/{proposal}")
        return rest.Proposal.model_validate(found)

    async def counter(
        self, side: Side, subscription: str, proposal: str, properties: Mapping[str, Any], constraints: str
    ) -> str:
        body = {"properties": dict(properties), "constraints": constraints}
        return str(
            await self._session.request("POST", f"{_PREFIX}/{side}/{subscription}/proposals/{proposal}", json=body)
        )

    async def reject(self, side: Side, subscription: str, proposal: str, reason: Mapping[str, Any]) -> None:
        path = f"{_PREFIX}/{side}/{subscription}/proposals/{proposal}/reject"
        await self._session.request("POST", path, json=dict(reason))

    async def create_agreement(self, proposal: str, *, valid_to: float) -> str:
        """``valid_to``: seconds since the epoch until which the provider may approve."""
        body = {"proposalId": proposal, "validTo": iso_time(valid_to)}
        return str(await self._session.request("POST", f"{_PREFIX}/agreements", json=body))

    async def agreement(self, agreement: str) -> rest.Agreement:
        found = await self._session.request("GET", f"{_PREFIX}/agreements/{agreement}")
        return rest.Agreement.model_validate(found)

    async def agreements(self, state: str | None = None) -> list[dict[str, Any]]:
        found = await self._session.request("GET", f"{_PREFIX}/agreements", params={"state": state})
        return [dict(line) for line in found]

    async def confirm(self, agreement: str, *, session_id: str | None = None) -> None:
        path = f"{_PREFIX}/agreements/{agreement}/confirm"
        # The node may have a payment channel to fund first.
        await self._session.request("POST", path, params={"appSessionId": session_id}, timeout_s=CONFIRM_TIMEOUT_S)

    async def wait_approved(self, agreement: str, *, timeout_s: float) -> None:
        """Raises GoneError (rejected, cancelled, expired), DeadlineError."""
        await self._session.request(
            "POST",
            f"{_PREFIX}/agreements/{agreement}/wait",
            params={"timeout": timeout_s},
            timeout_s=timeout_s + POLL_SLACK_S,
        )

    async def approve(self, agreement: str, *, timeout_s: float) -> None:
        await self._session.request(
            "POST",
            f"{_PREFIX}/agreements/{agreement}/approve",
            params={"timeout": timeout_s},
            timeout_s=timeout_s + POLL_SLACK_S,
        )

    async def reject_agreement(self, agreement: str, reason: Mapping[str, Any]) -> None:
        await self._session.request("POST", f"{_PREFIX}/agreements/{agreement}/reject", json=dict(reason))

    async def cancel(self, agreement: str, reason: Mapping[str, Any]) -> None:
        await self._session.request("POST", f"{_PREFIX}/agreements/{agreement}/cancel", json=dict(reason))

    async def terminate(self, agreement: str, reason: Mapping[str, Any]) -> None:
        await self._session.request("POST", f"{_PREFIX}/agreements/{agreement}/terminate", json=dict(reason))

    async def agreement_events(
        self,
        *,
        after: datetime | None = None,
        session_id: str | None = None,
        timeout_s: float = 5.0,
        max_events: int = 100,
        role: str | None = None,
    ) -> list[rest.AgreementOperationEvent]:
        """Events strictly newer than ``after``, ascending; not consumed.

        ``role``: "provider" asks for a provider: it is no sign that a requestor's program lives.
        """
        found = await self._session.request(
            "GET",
            f"{_PREFIX}/agreementEvents",
            params={
                "timeout": timeout_s,
                "maxEvents": max_events,
                "appSessionId": session_id,
                "afterTimestamp": None if after is None else _iso(after),
            },
            headers=None if role is None else {"Golemp2p-Role": role},
            timeout_s=timeout_s + POLL_SLACK_S,
        )
        return [rest.AgreementOperationEvent.model_validate(event) for event in found]


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
