"""/golemp2p/v1/payment: the owner's own transactions, networks, and what settlement is doing in full.

What moves money by somebody's word alone is for the commands on the node's machine: any other app-key belongs to a
program, which pays by accepting bills within its budgets.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse

from golemp2p import limits
from golemp2p.api.auth import Caller
from golemp2p.api.longpoll import Timeout
from golemp2p.api.moments import moment_of
from golemp2p.api.node import CLI_KEY_NAME
from golemp2p.api.openapi import answers
from golemp2p.api.shapes import Me, listed
from golemp2p.core.money import Amount, format_amount, parse_amount
from golemp2p.errors import PolicyError
from golemp2p.payment.drivers.transactions import describe
from golemp2p.payment.endpoints import EndpointStatus
from golemp2p.payment.networks import GWEI, PaymentNetwork
from golemp2p.payment.service import PaymentService
from golemp2p.payment.settlement import Planned, PlatformStatus, SlotView
from golemp2p.payment.wallet import Movement
from golemp2p.storage.orders import Order
from golemp2p.storage.payment_overdue import OverdueBill
from golemp2p.wire.rest import wallet as rest

NetworkQuery = Annotated[str | None, Query(max_length=80)]
DryRun = Annotated[bool, Query(alias="dryRun", description="Only tell what would be sent")]
_CONTRACTS: Final = ("batch", "multi", "channels", "lock", "mint")


def make_router(service: PaymentService) -> APIRouter:
    router = APIRouter(prefix="/golemp2p/v1/payment", tags=["payment"])
    _add_views(router, service)
    _add_transactions(router, service)
    return router


def _add_views(router: APIRouter, service: PaymentService) -> None:
    wallet = service.wallet

    @router.get("/networks", response_model=list[rest.PaymentNetwork])
    async def networks(me: Me) -> JSONResponse:
        return listed([_network(view.network, view.endpoints, me.address) for view in wallet.networks()])

    @router.get("/status", response_model=list[rest.SettlementStatus])
    async def status(_: Me) -> JSONResponse:
        """From the node's database and memory: a chain that is down does not hold it up."""
        views = {view.network.platform: view.endpoints for view in wallet.networks()}
        bills = await service.overdue.bills()
        return listed([_status(s, views.get(s.platform, ()), bills) for s in await service.status()])

    @router.get("/history", response_model=list[rest.Movement], responses=answers(404))
    async def history(
        _: Me, network: NetworkQuery = None, limit: Annotated[int, Query(ge=1)] = limits.DEFAULT_SCAN_EVENTS
    ) -> JSONResponse:
        """Payments made and received and the owner's transactions, the newest last."""
        platform = None if network is None else wallet.platform(network)
        explorers = {view.network.platform: view.network.explorer for view in wallet.networks()}
        found = await wallet.history(platform=platform, limit=min(limit, limits.MAX_LISTED))
        return listed([_movement(m, explorers.get(m.platform, "")) for m in found])


