"""/payment-api/v1: allocations, debit notes, invoices, events, payments (yagna-rest §1.4; protocols/rest/README.md)."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query
from starlette.requests import Request
from starlette.responses import JSONResponse

from golemp2p import limits
from golemp2p.api.allocations import add_allocations
from golemp2p.api.longpoll import Timeout, poll
from golemp2p.api.moments import Moment, microseconds_of, moment_of, moment_of_us, seconds_of
from golemp2p.api.openapi import NULL, answers
from golemp2p.api.shapes import Me
from golemp2p.core.ids import ActivityId, AgreementId, AllocationId, DocumentId
from golemp2p.core.money import format_amount, parse_amount
from golemp2p.core.payment import DocumentKind, Side
from golemp2p.core.peer import address_of
from golemp2p.errors import NotFoundError
from golemp2p.payment.service import DEFAULT_EVENT_TYPES, EVENT_TYPES, PaymentService
from golemp2p.storage.payment import PaymentEvent, StoredDocument
from golemp2p.storage.payment_notices import StoredPayment
from golemp2p.wire.rest import payment as rest

_KINDS: Final = (("gas", "InsufficientGas"), ("fee", "TxStuck"), ("chain id", "InvalidChainId"), ("sign", "CantSign"))
MaxItems = Annotated[int | None, Query(ge=1, alias="maxItems")]
MaxEvents = Annotated[int, Query(ge=1, alias="maxEvents")]
_CHAIN_TIMEOUT_S: Final = limits.ALLOCATION_CHECK_TIMEOUT_S
ChainTimeout = Annotated[float, Query(ge=0, le=_CHAIN_TIMEOUT_S)]
After = Annotated[Moment | None, Query(alias="afterTimestamp")]


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
            timestamp=moment_of(d.issued_at_ms / 1000),
            agreement_id=d.agreement_id,
            activity_id=d.activity_id,
            total_amount_due=format_amount(d.amount),
            usage_counter_vector=d.usage_vector,
            payment_due_date=moment_of(d.due_at_ms / 1000) if d.due_at_ms else None,
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
        timestamp=moment_of(d.issued_at_ms / 1000),
        agreement_id=d.agreement_id,
        activity_ids=list(d.activity_ids),
        amount=format_amount(d.amount),
        payment_due_date=moment_of(d.due_at_ms / 1000),
        status=stored.state,
        status_reason=stored.reason or None,
    ).to_json()


def event_json(event: PaymentEvent) -> dict[str, Any]:
    invoice = event.kind is DocumentKind.INVOICE
    rejection = event.detail.get("rejection")
    return rest.PaymentEvent(
        event_type=f"{'Invoice' if invoice else 'DebitNote'}{event.type}Event",
        event_date=moment_of_us(event.date_us),
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
        timestamp=moment_of(stored.stored_at),
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


def make_router(service: PaymentService) -> APIRouter:
    router = APIRouter(prefix="/payment-api/v1", tags=["payment"])
    add_allocations(router, service)
    for kind, path in ((DocumentKind.DEBIT_NOTE, "debitNote"), (DocumentKind.INVOICE, "invoice")):
        _add_documents(router, service, kind, path)
    _add_issuing(router, service)
    _add_payments(router, service)
    return router


def _add_documents(router: APIRouter, service: PaymentService, kind: DocumentKind, path: str) -> None:
    """The calls that debit notes and invoices have alike."""

    async def list_documents(me: Me, after: After = None, max_items: MaxItems = None) -> JSONResponse:
        found = await service.list_documents(kind, after=seconds_of(after), limit=max_items)
        return JSONResponse([document_json(s, me.address) for s in found])

    async def document_payments(
        document_id: str, me: Me, after: After = None, max_items: MaxItems = None
    ) -> JSONResponse:
        await service.document(kind, document_id)
        found = await service.payments(document_id=document_id, after=seconds_of(after), limit=max_items)
        return JSONResponse([payment_json(s, me.address) for s in found])

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
        max_events: MaxEvents = limits.MAX_POLL_EVENTS,
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
                after_us=microseconds_of(after),
                limit=min(max_events, limits.MAX_LISTED),
                timeout_s=timeout,
                session_id=app_session_id,
                types=types,
            ),
        )
        return JSONResponse([event_json(e) for e in found])

    model: Any = rest.DebitNote if kind is DocumentKind.DEBIT_NOTE else rest.Invoice
    at, done = "s/{document_id}", {200: NULL}
    routes: tuple[tuple[str, str, Callable[..., Any], Any, dict[int | str, dict[str, Any]]], ...] = (
        ("GET", "s", list_documents, list[model], {}),
        ("GET", at, get_document, model, answers(404)),
        ("GET", f"{at}/payments", document_payments, list[rest.Payment], answers(404)),
        ("POST", f"{at}/accept", accept, None, answers(404, 409, 410, ok=done)),
        ("POST", f"{at}/reject", reject, None, answers(404, 409, 410, ok=done)),
        ("POST", f"{at}/send", send, None, answers(404, 409, 410, ok=done)),
        ("POST", f"{at}/cancel", cancel, None, answers(404, 409, 410, ok=done)),
        ("GET", "Events", events, list[rest.PaymentEvent], {}),
    )
    for method, suffix, endpoint, answer, responses in routes:
        router.add_api_route(
            f"/{path}{suffix}",
            endpoint,
            methods=[method],
            name=f"{path}_{endpoint.__name__}",
            response_model=answer,
            responses=responses,
        )


def _add_issuing(router: APIRouter, service: PaymentService) -> None:
    @router.post("/debitNotes", status_code=201, response_model=rest.DebitNote, responses=answers(404, 409, 410))
    async def issue_debit_note(body: rest.NewDebitNote, me: Me) -> JSONResponse:
        agreement_id = body.agreement_id or await service.documents.agreement_of(ActivityId(body.activity_id))
        stored = await service.documents.issue_debit_note(
            AgreementId(agreement_id),
            ActivityId(body.activity_id),
            parse_amount(body.total_amount_due, what="totalAmountDue"),
            usage=body.usage_counter_vector or [],
            due_at=seconds_of(body.payment_due_date),
            document_id=DocumentId(body.debit_note_id) if body.debit_note_id else None,
        )
        return JSONResponse(document_json(stored, me.address), 201)

    @router.post("/invoices", status_code=201, response_model=rest.Invoice, responses=answers(404, 409, 410))
    async def issue_invoice(body: rest.NewInvoice, me: Me) -> JSONResponse:
        stored = await service.documents.issue_invoice(
            AgreementId(body.agreement_id),
            parse_amount(body.amount, what="amount"),
            activity_ids=[ActivityId(a) for a in body.activity_ids or []],
            due_at=seconds_of(body.payment_due_date),
            document_id=DocumentId(body.invoice_id) if body.invoice_id else None,
        )
        return JSONResponse(document_json(stored, me.address), 201)


def _add_payments(router: APIRouter, service: PaymentService) -> None:
    @router.get("/payments", response_model=list[rest.Payment])
    async def list_payments(
        request: Request,
        me: Me,
        timeout: Timeout = limits.DEFAULT_LONG_POLL_S,
        after: After = None,
        max_events: Annotated[int | None, Query(ge=1, alias="maxEvents")] = None,
        max_items: MaxItems = None,
        app_session_id: Annotated[str | None, Query(alias="appSessionId")] = None,
        network: str | None = None,
        driver: str | None = None,
    ) -> JSONResponse:
        """Made and received, oldest first; waits for one."""
        found = await poll(
            request,
            lambda: service.payments(
                after=seconds_of(after),
                limit=min(max_events or limits.MAX_LISTED, max_items or limits.MAX_LISTED),
                timeout_s=timeout,
                session_id=app_session_id,
                network=network,
                driver=driver,
            ),
        )
        return JSONResponse([payment_json(s, me.address) for s in found])

    @router.get("/payments/status", response_model=list[rest.DriverStatus], responses=answers(404))
    async def driver_status(_: Me, network: str | None = None, driver: str | None = None) -> JSONResponse:
        """What keeps payments from going on; an empty list is good news."""
        accounts = {
            a.platform: a for a in service.accounts() if network in (None, a.network) and driver in (None, a.driver)
        }
        if not accounts and (network is not None or driver is not None):
            raise NotFoundError(f"no payment platform has driver {driver or '*'} and network {network or '*'}")
        return JSONResponse(
            [
                rest.DriverStatus(
                    kind=_kind_of(s.problem),
                    driver=accounts[s.platform].driver,
                    network=accounts[s.platform].network,
                    message=s.problem,
                ).to_json()
                for s in await service.status()
                if s.problem and s.platform in accounts
            ]
        )

    @router.get("/payments/{payment_id}", response_model=rest.Payment, responses=answers(404))
    async def get_payment(payment_id: str, me: Me) -> JSONResponse:
        found = await service.payments(payment_id=payment_id)
        if not found:
            raise NotFoundError(f"payment {payment_id[:80]} is unknown")
        return JSONResponse(payment_json(found[0], me.address))

    @router.get("/status", response_model=list[rest.PlatformStatus])
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

    @router.get("/balances", response_model=list[rest.Balance])
    async def balances(_: Me, timeout: ChainTimeout = _CHAIN_TIMEOUT_S, network: str | None = None) -> JSONResponse:
        """golemp2p's own: what the account holds on each platform; ``timeout``: how long a chain may take to say so."""
        return JSONResponse(
            [
                rest.Balance(
                    platform=b.account.platform,
                    address=b.account.address,
                    amount=None if b.tokens is None else format_amount(b.tokens),
                    gas=None if b.gas_wei is None else format_amount(b.gas_wei),
                    problem=b.problem or None,
                ).to_json()
                for b in await service.balances(timeout_s=timeout, network=network)
            ]
        )


def _kind_of(problem: str) -> str:
    """yagna's word for it, as near as they come: clients show it, none decides by it."""
    text = problem.lower()
    return next((kind for word, kind in _KINDS if word in text), "RpcError")
