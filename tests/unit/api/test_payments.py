"""What §1.4 leaves to the reference: lists with bounds, payments, statuses, what is refused."""

from __future__ import annotations

import httpx
import pytest
import trio

from golemp2p.core.payment import DocumentState
from tests.unit.payment.test_rest import body, good, open_clients
from tests.unit.payment.test_service import INVOICE, reaches
from tests.unit.payment.world import PLATFORM, World


async def paid(world: World, r: httpx.AsyncClient, p: httpx.AsyncClient) -> str:
    """The invoice's id, once it is settled."""
    allocation = (await good(await r.post("/allocations", json=body(world)), 201))["allocationId"]
    invoice = await good(await p.post("/invoices", json={"agreementId": "ag1", "amount": "0.75"}), 201)
    await good(await p.post(f"/invoices/{invoice['invoiceId']}/send"))
    await good(await r.get("/invoiceEvents", params={"timeout": 5}))
    acceptance = {"totalAmountAccepted": "0.75", "allocationId": allocation}
    await good(await r.post(f"/invoices/{invoice['invoiceId']}/accept", json=acceptance))
    await reaches(world.provider, INVOICE, invoice["invoiceId"], DocumentState.SETTLED)
    return str(invoice["invoiceId"])


async def test_payments_are_waited_for_and_found_by_id_document_network_and_session(autojump_clock: object) -> None:
    async with open_clients() as (world, r, p):
        started = trio.current_time()
        assert await good(await p.get("/payments", params={"timeout": 3})) == []
        assert trio.current_time() - started == pytest.approx(3, abs=0.1)
        invoice = await paid(world, r, p)
        (payment,) = await good(await p.get("/payments"))
        for params in ({"network": "local"}, {"driver": "erc20"}, {"maxEvents": 1}, {"maxItems": 1}):
            assert await good(await p.get("/payments", params=params)) == [payment]
        for params in ({"network": "mars"}, {"driver": "other"}, {"afterTimestamp": payment["timestamp"]}):
            assert await good(await p.get("/payments", params={**params, "timeout": 0})) == []
        # The session is the requestor's; it gave it when it confirmed the agreement.
        (sent,) = await good(await r.get("/payments", params={"appSessionId": "session-1"}))
        assert sent["documentIds"] == [invoice]
        assert await good(await r.get("/payments", params={"appSessionId": "other", "timeout": 0})) == []
        assert await good(await p.get(f"/payments/{payment['paymentId']}")) == payment
        assert await good(await p.get(f"/invoices/{invoice}/payments")) == [payment]
        assert (await p.get("/payments/none")).status_code == 404
        assert (await p.get("/invoices/none/payments")).status_code == 404
        assert (await p.get("/debitNotes/none/payments")).status_code == 404


async def test_a_poll_for_payments_ends_with_the_payment(autojump_clock: object) -> None:
    async with open_clients() as (world, r, p):
        found: list[object] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                found.extend(await good(await r.get("/payments", params={"timeout": 300})))

            await paid(world, r, p)
        assert len(found) == 1


async def test_documents_are_listed_after_a_moment_and_up_to_a_count(autojump_clock: object) -> None:
    async with open_clients() as (_, r, p):
        dates = []
        for number in (1, 2, 3):
            note = {"activityId": "ac1", "agreementId": "ag1", "totalAmountDue": f"0.{number}"}
            made = await good(await p.post("/debitNotes", json=note), 201)
            dates.append(made["timestamp"])
            await trio.sleep(1)
        later = await good(await p.get("/debitNotes", params={"afterTimestamp": dates[0]}))
        assert [n["totalAmountDue"] for n in later] == ["0.2", "0.3"]
        assert len(await good(await p.get("/debitNotes", params={"maxItems": 2}))) == 2
        assert await good(await p.get("/debitNotes", params={"afterTimestamp": dates[2]})) == []
        assert await good(await r.get("/debitNotes")) == []


async def test_allocations_are_listed_after_a_moment(autojump_clock: object) -> None:
    async with open_clients() as (world, r, _):
        made = []
        for _number in range(3):
            made.append(await good(await r.post("/allocations", json=body(world, totalAmount=1)), 201))
            await trio.sleep(1)
        after = {"afterTimestamp": made[0]["timestamp"]}
        assert await good(await r.get("/allocations", params=after)) == made[1:]
        assert await good(await r.get("/allocations", params={**after, "maxItems": 1})) == made[1:2]
        unescaped = made[0]["timestamp"].replace("Z", "+00:00")
        assert await good(await r.get(f"/allocations?afterTimestamp={unescaped}")) == made[1:]


@pytest.mark.parametrize("total", [2, 2.0, "2", "2.000", "2e0"], ids=["int", "float", "text", "zeros", "exponent"])
async def test_a_budget_may_be_a_number_or_text(total: object, autojump_clock: object) -> None:
    async with open_clients() as (world, r, _):
        made = await good(await r.post("/allocations", json=body(world, totalAmount=total, extra={"x": 1})), 201)
        assert made["totalAmount"] == "2"


async def test_what_is_missing_or_ended_is_told_by_its_status(autojump_clock: object) -> None:
    async with open_clients() as (world, r, _):
        made = await good(await r.post("/allocations", json=body(world)), 201)
        path = f"/allocations/{made['allocationId']}"
        assert (await r.put(path, json={"timeout": "2001-01-01T00:00:00Z"})).status_code == 400
        assert (await r.put(path, json={"totalAmount": "x"})).status_code == 400
        deposit = {"id": "1", "contract": "0x" + "1" * 40}
        unknown = await r.post("/allocations", json=body(world, deposit=deposit))
        assert unknown.status_code == 400
        assert "is not the deposit contract" in unknown.json()["message"]
        validated = {"deposit": {**deposit, "validate": {"flatFeeAmount": "1"}}}
        for answer in (
            await r.put(path, json=validated),
            await r.post("/allocations", json=body(world, **validated)),
        ):
            assert answer.status_code == 501
            assert "deposit.validate is not supported" in answer.json()["message"]
        await good(await r.delete(path))
        for answer, status in (
            (await r.delete(path), 410),
            (await r.put(path, json={}), 404),
            (await r.get(path), 404),
        ):
            assert answer.status_code == status
            assert "is released" in answer.json()["message"]
        gone = await r.get("/demandDecorations", params={"allocationIds": made["allocationId"]})
        assert gone.status_code == 410
        assert (await r.get("/demandDecorations", params={"allocationIds": "none"})).status_code == 404
        assert (await r.get("/demandDecorations")).status_code == 400


async def test_the_drivers_status_is_empty_when_all_is_well(autojump_clock: object) -> None:
    async with open_clients() as (_, r, _p):
        assert await good(await r.get("/payments/status")) == []
        network = PLATFORM.split("-")[1]
        assert await good(await r.get("/payments/status", params={"network": network, "driver": "erc20"})) == []
        assert (await r.get("/payments/status", params={"network": "mars"})).status_code == 404
