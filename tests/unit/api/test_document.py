"""protocols/rest/README.md names every call that the node has, and every call that yagna has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import WebSocketRoute

from golemp2p.api import activity, files, gsb, images, market, net, node, payment, remote, scans, unsupported, wallet

DOCUMENT = (Path(__file__).parents[3] / "protocols" / "rest" / "README.md").read_text()
NOTHING = cast(Any, type("Service", (), {"__getattr__": lambda self, name: self})())  # routes are made, not called
PREFIXES = ("/market-api/v1", "/activity-api/v1", "/payment-api/v1", "/net-api/v1", "/net-api/v2/vpn")
ROUTERS: dict[str, APIRouter] = {
    **{m.__name__: m.make_router(NOTHING) for m in (market, scans, activity, payment, files, gsb, net, node, wallet)},
    remote.__name__: remote.make_router(NOTHING, NOTHING, NOTHING),
    images.__name__: images.make_router(NOTHING, ""),
    unsupported.__name__: unsupported.make_router(),
}


def calls(router: APIRouter) -> list[str]:
    found = []
    for route in router.routes:
        if isinstance(route, WebSocketRoute):
            continue
        assert isinstance(route, APIRoute)
        path = route.path
        for prefix in PREFIXES:
            path = path.removeprefix(prefix)
        found += [f"{method} {path}" for method in route.methods or ()]
    return found


@pytest.mark.parametrize("name", list(ROUTERS))
def test_every_route_is_in_the_document(name: str) -> None:
    for call in calls(ROUTERS[name]):
        assert f"`{call}`" in DOCUMENT


def test_every_call_of_the_document_is_a_route() -> None:
    """But for those of the routers that other tests look at."""
    known = {call for router in ROUTERS.values() for call in calls(router)}
    named = re.findall(r"`((?:GET|PUT|POST|DELETE|HEAD) /[^`?]*)`", DOCUMENT)
    assert not {call for call in named if call not in known}


# Method and path of all calls in yagna's market, activity, payment, identity and version APIs: its specifications and
# what its code has beyond them. Names in braces do not matter.
YAGNA = """
POST /scan, GET /scan/{}/events, DELETE /scan/{}, GET /offers, POST /offers, DELETE /offers/{}, GET
/offers/{}/events, POST /offers/{}/propertyQuery/{}, GET /offers/{}/proposals/{}, POST
/offers/{}/proposals/{}, POST /offers/{}/proposals/{}/reject, GET /demands, POST /demands, DELETE /demands/{},
GET /demands/{}/events, POST /demands/{}/propertyQuery/{}, GET /demands/{}/proposals/{}, POST
/demands/{}/proposals/{}, POST /demands/{}/proposals/{}/reject, GET /agreements, POST /agreements, GET
/agreements/{}, POST /agreements/{}/cancel, POST /agreements/{}/confirm, POST /agreements/{}/wait, GET
/agreementEvents, POST /agreements/{}/approve, POST /agreements/{}/reject, POST /agreements/{}/terminate, GET
/agreements/{}/terminate/reason, POST /activity, GET /activity, POST /activity/{}/exec, POST
/activity/{}/encrypted, GET /activity/{}/exec/{}, GET /activity/{}/agreement, DELETE /activity/{}, GET
/events, GET /activity/{}/state, PUT /activity/{}/state, GET /activity/{}/usage, GET /activity/{}/command, GET
/_monitor, GET /activity/{}/proxy-http/{}, POST /activity/{}/proxy-http/{}, POST /debitNotes, GET /debitNotes,
GET /debitNotes/{}, GET /debitNotes/{}/payments, POST /debitNotes/{}/send, POST /debitNotes/{}/cancel, GET
/debitNoteEvents, POST /debitNotes/{}/accept, POST /debitNotes/{}/reject, POST /invoices, GET /invoices, GET
/invoices/{}, GET /invoices/{}/payments, POST /invoices/{}/send, POST /invoices/{}/cancel, GET /invoiceEvents,
POST /invoices/{}/accept, POST /invoices/{}/reject, GET /providerAccounts, GET /requestorAccounts, POST
/allocations, GET /allocations, GET /allocations/{}, PUT /allocations/{}, DELETE /allocations/{}, GET
/allocations/{}/orders, GET /allocations/{}/expenditures, GET /payments, GET /payments/{}, GET
/payments/status, GET /demandDecorations, GET /batchOrders, GET /batchOrders/{}, GET /batchCycles, GET
/batchCycle/{}, POST /batchCycle, POST /batchCycle/{}/now, GET /payActivities, GET /payActivities/{}, GET
/payAgreements, GET /payAgreements/{}, GET /me, GET /version/get
"""


def test_every_call_of_yagna_has_a_route() -> None:
    ours = {re.sub(r"\{[^}]*\}", "{}", call) for router in ROUTERS.values() for call in calls(router)}
    theirs = {" ".join(call.split()) for call in YAGNA.split(",")}
    assert not theirs - ours
