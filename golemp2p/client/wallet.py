"""The owner's own transactions, and what settlement is doing in full."""

from __future__ import annotations

from typing import Any

from golemp2p.client.session import POLL_SLACK_S, Session
from golemp2p.wire.rest import wallet as rest

_PREFIX = "/golemp2p/v1/payment"


class WalletApi:
    """Amounts are decimal strings in the token. ``network``: its name, or the platform's; None: the only one.

    ``key`` names a request: repeated with the same one, it is sent once (8 to 100 letters, digits, ``._-``).
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def networks(self) -> list[rest.PaymentNetwork]:
        found = await self._session.request("GET", f"{_PREFIX}/networks")
        return [rest.PaymentNetwork.model_validate(network) for network in found]

    async def status(self) -> list[rest.SettlementStatus]:
        found = await self._session.request("GET", f"{_PREFIX}/status")
        return [rest.SettlementStatus.model_validate(status) for status in found]

    async def history(self, *, network: str | None = None, limit: int | None = None) -> list[rest.Movement]:
        params = {"network": network, "limit": limit}
        found = await self._session.request("GET", f"{_PREFIX}/history", params=params)
        return [rest.Movement.model_validate(movement) for movement in found]

    async def send(self, to: str, amount: str, *, key: str, network: str | None = None) -> rest.OwnTransaction:
        """Raises PolicyError and NetworkError with what stands in the way; then nothing was ordered."""
        return rest.OwnTransaction.model_validate(
            await self._post("transactions", _transaction(to, amount, key, network))
        )

    async def preview_send(
        self, to: str, amount: str, *, key: str, network: str | None = None
    ) -> rest.PlannedTransaction:
        body = _transaction(to, amount, key, network)
        return rest.PlannedTransaction.model_validate(await self._post("transactions", body, dry_run=True))

    async def mint(self, *, key: str, network: str | None = None, amount: str | None = None) -> rest.OwnTransaction:
        body = {"key": key, "network": network, "amount": amount}
        return rest.OwnTransaction.model_validate(await self._post("mint", body))

    async def deployments(self, *, network: str | None = None) -> list[rest.Deployment]:
        """This node's own contracts on a chain."""
        params = {} if network is None else {"network": network}
        found = await self._session.request("GET", f"{_PREFIX}/deployments", params=params)
        return [rest.Deployment.model_validate(d) for d in found]

    async def deploy(self, contract: str, *, key: str, network: str | None = None) -> rest.OwnTransaction:
        body = {"key": key, "network": network, "contract": contract}
        return rest.OwnTransaction.model_validate(await self._post("deploy", body))

    async def preview_deploy(self, contract: str, *, network: str | None = None) -> rest.PlannedTransaction:
        body = {"key": "dry-run-", "network": network, "contract": contract}
        return rest.PlannedTransaction.model_validate(await self._post("deploy", body, dry_run=True))

    async def transaction(self, transaction: str, *, timeout_s: float = 0.0) -> rest.OwnTransaction:
        """By its id; waits until it is final or failed."""
        found = await self._session.request(
            "GET",
            f"{_PREFIX}/transactions/{transaction}",
            params={"timeout": timeout_s},
            timeout_s=timeout_s + POLL_SLACK_S,
        )
        return rest.OwnTransaction.model_validate(found)

    async def cancel(self, transaction: str) -> rest.OwnTransaction:
        """Withdraw one that has not been sent. Raises ConflictError."""
        found = await self._session.request("DELETE", f"{_PREFIX}/transactions/{transaction}")
        return rest.OwnTransaction.model_validate(found)

    async def settle(self, *, network: str | None = None, dry_run: bool = False) -> list[rest.PlannedTransaction]:
        """Pay all that is owed now; what that sends."""
        found = await self._post("settle", {"network": network}, dry_run=dry_run)
        return [rest.PlannedTransaction.model_validate(planned) for planned in found]

    async def _post(self, what: str, body: dict[str, Any], *, dry_run: bool = False) -> Any:
        params = {"dryRun": True} if dry_run else None
        return await self._session.request("POST", f"{_PREFIX}/{what}", json=body, params=params)


def _transaction(to: str, amount: str, key: str, network: str | None) -> dict[str, Any]:
    return {"key": key, "to": to, "amount": amount, "network": network}
