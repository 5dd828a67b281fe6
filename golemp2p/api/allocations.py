"""Budgets and accounts of ``/payment-api/v1``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from golemp2p import limits
from golemp2p.api.moments import Moment, microseconds_of, moment_of, seconds_of
from golemp2p.api.openapi import NULL, answers
from golemp2p.api.shapes import Me
from golemp2p.core.ids import Address, AllocationId
from golemp2p.core.money import format_amount, parse_budget
from golemp2p.errors import GoneError, NotFoundError, UsageError
from golemp2p.payment.drivers.deposits import Deposit
from golemp2p.payment.service import PaymentService
from golemp2p.storage.payment import Allocation
from golemp2p.wire.rest import payment as rest


def allocation_json(a: Allocation) -> dict[str, Any]:
    return rest.Allocation(
        allocation_id=a.id,
        address=a.address,
        payment_platform=a.platform,
        total_amount=format_amount(a.total),
        spent_amount=format_amount(a.spent),
        remaining_amount=format_amount(a.remaining),
        timestamp=moment_of(a.created_at),
        timeout=None if a.timeout_at is None else moment_of(a.timeout_at),
        make_deposit=a.make_deposit,
        deposit=None if a.deposit is None else _deposit_json(Deposit.stored(a.deposit)),
    ).to_json()


def _deposit_json(deposit: Deposit) -> rest.Deposit:
    return rest.Deposit(id=f"{deposit.id:#x}", contract=deposit.contract)


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


@contextmanager
def _released_is_not_found() -> Iterator[None]:
    """Yagna has 410 for a second release only; golem-core reads 404 as "no longer there" and 410 as a failure."""
    try:
        yield
    except GoneError as exc:
        raise NotFoundError(exc.message, hint=exc.hint) from exc


def add_allocations(router: APIRouter, service: PaymentService) -> None:
    @router.post("/allocations", status_code=201, response_model=rest.Allocation, responses=answers(409, 501))
    async def create_allocation(body: rest.NewAllocation, _: Me) -> JSONResponse:
        if body.deposit is not None:
            _refuse_validation(body.deposit.validate_)
        allocation = await service.allocations.create(
            platform=_platform(service, body.payment_platform),
            total=parse_budget(body.total_amount, what="totalAmount"),
            address=Address(body.address.lower()) if body.address else None,
            timeout_at=seconds_of(body.timeout),
            make_deposit=body.make_deposit,
            allocation_id=AllocationId(body.allocation_id) if body.allocation_id else None,
            deposit=None if body.deposit is None else Deposit.parse(body.deposit.contract, body.deposit.id),
        )
        return JSONResponse(allocation_json(allocation), 201)

    @router.get("/allocations", response_model=list[rest.Allocation])
    async def list_allocations(
        _: Me,
        after: Annotated[Moment | None, Query(alias="afterTimestamp")] = None,
        max_items: Annotated[int | None, Query(ge=1, alias="maxItems")] = None,
    ) -> JSONResponse:
        after_us = microseconds_of(after)
        found = [
            a for a in await service.allocations.list_live() if microseconds_of(moment_of(a.created_at)) > after_us
        ]
        return JSONResponse([allocation_json(a) for a in found[: max_items or limits.MAX_LISTED]])

    @router.get("/allocations/{allocation_id}", response_model=rest.Allocation, responses=answers(404))
    async def get_allocation(allocation_id: str, _: Me) -> JSONResponse:
        with _released_is_not_found():
            return JSONResponse(allocation_json(await service.allocations.get(allocation_id)))

    @router.put("/allocations/{allocation_id}", response_model=rest.Allocation, responses=answers(404, 501))
    async def amend_allocation(allocation_id: str, body: rest.AllocationUpdate, _: Me) -> JSONResponse:
        if body.deposit is not None:
            _refuse_validation(body.deposit.validate_)
        total = None if body.total_amount is None else parse_budget(body.total_amount, what="totalAmount")
        timeout_at = seconds_of(body.timeout)
        if timeout_at is not None and timeout_at <= time.time():
            raise UsageError("the allocation's new timeout is in the past")
        with _released_is_not_found():
            amended = await service.allocations.amend(allocation_id, total=total, timeout_at=timeout_at)
        return JSONResponse(allocation_json(amended))

    @router.delete("/allocations/{allocation_id}", response_model=None, responses=answers(404, 410, ok={200: NULL}))
    async def release_allocation(allocation_id: str, _: Me) -> JSONResponse:
        await service.allocations.release(allocation_id)
        return JSONResponse(None)

    @router.get("/demandDecorations", response_model=rest.Decoration, responses=answers(404, 410))
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

    for role in ("requestor", "provider"):
        router.add_api_route(
            f"/{role}Accounts",
            accounts,
            methods=["GET"],
            name=f"{role}_accounts",
            response_model=list[rest.Account],
        )


def _refuse_validation(arguments: dict[str, Any] | None) -> None:
    if arguments:
        raise HTTPException(501, "deposit.validate is not supported: spender, amount and end are always checked")
