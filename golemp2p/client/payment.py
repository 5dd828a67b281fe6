"""payment-api."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from golemp2p.client.session import POLL_SLACK_S, Session
from golemp2p.wire.rest import payment as rest
from golemp2p.wire.rest.base import iso_time

Kind = Literal["debitNote", "invoice"]
_PREFIX = "/payment-api/v1"


class PaymentApi:
    """Amounts are decimal strings in GLM."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def accounts(self) -> list[rest.Account]:
        found = await self._session.request("GET", f"{_PREFIX}/requestorAccounts")
        return [rest.Account.model_validate(account) for account in found]

    async def balances(self, *, timeout_s: float | None = None, network: str | None = None) -> list[rest.Balance]:
        """A chain that takes longer than ``timeout_s`` is shown with what it told last, and why."""
        params = {"timeout": timeout_s, "network": network}
        found = await self._session.request("GET", f"{_PREFIX}/balances", params=params)
        return [rest.Balance.model_validate(b) for b in found]

    async def status(self) -> list[rest.PlatformStatus]:
        found = await self._session.request("GET", f"{_PREFIX}/status")
        return [rest.PlatformStatus.model_validate(s) for s in found]

    async def create_allocation(
        self, total_amount: str, *, platform: str | None = None, expires_at: float | None = None
    ) -> rest.Allocation:
        """Reserve a budget. Raises UsageError or PolicyError with the missing amount."""
        body: dict[str, Any] = {"totalAmount": total_amount, "makeDeposit": False}
        if platform is not None:
            body["paymentPlatform"] = platform
        if expires_at is not None:
            body["timeout"] = iso_time(expires_at)
        found = await self._session.request("POST", f"{_PREFIX}/allocations", json=body)
        return rest.Allocation.model_validate(found)

    async def allocation(self, allocation: str) -> rest.Allocation:
        found = await self._session.request("GET", f"{_PREFIX}/allocations/{allocation}")
        return rest.Allocation.model_validate(found)

    async def release_allocation(self, allocation: str) -> None:
        await self._session.request("DELETE", f"{_PREFIX}/allocations/{allocation}")

    async def decorate_demand(self, allocation: str) -> rest.Decoration:
        found = await self._session.request("GET", f"{_PREFIX}/demandDecorations", params={"allocationIds": allocation})
        return rest.Decoration.model_validate(found)

    async def events(
        self,
        kind: Kind,
        *,
        after: datetime | None = None,
        session_id: str | None = None,
        timeout_s: float = 5.0,
        types: str | None = None,
    ) -> list[rest.PaymentEvent]:
        """Events newer than ``after``, ascending. ``types``: e.g. "Received,Settled" instead of the role's default."""
        headers = {} if types is None else {"X-Requestor-Events": types, "X-Provider-Events": types}
        found = await self._session.request(
            "GET",
            f"{_PREFIX}/{kind}Events",
            params={
                "timeout": timeout_s,
                "appSessionId": session_id,
                "afterTimestamp": None if after is None else after.astimezone(UTC).isoformat(),
            },
            headers=headers,
            timeout_s=timeout_s + POLL_SLACK_S,
        )
        return [rest.PaymentEvent.model_validate(event) for event in found]

    async def invoice(self, document: str) -> rest.Invoice:
        return rest.Invoice.model_validate(await self._session.request("GET", f"{_PREFIX}/invoices/{document}"))

    async def debit_note(self, document: str) -> rest.DebitNote:
        return rest.DebitNote.model_validate(await self._session.request("GET", f"{_PREFIX}/debitNotes/{document}"))

    async def invoices(self) -> list[rest.Invoice]:
        return [rest.Invoice.model_validate(i) for i in await self._session.request("GET", f"{_PREFIX}/invoices")]

    async def debit_notes(self) -> list[rest.DebitNote]:
        return [rest.DebitNote.model_validate(n) for n in await self._session.request("GET", f"{_PREFIX}/debitNotes")]

    async def accept(self, kind: Kind, document: str, *, amount: str, allocation: str) -> None:
        body = {"totalAmountAccepted": amount, "allocationId": allocation}
        await self._session.request("POST", f"{_PREFIX}/{kind}s/{document}/accept", json=body)

    async def reject(self, kind: Kind, document: str, *, message: str) -> None:
        body = {"rejectionReason": "INCORRECT_AMOUNT", "totalAmountAccepted": "0", "message": message}
        await self._session.request("POST", f"{_PREFIX}/{kind}s/{document}/reject", json=body)

    async def issue_debit_note(
        self,
        activity: str,
        *,
        agreement: str,
        amount: str,
        usage: list[float],
        due_at: float | None = None,
        document: str | None = None,
    ) -> rest.DebitNote:
        body: dict[str, Any] = {
            "activityId": activity,
            "agreementId": agreement,
            "totalAmountDue": amount,
            "usageCounterVector": usage,
        }
        if due_at is not None:
            body["paymentDueDate"] = iso_time(due_at)
        if document is not None:
            body["debitNoteId"] = document
        return rest.DebitNote.model_validate(await self._issue("debitNotes", body))

    async def issue_invoice(
        self, agreement: str, *, activities: list[str], amount: str, due_at: float, document: str | None = None
    ) -> rest.Invoice:
        body: dict[str, Any] = {
            "agreementId": agreement,
            "activityIds": activities,
            "amount": amount,
            "paymentDueDate": iso_time(due_at),
        }
        if document is not None:
            body["invoiceId"] = document
        return rest.Invoice.model_validate(await self._issue("invoices", body))

    async def _issue(self, plural: str, body: Mapping[str, Any]) -> Any:
        return await self._session.request("POST", f"{_PREFIX}/{plural}", json=dict(body))

    async def send(self, kind: Kind, document: str) -> None:
        """Hand an issued document to the delivery; it reaches the payer even after a restart."""
        await self._session.request("POST", f"{_PREFIX}/{kind}s/{document}/send")

    async def payments(self) -> list[rest.Payment]:
        found = await self._session.request("GET", f"{_PREFIX}/payments", params={"timeout": 0})
        return [rest.Payment.model_validate(p) for p in found]