def _add_transactions(router: APIRouter, service: PaymentService) -> None:
    wallet = service.wallet

    def network_of(platform: str) -> PaymentNetwork:
        return next(view.network for view in wallet.networks() if view.network.platform == platform)

    async def done(order: Order, me: Caller, dry_run: bool) -> JSONResponse:
        network = network_of(order.platform)
        if dry_run:
            return JSONResponse(_planned(await wallet.preview(order), network, me.address).to_json())
        if order.tokens:
            require_owner(me)
        return JSONResponse(_own(await wallet.place(order), network).to_json(), 201)

    created = answers(404, 408, 409, ok={201: {"model": rest.OwnTransaction}})

    @router.post("/transactions", response_model=rest.PlannedTransaction, responses=created)
    async def send(body: rest.NewTransaction, me: Me, dry_run: DryRun = False) -> JSONResponse:
        """Send tokens: 201 when it is ordered, 200 for a dry run."""
        amount = parse_amount(body.amount)
        return await done(wallet.send_order(wallet.platform(body.network), body.to, amount, body.key), me, dry_run)

    @router.post("/mint", response_model=rest.PlannedTransaction, responses=created)
    async def mint(body: rest.NewMint, me: Me, dry_run: DryRun = False) -> JSONResponse:
        """Test tokens for the node's account, where a network gives them away. Any app-key may ask for them."""
        amount = None if body.amount is None else parse_amount(body.amount)
        return await done(wallet.mint_order(wallet.platform(body.network), amount, body.key), me, dry_run)

    @router.get("/deployments", response_model=list[rest.Deployment], responses=answers(404, 408))
    async def deployments(_: Me, network: NetworkQuery = None) -> JSONResponse:
        """This node's own contracts on a chain: where they are, or would be."""
        found = await wallet.deployments(wallet.platform(network))
        return listed(
            [
                rest.Deployment(contract=d.kind, address=d.address, deployed=d.deployed, configured=d.configured)
                for d in found
            ]
        )

    @router.post("/deploy", response_model=rest.PlannedTransaction, responses=created)
    async def deploy(body: rest.NewDeployment, me: Me, dry_run: DryRun = False) -> JSONResponse:
        """Deploy one of them; the account pays the fee."""
        if not dry_run:
            require_owner(me)
        order = await wallet.deploy_order(wallet.platform(body.network), body.contract, body.key)
        return await done(order, me, dry_run)

    @router.get("/transactions/{key}", response_model=rest.OwnTransaction, responses=answers(404))
    async def transaction(key: str, _: Me, timeout: Timeout = 0.0) -> JSONResponse:
        """Waits until it is final or failed."""
        found = await wallet.order(key, timeout_s=timeout)
        return JSONResponse(_own(found, network_of(found.platform)).to_json())

    @router.delete("/transactions/{key}", response_model=rest.OwnTransaction, responses=answers(404, 409))
    async def cancel(key: str, me: Me) -> JSONResponse:
        """Withdraw one that has not been sent (the owner's key)."""
        require_owner(me)
        found = await wallet.cancel(key)
        return JSONResponse(_own(found, network_of(found.platform)).to_json())

    @router.post("/settle", response_model=list[rest.PlannedTransaction], responses=answers(404, 408))
    async def settle(body: rest.Settle, me: Me, dry_run: DryRun = False) -> JSONResponse:
        """Pay all that is owed now, without waiting for due dates and sizes; what that sends."""
        if not dry_run:
            require_owner(me)
        platform = wallet.platform(body.network)
        planned = await wallet.settle(platform, dry_run=dry_run)
        return listed([_planned(p, network_of(platform), me.address) for p in planned])


def require_owner(caller: Caller) -> None:
    """Raises PolicyError."""
    if caller.key_name != CLI_KEY_NAME:
        raise PolicyError(
            f"app-key {caller.key_name!r} may not send money",
            hint="golemp2p payment does it on the node's machine, without --app-key or a key in the environment",
        )


def _endpoints(endpoints: tuple[EndpointStatus, ...]) -> list[rest.Endpoint]:
    return [
        rest.Endpoint(host=e.host, healthy=e.healthy, problem=e.problem or None, latency_ms=e.latency_ms, head=e.head)
        for e in endpoints
    ]


def _network(n: PaymentNetwork, endpoints: tuple[EndpointStatus, ...], address: str) -> rest.PaymentNetwork:
    return rest.PaymentNetwork(
        platform=n.platform,
        network=n.name,
        chain_id=n.chain_id,
        address=address,
        token=n.token,
        symbol=n.symbol,
        coin=n.coin,
        endpoints=_endpoints(endpoints),
        quorum=min(n.quorum, len(n.rpc_urls)),
        confirmations=n.confirmations,
        finality=n.finality,
        contracts={name: contract for name in _CONTRACTS if (contract := getattr(n, name)) is not None},
        cycle={
            "intervalS": n.cycle.interval_s,
            "maxPayees": n.cycle.max_payees,
            "maxTotal": format_amount(n.cycle.max_total),
            "dueMarginS": n.cycle.due_margin_s,
            "minPayout": format_amount(n.cycle.min_payout),
        },
        max_fee_gwei=n.max_fee_wei / GWEI,
        faucet_hint=n.faucet_hint or None,
        explorer=n.explorer or None,
    )


