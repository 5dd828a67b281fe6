"""Calls of yagna that golemp2p does not have: 501, with what to use instead. No client of §9 of the research makes one.

Whoever tries one by hand is told more than "not found".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

from fastapi import APIRouter, Depends
from starlette.exceptions import HTTPException

from golemp2p.api.auth import current_caller
from golemp2p.api.openapi import UNSUPPORTED_TAG, answers

_SETTLEMENT: Final = (
    "batches are the node's own: GET /golemp2p/v1/payment/status shows them, POST /golemp2p/v1/payment/settle pays now"
)
_DOCUMENTS: Final = "GET /payment-api/v1/debitNotes, /invoices and /payments have what there is"
_QUERIES: Final = "property queries are not supported: an offer says all that it has"

CALLS: Final[tuple[tuple[str, str, str], ...]] = (
    ("POST", "/market-api/v1/demands/{subscription}/propertyQuery/{query}", _QUERIES),
    ("POST", "/market-api/v1/offers/{subscription}/propertyQuery/{query}", _QUERIES),
    ("PUT", "/activity-api/v1/activity/{activity_id}/state", "the node itself runs activities and sets their states"),
    ("POST", "/activity-api/v1/activity/{activity_id}/encrypted", "this needs SGX, which no runtime here has"),
    ("GET", "/activity-api/v1/activity/{activity_id}/proxy-http/{url:path}", "use a VPN: POST /net-api/v1/net"),
    ("POST", "/activity-api/v1/activity/{activity_id}/proxy-http/{url:path}", "use a VPN: POST /net-api/v1/net"),
    ("GET", "/payment-api/v1/allocations/{allocation_id}/orders", _SETTLEMENT),
    ("GET", "/payment-api/v1/allocations/{allocation_id}/expenditures", _DOCUMENTS),
    ("GET", "/payment-api/v1/batchOrders", _SETTLEMENT),
    ("GET", "/payment-api/v1/batchOrders/{rest:path}", _SETTLEMENT),
    ("GET", "/payment-api/v1/batchCycles", _SETTLEMENT),
    ("POST", "/payment-api/v1/batchCycle", _SETTLEMENT),
    ("GET", "/payment-api/v1/batchCycle/{platform}", _SETTLEMENT),
    ("POST", "/payment-api/v1/batchCycle/{platform}/now", _SETTLEMENT),
    ("GET", "/payment-api/v1/payActivities", _DOCUMENTS),
    ("GET", "/payment-api/v1/payActivities/{rest:path}", _DOCUMENTS),
    ("GET", "/payment-api/v1/payAgreements", _DOCUMENTS),
    ("GET", "/payment-api/v1/payAgreements/{rest:path}", _DOCUMENTS),
)


def make_router() -> APIRouter:
    router = APIRouter(tags=[UNSUPPORTED_TAG], dependencies=[Depends(current_caller)])
    for number, (method, path, instead) in enumerate(CALLS):
        router.add_api_route(
            path,
            _refusal(method, path, instead),
            methods=[method],
            name=f"not_supported_{number}",
            response_model=None,
            responses=answers(501),
            description=f"Not supported: {instead}.",
        )
    return router


def _refusal(method: str, path: str, instead: str) -> Callable[..., Any]:
    async def refuse() -> NoReturn:
        raise HTTPException(501, f"{method} {path} is not supported by golemp2p: {instead}")

    return refuse
