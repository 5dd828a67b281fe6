"""/payment-api/v1 as agents see it: yagna's shapes and status codes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

from golemp2p.api.app import make_app
from golemp2p.api.auth import AppKey, AppKeys
from golemp2p.api.payment import make_router, wanted_types
from golemp2p.core.payment import DocumentState
from golemp2p.payment.service import EVENT_TYPES
from tests.unit.payment.test_service import INVOICE, reaches
from tests.unit.payment.world import ACTIVITY, PLATFORM, Node, World, open_world


def client_of(node: Node) -> httpx.AsyncClient:
    keys = AppKeys([AppKey("agent", "k")])
    app = make_app([make_router(node.service)], keys=keys, address=node.key.address)
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://127.0.0.1/payment-api/v1",
        headers={"Authorization": "Bearer k"},
        timeout=None,
    )


@asynccontextmanager
async def open_clients() -> AsyncIterator[tuple[World, httpx.AsyncClient, httpx.AsyncClient]]:
    async with open_world() as world, client_of(world.requestor) as r, client_of(world.provider) as p:
        yield world, r, p


def body(world: World, **changes: object) -> dict[str, object]:
    """As yapapi sends it, with its empty placeholders."""
    return {
        "allocationId": "",
        "address": world.requestor.key.address,
        "paymentPlatform": PLATFORM,
        "totalAmount": "10",
        "spentAmount": "",
        "remainingAmount": "",
        "timestamp": "2026-11-22T01:02:03.000004+00:00",
        "timeout": "2036-11-22T01:02:03Z",
        "makeDeposit": False,
        **changes,
    }


async def good(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


async def test_an_allocation_lives_as_the_clients_expect(autojump_clock: object) -> None:
    async with open_clients() as (world, r, _):
        made = await good(await r.post("/allocations", params={"maxItems": 10}, json=body(world)), 201)
        assert made["totalAmount"] == made["remainingAmount"] == "10"
        assert made["spentAmount"] == "0"
        assert (made["address"], made["paymentPlatform"]) == (world.requestor.key.address, PLATFORM)
        assert {"allocationId", "timestamp", "timeout", "makeDeposit"} <= set(made)
        path = f"/allocations/{made['allocationId']}"
        assert await good(await r.get(path)) == made
        assert await good(await r.get("/allocations")) == [made]
        amended = await good(await r.put(path, json={"totalAmount": 12.5}))
        assert amended["totalAmount"] == "12.5"
        assert await good(await r.delete(path)) is None
        assert (await r.get(path)).status_code == 404  # as in yagna; golem-core knows no other status here
        assert (await r.delete(path)).status_code == 410
        assert (await r.delete("/allocations/unknown")).status_code == 404


async def test_a_platform_may_be_given_by_parts_or_left_out(autojump_clock: object) -> None:
    async with open_clients() as (world, r, _):
        for platform in ({"driver": "erc20", "network": "local", "token": "tglm"}, {"network": "local"}, None):
            made = await good(await r.post("/allocations", json=body(world, paymentPlatform=platform)), 201)
            assert made["paymentPlatform"] == PLATFORM
        refused = await r.post("/allocations", json=body(world, paymentPlatform="erc20-mars-glm"))
        assert refused.status_code == 400
        assert refused.json()["message"] == (
            "payment platform 'erc20-mars-glm' is not configured here (one of: erc20-local-tglm)"
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"totalAmount": "1000"}, "900 more is needed"),
        ({"totalAmount": "x"}, "totalAmount 'x' is not a decimal number"),
        ({"totalAmount": "-1"}, "zero or more"),
        ({"address": "0x" + "00" * 20}, "no key of"),
        ({"timeout": "2001-01-01T00:00:00Z"}, "in the past"),
    ],
)
async def test_bad_allocations_are_answered_with_400_and_a_reason(
    changes: dict[str, object], message: str, autojump_clock: object
) -> None:
    async with open_clients() as (world, r, _):
        refused = await r.post("/allocations", json=body(world, **changes))
        assert refused.status_code == 400
        assert message in refused.json()["message"]


async def test_decorations_are_flat_and_accounts_have_the_required_fields(autojump_clock: object) -> None:
    async with open_clients() as (world, r, _):
        made = await good(await r.post("/allocations", json=body(world)), 201)
        decoration = await good(await r.get("/demandDecorations", params={"allocationIds": made["allocationId"]}))
        assert decoration == {
            "properties": [
                {"key": f"golem.com.payment.platform.{PLATFORM}.address", "value": world.requestor.key.address},
                {"key": "golem.com.payment.protocol.version", "value": "3"},
                {"key": "golem.!exp.golemp2p.allocations", "value": made["allocationId"]},
            ],
            "constraints": [
                f"(golem.com.payment.platform.{PLATFORM}.address=*)",
                "(golem.com.payment.protocol.version>1)",
            ],
        }
        for path in ("/requestorAccounts", "/providerAccounts"):
            (account,) = await good(await r.get(path))
            assert set(account) == {"platform", "address", "driver", "network", "token", "send", "receive"}


async def test_a_bill_is_issued_sent_accepted_and_paid_over_rest(autojump_clock: object) -> None:
    async with open_clients() as (world, r, p):
        allocation = (await good(await r.post("/allocations", json=body(world)), 201))["allocationId"]
        note = await good(
            await p.post(
                "/debitNotes",
                json={
                    "agreementId": "ag1",
                    "activityId": ACTIVITY,
                    "totalAmountDue": "0.5",
                    "usageCounterVector": [1.5, 0],
                },
            ),
            201,
        )
        assert note["usageCounterVector"] == [1.5, 0.0]
        assert note["status"] == "ISSUED"
        assert note["issuerId"] == note["payeeAddr"] == world.provider.key.address
        assert await good(await p.post(f"/debitNotes/{note['debitNoteId']}/send")) is None
        (event,) = await good(await r.get("/debitNoteEvents", params={"timeout": 5}))
        assert event["eventType"] == "DebitNoteReceivedEvent"
        assert event["debitNoteId"] == note["debitNoteId"]
        invoice = await good(
            await p.post("/invoices", json={"agreementId": "ag1", "activityIds": [ACTIVITY], "amount": "0.75"}), 201
        )
        await good(await p.post(f"/invoices/{invoice['invoiceId']}/send"))
        (event,) = await good(await r.get("/invoiceEvents", params={"timeout": 5, "appSessionId": "session-1"}))
        seen = await good(await r.get(f"/invoices/{event['invoiceId']}"))
        assert seen["status"] == "RECEIVED"
        assert (seen["amount"], seen["recipientId"]) == ("0.75", world.requestor.key.address)
        wrong = await r.post(
            f"/invoices/{event['invoiceId']}/accept", json={"totalAmountAccepted": "1", "allocationId": allocation}
        )
        assert wrong.status_code == 400
        for _ in range(2):
            accepted = await r.post(
                f"/invoices/{event['invoiceId']}/accept",
                params={"timeout": 5},
                json={"totalAmountAccepted": "0.750", "allocationId": allocation},
            )
            assert await good(accepted) is None
        await reaches(world.provider, INVOICE, event["invoiceId"], DocumentState.SETTLED)
        (payment,) = await good(await p.get("/payments"))
        assert payment["amount"] == "0.75"
        assert payment["agreementPayments"] == [{"agreementId": "ag1", "amount": "0.75"}]
        assert payment["status"] == "confirmed"
        (status,) = await good(await r.get("/status"))
        assert status == {"platform": PLATFORM, "owed": "0", "inFlight": 0}
        (balance,) = await good(await p.get("/balances"))
        assert balance["amount"] == "0.75"
        # The last date, echoed verbatim, brings nothing twice.
        events = await good(await p.get("/invoiceEvents"))
        assert [e["eventType"] for e in events] == ["InvoiceAcceptedEvent", "InvoiceSettledEvent"]
        later = {"afterTimestamp": events[0]["eventDate"], "timeout": 0}
        assert await good(await p.get("/invoiceEvents", params=later)) == events[1:]
        later = {"afterTimestamp": events[1]["eventDate"], "timeout": 0}
        assert await good(await p.get("/invoiceEvents", params=later)) == []
        everything = await r.get("/invoiceEvents", headers={"X-Requestor-Events": "RECEIVED,InvoiceSettledEvent"})
        assert [e["eventType"] for e in await good(everything)] == ["InvoiceReceivedEvent", "InvoiceSettledEvent"]


async def test_unknown_documents_are_404_and_rejections_are_stored(autojump_clock: object) -> None:
    async with open_clients() as (world, r, p):
        assert (await r.get("/invoices/none")).status_code == 404
        assert (await r.get("/debitNotes/none")).status_code == 404
        invoice = await good(await p.post("/invoices", json={"agreementId": "ag1", "amount": "0.75"}), 201)
        await good(await p.post(f"/invoices/{invoice['invoiceId']}/send"))
        await good(await r.get("/invoiceEvents", params={"timeout": 5}))
        rejection = {"rejectionReason": "BAD_SERVICE", "totalAmountAccepted": "0.00", "message": "no"}
        await good(await r.post(f"/invoices/{invoice['invoiceId']}/reject", json=rejection))
        await reaches(world.provider, INVOICE, invoice["invoiceId"], DocumentState.REJECTED)
        assert (await good(await p.get(f"/invoices/{invoice['invoiceId']}")))["statusReason"] == "BAD_SERVICE: no"
        (event,) = await good(await p.get("/invoiceEvents"))
        assert event["rejection"]["message"] == "no"


async def test_an_empty_long_poll_lasts_as_long_as_asked(autojump_clock: object) -> None:
    async with open_clients() as (_, r, _p):
        start = trio.current_time()
        assert await good(await r.get("/invoiceEvents", params={"timeout": 2.5})) == []
        assert trio.current_time() - start == pytest.approx(2.5, abs=0.05)


def test_role_headers_take_short_and_long_names() -> None:
    assert wanted_types(None) is None
    assert wanted_types("RECEIVED, DebitNoteAcceptedEvent,PaymentOkEvent") == frozenset({"Received", "Accepted"})
    assert wanted_types("all") == EVENT_TYPES
    assert wanted_types("") == frozenset()