def _status(
    s: PlatformStatus, endpoints: tuple[EndpointStatus, ...], bills: list[OverdueBill]
) -> rest.SettlementStatus:
    return rest.SettlementStatus(
        platform=s.platform,
        owed=format_amount(s.owed),
        waiting=format_amount(s.waiting),
        rolled_over=format_amount(s.rolled_over),
        next_at=None if s.next_at is None else moment_of(s.next_at),
        orders=s.orders,
        in_flight=s.in_flight,
        transactions=[_slot(slot) for slot in s.slots],
        spent_today=format_amount(s.spent_today),
        cap_per_day=_amount(s.cap_per_day),
        cap_per_agreement=_amount(s.cap_per_agreement),
        problem=s.problem or None,
        endpoints=_endpoints(endpoints),
        overdue=[_bill(b) for b in bills if b.platform == s.platform],
    )


def _slot(slot: SlotView) -> rest.SlotStatus:
    return rest.SlotStatus(
        nonce=slot.nonce,
        mode=slot.mode,
        state=slot.state,
        amount=format_amount(slot.amount),
        payee=slot.payee or None,
        transaction=slot.transaction,
        versions=slot.versions,
        max_fee_gwei=slot.max_fee / GWEI,
        since=moment_of(slot.since),
    )


def _bill(bill: OverdueBill) -> rest.OverdueBill:
    return rest.OverdueBill(
        kind=bill.kind,
        document_id=bill.id,
        agreement_id=bill.agreement_id,
        platform=bill.platform,
        payer=bill.payer,
        amount=format_amount(bill.amount),
        due=moment_of(bill.due_at),
    )


def _planned(planned: Planned, n: PaymentNetwork, account: str) -> rest.PlannedTransaction:
    assert planned.nonce is not None, planned
    return rest.PlannedTransaction(
        platform=n.platform,
        mode=planned.mode,
        nonce=planned.nonce,
        sender=account,
        to=planned.call.to,
        call=planned.order.what if planned.order is not None else describe(planned.call),
        data="0x" + planned.call.data.hex(),
        value=format_amount(Amount(planned.call.value)),
        legs=[
            rest.Leg(
                payee=group.payee,
                amount=format_amount(group.amount),
                agreements=list(dict.fromkeys(debt.agreement_id for debt in group.debts)),
            )
            for group in planned.groups
        ],
        amount=format_amount(planned.amount),
        symbol=n.symbol,
        gas=planned.call.gas,
        max_fee_gwei=planned.fees.max_fee / GWEI,
        tip_gwei=planned.fees.tip / GWEI,
        max_cost=format_amount(Amount(planned.max_cost_wei)),
        coin=n.coin,
    )


def _own(order: Order, n: PaymentNetwork) -> rest.OwnTransaction:
    return rest.OwnTransaction(
        id=order.key,
        platform=order.platform,
        what=order.what,
        to=order.detail.get("recipient") or order.to,
        amount=format_amount(order.tokens),
        state=order.state,
        transaction=order.transaction,
        explorer=n.explorer + order.transaction if n.explorer and order.transaction else None,
        problem=order.problem or None,
        timestamp=moment_of(order.created_at),
    )


def _movement(m: Movement, explorer: str) -> rest.Movement:
    return rest.Movement(
        id=m.id,
        timestamp=moment_of(m.at),
        what=m.what,
        direction="out" if m.outgoing else "in",
        platform=m.platform,
        amount=format_amount(m.amount),
        other=m.other,
        transaction=m.transaction,
        explorer=explorer + m.transaction if explorer and m.transaction else None,
        state=m.state,
        problem=m.problem or None,
        fee=_amount(None if m.fee_wei is None else Amount(m.fee_wei)),
        agreements=list(m.agreements),
    )


def _amount(amount: Amount | None) -> str | None:
    return None if amount is None else format_amount(amount)
