"""golemp2p's own calls and identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from golemp2p import limits
from golemp2p.client.session import Session
from golemp2p.wire.rest import market as market_rest
from golemp2p.wire.rest import node as rest

_PREFIX = "/golemp2p/v1"


class NodeApi:
    def __init__(self, session: Session) -> None:
        self._session = session

    async def me(self) -> str:
        """The node's identity: its Ethereum address, lower case."""
        return str((await self._session.request("GET", "/me"))["identity"])

    async def status(self) -> rest.Status:
        return rest.Status.model_validate(await self._session.request("GET", f"{_PREFIX}/status"))

    async def selftest(self) -> rest.SelfTest:
        """Asks peers whether they hold our offers; up to 25 s."""
        return rest.SelfTest.model_validate(
            await self._session.request("POST", f"{_PREFIX}/selftest", timeout_s=2 * limits.SELFTEST_TIMEOUT_S)
        )

    async def peers(self) -> list[rest.Peer]:
        return [rest.Peer.model_validate(p) for p in await self._session.request("GET", f"{_PREFIX}/peers")]

    async def runtimes(self) -> list[rest.RuntimeInfo]:
        return [rest.RuntimeInfo.model_validate(r) for r in await self._session.request("GET", f"{_PREFIX}/runtimes")]

    async def runtime(self, name: str, *, timeout_s: float = 120.0) -> rest.RuntimeInfo:
        """One of them with the verdict of a trial; the first call waits for it."""
        found = await self._session.request("GET", f"{_PREFIX}/runtimes/{name}", timeout_s=timeout_s)
        return rest.RuntimeInfo.model_validate(found)

    async def offers(
        self, constraints: str = "()", *, subnet: str | None = None, limit: int = 100
    ) -> list[market_rest.KnownOffer]:
        """Live offers that the node knows and whose properties meet ``constraints``."""
        params = {"constraints": constraints, "subnet": subnet, "limit": limit}
        found = await self._session.request("GET", f"{_PREFIX}/offers", params=params)
        return [market_rest.KnownOffer.model_validate(offer) for offer in found]

    async def explain(self, properties: Mapping[str, Any], constraints: str) -> list[rest.OfferVerdict]:
        """Per known offer, why it matches this demand or not."""
        body = {"properties": dict(properties), "constraints": constraints}
        found = await self._session.request("POST", f"{_PREFIX}/explain", json=body)
        return [rest.OfferVerdict.model_validate(line) for line in found]

    async def demands(self) -> list[market_rest.Demand]:
        """The live demands of all agents of the node."""
        found = await self._session.request("GET", f"{_PREFIX}/demands")
        return [market_rest.Demand.model_validate(demand) for demand in found]

    async def explain_demand(self, demand_id: str) -> list[rest.OfferVerdict]:
        """As :meth:`explain`, of one of the node's own demands."""
        found = await self._session.request("POST", f"{_PREFIX}/explain", json={"demandId": demand_id})
        return [rest.OfferVerdict.model_validate(line) for line in found]

    async def agreement(self, agreement: str) -> dict[str, Any]:
        """The agreement with its signed bytes and both signatures."""
        return dict(await self._session.request("GET", f"{_PREFIX}/agreements/{agreement}"))

    async def app_keys(self) -> list[dict[str, Any]]:
        return [dict(key) for key in await self._session.request("GET", f"{_PREFIX}/app-keys")]

    async def create_app_key(self, name: str, origins: list[str]) -> dict[str, Any]:
        body = {"name": name, "origins": origins}
        return dict(await self._session.request("POST", f"{_PREFIX}/app-keys", json=body))

    async def remove_app_key(self, name: str) -> None:
        await self._session.request("DELETE", f"{_PREFIX}/app-keys/{name}")

    async def activities(self, *, live: bool = False) -> list[dict[str, Any]]:
        found = await self._session.request("GET", f"{_PREFIX}/activities", params={"live": live})
        return [dict(activity) for activity in found]
