"""/payment-api/v1: allocations, debit notes, invoices, events, payments (yagna-rest §1.4; protocols/rest/README.md)."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from starlette.requests import Request
from starlette.responses import JSONResponse

from golemp2p import limits
from golemp2p.api.auth import Caller, current_caller
from golemp2p.api.longpoll import poll
from golemp2p.core.ids import ActivityId, Address, AgreementId, AllocationId, DocumentId
from golemp2p.core.money import format_amount, parse_amount
from golemp2p.core.payment import DocumentKind, Side
from golemp2p.core.peer import address_of
from golemp2p.errors import UsageError
from golemp2p.payment.service import DEFAULT_EVENT_TYPES, EVENT_TYPES, PaymentService
from golemp2p.storage.payment import Allocation, PaymentEvent, StoredDocument
from golemp2p.storage.payment_settlement import StoredPayment
from golemp2p.wire.rest import payment as rest

Me = Annotated[Caller, Depends(current_caller)]
Timeout = Annotated[float, Query(ge=0)]  # the service caps it
MaxItems = Annotated[int | None, Query(ge=1, le=10_000, alias="maxItems")]
After = Annotated[datetime | None, Query(alias="afterTimestamp")]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _seconds(moment: datetime | None) -> float | None:
    if moment is None:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def allocation_json(a: Allocation) -> dict[str, Any]:
    return rest.Allocation(
        allocation_id=a.id,
        address=a.address,
        payment_platform=a.platform,
        total_amount=format_amount(a.total),
        spent_amount=format_amount(a.spent),
        remaining_amount=format_amount(a.remaining),
        timestamp=_time(a.created_at),
        timeout=None if a.timeout_at is None else _time(a.timeout_at),
        make_deposit=a.make_deposit,
    ).to_json()


def document_json(stored: StoredDocument, me: str) -> dict[str, Any]:
    d, other = stored.document, address_of(stored.peer)
    issuer, recipient = (me, other) if stored.side is Side.PAYEE else (other, me)
    if d.kind is DocumentKind.DEBIT_NOTE:
        return rest.DebitNote(
            debit_note_id=d.id,
            issuer_id=issuer,
            recipient_id=recipient,
            payee_addr=d.payee,
            payer_addr=d.payer,
            payment_platform=d.platform,
            previous_debit_note_id=d.previous_id or None,
            timestamp=_time(d.issued_at_ms / 1000),
            agreement_id=d.agreement_id,
            activity_id=d.activity_id,
            total_amount_due=format_amount(d.amount),
            usage_counter_vector=d.usage_vector,
            payment_due_date=_time(d.due_at_ms / 1000) if d.due_at_ms else None,
            status=stored.state,
            status_reason=stored.reason or None,
        ).to_json()
    return rest.Invoice(
        invoice_id=d.id,
        issuer_id=issuer,
        recipient_id=recipient,
        payee_addr=d.payee,
        payer_addr=d.payer,
        payment_platform=d.platform,
        timestamp=_time(d.issued_at_ms / 1000),
        agreement_id=d.agreement_id,
        activity_ids=list(d.activity_ids),
        amount=format_amount(d.amount),
        payment_due_date=_time(d.due_at_ms / 1000),
        status=stored.state,
        status_reason=stored.reason or None,
    ).to_json()


def event_json(event: PaymentEvent) -> dict[str, Any]:
    invoice = event.kind is DocumentKind.INVOICE
    rejection = event.detail.get("rejection")
    return rest.PaymentEvent(
        event_type=f"{'Invoice' if invoice else 'DebitNote'}{event.type}Event",
        # Never through a float: clients send it back and want nothing twice.
        event_date=datetime.fromtimestamp(event.date_us // 10**6, UTC).replace(microsecond=event.date_us % 10**6),
        invoice_id=event.document_id if invoice else None,
        debit_note_id=None if invoice else event.document_id,
        rejection=rejection if isinstance(rejection, dict) else None,
    ).to_json()


def payment_json(stored: StoredPayment, me: str) -> dict[str, Any]:
    n, other = stored.notice, address_of(stored.peer)
    payer, payee = (me, other) if stored.side is Side.PAYER else (other, me)
    return rest.Payment(
        payment_id=n.id,
        payer_id=payer,
        payee_id=payee,
        payer_addr=n.payer,
        payee_addr=n.payee,
        payment_platform=n.platform,
        amount=format_amount(n.amount),
        timestamp=_time(n.paid_at_ms / 1000),
        agreement_payments=[rest.AgreementPayment(agreement_id=a, amount=format_amount(v)) for a, v in n.shares],
        activity_payments=[],
        document_ids=list(n.document_ids),
        details=base64.b64encode(bytes.fromhex(n.transaction[2:])).decode(),
        transaction=n.transaction,
        status=stored.state,
        status_reason=stored.reason or None,
    ).to_json()


def wanted_types(header: str | None) -> frozenset[str] | None:
    """A role header: event names, short ("RECEIVED") or long ("InvoiceReceivedEvent"), commas between; or "all"."""
    if header is None:
        return None
    short = {re.sub(r"^(invoice|debitnote)|event$", "", n.strip().lower()) for n in header.split(",")} - {""}
    if short & {"all", "*"}:
        return EVENT_TYPES
    # Kinds that golemp2p never sends (PaymentOk, PaymentStatus) may be asked for all the same.
    return frozenset(name.capitalize() for name in short) & EVENT_TYPES


def _after_us(after: datetime | None) -> int:
    if after is None:
        return 0
    moment = after if after.tzinfo is not None else after.replace(tzinfo=UTC)
    whole = moment.replace(microsecond=0)
    return round(whole.timestamp()) * 10**6 + moment.microsecond


def make_router(service: PaymentService) -> APIRouter:
    router = APIRouter(prefix="/payment-api/v1", tags=["payment"])
    _add_allocations(router, service)
    for kind, path in ((DocumentKind.DEBIT_NOTE, "debitNote"), (DocumentKind.INVOICE, "invoice")):
        _add_documents(router, service, kind, path)
    _add_issuing(router, service)
    _add_payments(router, service)
    return router


def _platform(service: PaymentService, wanted: str | rest.PlatformParts | None) -> str:
    """By name, by parts, or the only one there is."""
    if isinstance(wanted, str) and wanted:
        return wanted
    parts = wanted if isinstance(wanted, rest.PlatformParts) else rest.PlatformParts()
    fitting = [
        a.platform
        for a in service.accounts()
        if parts.driver in (None, a.driver) and parts.network in (None, a.network) and parts.token in (None, a.token)
    ]
    if not fitting:
        raise UsageError(
            f"no payment platform fits {parts.to_json()}",
            hint=f"one of: {', '.join(a.platform for a in service.accounts()) or 'none is configured'}",
        )
    return fitting[0]


def _add_allocations(router: APIRouter, service: PaymentService) -> None:
    @router.post("/allocations", status_code=201)
    async def create_allocation(body: rest.NewAllocation, _: Me) -> JSONResponse:
        allocation = await service.allocations.create(
            platform=_platform(service, body.payment_platform),
            total=parse_amount(body.total_amount, what="totalAmount"),
            address=Address(body.address.lower()) if body.address else None,
            timeout_at=_seconds(body.timeout),
            make_deposit=body.make_deposit,
            allocation_id=AllocationId(body.allocation_id) if body.allocation_id else None,
        )
        return JSONResponse(allocation_json(allocation), 201)

    @router.get("/allocations")
    async def list_allocations(_: Me) -> JSONResponse:
        return JSONResponse([allocation_json(a) for a in await service.allocations.list_live()])

    @router.get("/allocations/{allocation_id}")
    async def get_allocation(allocation_id: str, _: Me) -> JSONResponse:
        return JSONResponse(allocation_json(await service.allocations.get(allocation_id)))

    @router.put("/allocations/{allocation_id}")
    async def amend_allocation(allocation_id: str, body: rest.AllocationUpdate, _: Me) -> JSONResponse:
        total = None if body.total_amount is None else parse_amount(body.total_amount, what="totalAmount")
        timeout_at = _seconds(body.timeout)
        return JSONResponse(
            allocation_json(await service.allocations.amend(allocation_id, total=total, timeout_at=timeout_at))
        )

    @router.delete("/allocations/{allocation_id}")
    async def release_allocation(allocation_id: str, _: Me) -> JSONResponse:
        await service.allocations.release(allocation_id)
        return JSONResponse(None)

    @router.get("/demandDecorations")
    async def decorate(_: Me, allocation_ids: Annotated[list[str], Query(alias="allocationIds")]) -> JSONResponse:
        # Clients send one comma-separated value, or repeat the parameter.
        ids = [i for part in allocation_ids for i in part.split(",") if i]
        decoration = await service.allocations.decorate(ids)
        return JSONResponse(
            rest.Decoration(
                properties=[rest.DecorationProperty(key=k, value=v) for k, v in decoration.properties],
                constraints=list(decoration.constraints),
            ).to_json()
        )

    async def accounts(_: Me) -> JSONResponse:
        return JSONResponse(
            [
                rest.Account(
                    platform=a.platform,
                    address=a.address,
                    driver=a.driver,
                    network=a.network,
                    token=a.token,
                    send=True,
                    receive=True,
                ).to_json()
                for a in service.accounts()
            ]
        )

    router.add_api_route("/requestorAccounts", accounts, methods=["GET"], name="requestor_accounts")
    router.add_api_route("/providerAccounts", accounts, methods=["GET"], name="provider_accounts")


def _add_documents(router: APIRouter, service: PaymentService, kind: DocumentKind, path: str) -> None:
    """The calls that debit notes and invoices have alike."""

    async def list_documents(me: Me, after: After = None, max_items: MaxItems = None) -> JSONResponse:
        found = await service.list_documents(kind, after=_seconds(after), limit=max_items)
        return JSONResponse([document_json(s, me.address) for s in found])

    async def get_document(document_id: str, me: Me) -> JSONResponse:
        return JSONResponse(document_json(await service.document(kind, document_id), me.address))

    async def accept(document_id: str, body: rest.Acceptance, _: Me) -> JSONResponse:
        await service.documents.accept(
            kind,
            document_id,
            amount=parse_amount(body.total_amount_accepted, what="totalAmountAccepted"),
            allocation_id=AllocationId(body.allocation_id),
        )
        return JSONResponse(None)

    async def reject(document_id: str, body: rest.Rejection, _: Me) -> JSONResponse:
        await service.documents.reject(kind, document_id, code=body.rejection_reason, message=body.message or "")
        return JSONResponse(None)

    async def send(document_id: str, _: Me) -> JSONResponse:
        await service.documents.send(kind, document_id)
        return JSONResponse(None)

    async def cancel(document_id: str, _: Me) -> JSONResponse:
        await service.documents.cancel(kind, document_id)
        return JSONResponse(None)

    async def events(
        request: Request,
        _: Me,
        after: After = None,
        timeout: Timeout = limits.DEFAULT_LONG_POLL_S,
        max_events: Annotated[int, Query(ge=1, le=10_000, alias="maxEvents")] = limits.MAX_POLL_EVENTS,
        app_session_id: Annotated[str | None, Query(alias="appSessionId")] = None,
        requestor_events: Annotated[str | None, Header(alias="X-Requestor-Events")] = None,
        provider_events: Annotated[str | None, Header(alias="X-Provider-Events")] = None,
    ) -> JSONResponse:
        asked = {Side.PAYER: wanted_types(requestor_events), Side.PAYEE: wanted_types(provider_events)}
        types = {side: DEFAULT_EVENT_TYPES[side] if names is None else names for side, names in asked.items()}
        found = await poll(
            request,
            lambda: service.events(
                kind,
                after_us=_after_us(after),
                limit=max_events,
                timeout_s=timeout,
                session_id=app_session_id,
                types=types,
            ),
        )
        return JSONResponse([event_json(e) for e in found])

    for method, suffix, endpoint in (
        ("GET", "s", list_documents),
        ("GET", "s/{document_id}", get_document),
        ("POST", "s/{document_id}/accept", accept),
        ("POST", "s/{document_id}/reject", reject),
        ("POST", "s/{document_id}/send", send),
        ("POST", "s/{document_id}/cancel", cancel),
        ("GET", "Events", events),
    ):
        router.add_api_route(f"/{path}{suffix}", endpoint, methods=[method], name=f"{path}_{endpoint.__name__}")


def _add_issuing(router: APIRouter, service: PaymentService) -> None:
    @router.post("/debitNotes", status_code=201)
    async def issue_debit_note(body: rest.NewDebitNote, me: Me) -> JSONResponse:
        agreement_id = body.agreement_id or await service.documents.agreement_of(ActivityId(body.activity_id))
        stored = await service.documents.issue_debit_note(
            AgreementId(agreement_id),
            ActivityId(body.activity_id),
            parse_amount(body.total_amount_due, what="totalAmountDue"),
            usage=body.usage_counter_vector or [],
            due_at=_seconds(body.payment_due_date),
            document_id=DocumentId(body.debit_note_id) if body.debit_note_id else None,
        )
        return JSONResponse(document_json(stored, me.address), 201)

    @router.post("/invoices", status_code=201)
    async def issue_invoice(body: rest.NewInvoice, me: Me) -> JSONResponse:
        stored = await service.documents.issue_invoice(
            AgreementId(body.agreement_id),
            parse_amount(body.amount, what="amount"),
            activity_ids=[ActivityId(a) for a in body.activity_ids or []],
            due_at=_seconds(body.payment_due_date),
            document_id=DocumentId(body.invoice_id) if body.invoice_id else None,
        )
        return JSONResponse(document_json(stored, me.address), 201)


def _add_payments(router: APIRouter, service: PaymentService) -> None:
    @router.get("/payments")
    async def list_payments(me: Me, after: After = None, max_items: MaxItems = None) -> JSONResponse:
        found = await service.payments(after=_seconds(after), limit=max_items)
        return JSONResponse([payment_json(s, me.address) for s in found])

    @router.get("/status")
    async def status(_: Me) -> JSONResponse:
        """golemp2p's own: what settlement is doing."""
        return JSONResponse(
            [
                rest.PlatformStatus(
                    platform=s.platform,
                    owed=format_amount(s.owed),
                    in_flight=s.in_flight,
                    problem=s.problem or None,
                ).to_json()
                for s in await service.status()
            ]
        )

    @router.get("/balances")
    async def balances(_: Me) -> JSONResponse:
        """golemp2p's own: what the account holds on each platform."""
        return JSONResponse(
            [
                rest.Balance(
                    platform=b.account.platform,
                    address=b.account.address,
                    amount=None if b.tokens is None else format_amount(b.tokens),
                    gas=None if b.gas_wei is None else format_amount(b.gas_wei),
                    problem=b.problem or None,
                ).to_json()
                for b in await service.balances()
            ]
        )
