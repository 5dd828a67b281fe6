"""What to send next: orders first, then debts, as far as money, caps, fees and the window of nonces reach."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.ids import Address
from golemp2p.core.money import Amount, format_amount
from golemp2p.core.payment import Choice, Fees, Group, Obligation, SlotState, choose, first_bid, net
from golemp2p.errors import GolemError, UsageError
from golemp2p.payment.drivers import transactions as calls
from golemp2p.payment.drivers.base import Call, CallRevertedError, ChainDriver, OutOfGasFundsError
from golemp2p.payment.drivers.deposits import Deposit
from golemp2p.payment.ports import Context
from golemp2p.payment.purse import SpendingCapError
from golemp2p.payment.settlement.gaps import Gaps
from golemp2p.payment.settlement.states import (
    FeesAboveCapError,
    OrderRefusedError,
    OutOfTokensError,
    PaidBeforeError,
    PayeeParkedError,
    Planned,
)
from golemp2p.storage import orders as order_repo
from golemp2p.storage import payment_settlement as repo
from golemp2p.storage.orders import Order, OrderState
from golemp2p.storage.payment_settlement import OPEN_SLOTS, Mode, Slot

GWEI: Final = 10**9


@dataclass
class Plan:
    """``planned`` may go out now. ``problems``: what keeps the rest. ``wake_at``: when to look again without news."""

    planned: list[Planned] = field(default_factory=list)
    problems: list[GolemError] = field(default_factory=list)
    choice: Choice = field(default_factory=Choice)
    approve: Order | None = None  # must be sent before a batch can be
    failed: list[tuple[Order, str]] = field(default_factory=list)  # orders that are given up
    wake_at: float | None = None
    postponed: bool = False  # an order waits for debts to be paid first


@dataclass
class _Funds:
    tokens: int
    coin: int
    room: int  # nonces
    today: Amount | None  # within the day's cap; None: any sum
    opens_at: float  # when there is more room in it


class Planner:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._gaps = Gaps(context)
        self._contracts: dict[str, tuple[Mode, Address] | None] = {}  # by platform, once looked up

    async def plan(self, driver: ChainDriver, *, force: bool = False, only: Order | None = None) -> Plan:
        """Writes nothing. Asks the chain nothing when there is nothing to send. ``only``: that order and no debts."""
        context, platform = self._context, driver.network.platform
        now = context.clock()

        def read(connection: Connection) -> tuple[list[Obligation], list[Order], list[Slot]]:
            return (
                repo.unplanned_obligations(connection, platform),
                order_repo.find_orders(connection, platform=platform, state=OrderState.WAITING),
                repo.find_slots(connection, platform, states=OPEN_SLOTS),
            )

        debts, orders, open_slots = await context.storage.run(read)
        if only is not None:
            debts, orders = [], [only]
        plan = Plan()
        payable = await self._payable(platform, debts, plan)
        groups = net(payable, max_agreements=limits.MAX_NOTICE_SHARES)
        plan.choice = choose(groups, driver.network.cycle, now=now, force=force)
        plan.wake_at = plan.choice.wake_at
        room = limits.MAX_SLOTS_IN_FLIGHT - len(open_slots)
        if not (orders or plan.choice.groups) or room <= 0:
            return plan
        if plan.choice.groups and not force:
            doubtful = await self._gaps.paid_before(driver, payable)
            plan.problems += [_doubtful(debt, doubtful[debt.id]) for debt in payable if debt.id in doubtful]
            sure = [debt for debt in payable if debt.id not in doubtful]
            plan.choice = choose(net(sure, max_agreements=limits.MAX_NOTICE_SHARES), driver.network.cycle, now=now)
        fees = await self._fees(driver)
        account = context.purse.address
        unmined = [slot for slot in open_slots if slot.state is not SlotState.MINED]
        today, opens_at = await context.storage.run(lambda c: context.purse.room_today(c, platform, now=now))
        funds = _Funds(
            tokens=await driver.balance(account) - sum(s.amount for s in unmined if s.mode is not Mode.DEPOSIT),
            coin=await driver.gas_balance(account)
            - sum((s.gas or calls.TRANSFER_GAS) * fees.max_fee + (s.value or 0) for s in unmined),
            room=room,
            today=today,
            opens_at=opens_at,
        )
        await self._plan_orders(driver, orders, fees, funds, plan, now=now)
        await self._plan_debts(driver, fees, funds, plan, force=force, now=now)
        return plan

    async def _fees(self, driver: ChainDriver) -> Fees:
        market, network = await driver.market(), driver.network
        bid = first_bid(market, min_tip=network.min_tip_wei, cap=network.max_fee_wei)
        if bid is None:
            raise FeesAboveCapError(
                f"the chain asks {market.base_fee / GWEI:g} gwei per gas, the cap is {network.max_fee_wei / GWEI:g}",
                hint="payments go out by themselves when fees fall; or raise max_fee_gwei of the network",
            )
        return bid

    # --- debts ----------------------------------------------------------------------------------------------------

    async def _payable(self, platform: str, debts: Sequence[Obligation], plan: Plan) -> list[Obligation]:
        """Without those that nothing can be done about now; why is in the plan."""
        context, result = self._context, []
        rooms = await context.storage.run(
            lambda c: {
                agreement: context.purse.room_under(c, platform, agreement)
                for agreement in {debt.agreement_id for debt in debts}
            }
        )
        for debt in debts:
            room = rooms[debt.agreement_id]
            if debt.payer != context.purse.address:
                plan.problems.append(
                    UsageError(f"{format_amount(debt.amount)} is owed by {debt.payer}, whose key is not here")
                )
            elif parked := context.parking.why(platform, debt.payee, now=context.clock()):
                plan.problems.append(_parked(debt.payee, parked))
            elif room is not None and debt.amount > room:
                plan.problems.append(
                    SpendingCapError(
                        f"{format_amount(debt.amount)} owed under agreement {debt.agreement_id} exceeds what may be"
                        f" spent under one agreement ({format_amount(room)} is left)",
                        hint="raise payment.caps.per_agreement if that is right",
                    )
                )
            else:
                if room is not None:
                    rooms[debt.agreement_id] = Amount(room - debt.amount)
                result.append(debt)
        return result

    async def _plan_debts(
        self, driver: ChainDriver, fees: Fees, funds: _Funds, plan: Plan, *, force: bool, now: float
    ) -> None:
        groups = self._affordable(driver, funds, plan)
        suspects = [
            g
            for g in groups
            if g.deposit
            or g.amount > calls.MAX_LEG
            or self._context.parking.is_suspect(driver.network.platform, g.payee)
        ]
        together = [g for g in groups if g not in suspects]
        contract = await self._contract(driver) if len(together) > 1 else None
        if contract is None:
            suspects, together = groups, []
        else:
            mode, address = contract
            size = driver.network.max_legs
            chunks = [together[i : i + size] for i in range(0, len(together), size)]
            for chunk in chunks[: max(0, funds.room)]:
                if len(chunk) == 1:
                    suspects += chunk
                elif not await self._batch(driver, mode, address, chunk, fees, funds, plan, force=force, now=now):
                    break
        for group in suspects:
            if funds.room <= 0:
                break
            if not await self._single(driver, group, fees, funds, plan):
                break

    def _affordable(self, driver: ChainDriver, funds: _Funds, plan: Plan) -> list[Group]:
        """The groups for which there are tokens, and room in the day's cap."""
        context, platform = self._context, driver.network.platform
        result = []
        for group in plan.choice.groups:
            needed = 0 if group.deposit else group.amount
            if needed > funds.tokens:
                plan.problems.append(
                    OutOfTokensError(
                        f"account {context.purse.address} lacks {format_amount(Amount(group.amount - funds.tokens))}"
                        f" {driver.network.symbol} to pay {format_amount(group.amount)} to {group.payee}",
                        hint="send tokens to it; the payment goes out by itself then",
                    )
                )
            elif funds.today is not None and group.amount > funds.today:
                what = f"payment to {group.payee}: "
                plan.problems.append(
                    context.purse.over_the_day(group.amount, platform, funds.today, funds.opens_at, what=what)
                )
            else:
                funds.tokens -= needed
                funds.today = None if funds.today is None else Amount(funds.today - group.amount)
                result.append(group)
        return result

    async def _contract(self, driver: ChainDriver) -> tuple[Mode, Address] | None:
        """What pays several at once here, if it is really there."""
        network = driver.network
        if network.platform not in self._contracts:
            found = None
            for mode, address in ((Mode.BATCH, network.batch), (Mode.MULTI, network.multi)):
                if found is None and address and await driver.has_code(address):
                    found = (mode, address)
            self._contracts[network.platform] = found
        return self._contracts[network.platform]

    async def _batch(
        self,
        driver: ChainDriver,
        mode: Mode,
        contract: Address,
        groups: list[Group],
        fees: Fees,
        funds: _Funds,
        plan: Plan,
        *,
        force: bool,
        now: float,
    ) -> bool:
        """False: nothing more can be planned now."""
        context, network, account = self._context, driver.network, self._context.purse.address
        total = Amount(sum(group.amount for group in groups))
        if await driver.allowance(account, contract) < total:
            plan.approve = Order(
                key=f"approve {network.platform} {contract} {account}",
                platform=network.platform,
                to=network.token,
                data=calls.approve_call(contract, calls.MAX_UINT256),
                tokens=Amount(0),
                what="approve",
                detail={"spender": contract},
            )
            return False
        batch_id = str(uuid.uuid4())
        legs = [(group.payee, group.amount) for group in groups]
        encode = calls.multi_transfer_call(legs) if mode is Mode.MULTI else calls.pay_once_call(batch_id, legs)
        call = Call(contract, encode)
        try:
            gas = await driver.estimate(account, call)
        except CallRevertedError:
            # One of the payees cannot be paid: each by itself, and only that one waits.
            context.parking.suspect(network.platform, [group.payee for group in groups])
            for group in groups:
                if funds.room > 0 and not await self._single(driver, group, fees, funds, plan):
                    return False
            return True
        call = replace(call, gas=_with_margin(gas))
        if not (plan.choice.urgent or force or network.cycle.affords(gas * fees.max_fee, total)):
            due = min((d.due_at for g in groups for d in g.debts if d.due_at), default=float("inf"))
            plan.wake_at = min(now + limits.FEE_RECHECK_S, due - network.cycle.due_margin_s)
            return False
        return self._take(Planned(mode, batch_id, call, fees, total, tuple(groups)), funds, plan)

    async def _single(self, driver: ChainDriver, group: Group, fees: Fees, funds: _Funds, plan: Plan) -> bool:
        context, network = self._context, driver.network
        if group.deposit:
            return await self._from_deposit(driver, Deposit.stored(group.deposit), group, fees, funds, plan)
        if refusal := await driver.refusal(context.purse.address, group.payee, group.amount):
            context.parking.refused(network.platform, group.payee, refusal, now=context.clock())
            plan.problems.append(_parked(group.payee, refusal))
            return True
        call = Call(network.token, calls.transfer_call(group.payee, group.amount), calls.TRANSFER_GAS)
        return self._take(
            Planned(Mode.TRANSFER, str(uuid.uuid4()), call, fees, group.amount, (group,)),
            funds,
            plan,
        )

    async def _from_deposit(
        self, driver: ChainDriver, deposit: Deposit, group: Group, fees: Fees, funds: _Funds, plan: Plan
    ) -> bool:
        context, network = self._context, driver.network
        call = Call(deposit.contract, deposit.pay_call(group.payee, group.amount))
        try:
            call = replace(call, gas=_with_margin(await driver.estimate(context.purse.address, call)))
        except CallRevertedError as exc:
            refusal = f"deposit {deposit}: {exc.message}"
            context.parking.refused(network.platform, group.payee, refusal, now=context.clock())
            plan.problems.append(_parked(group.payee, refusal))
            return True
        return self._take(Planned(Mode.DEPOSIT, str(uuid.uuid4()), call, fees, group.amount, (group,)), funds, plan)

    # --- orders ---------------------------------------------------------------------------------------------------

    async def _plan_orders(
        self, driver: ChainDriver, orders: Sequence[Order], fees: Fees, funds: _Funds, plan: Plan, *, now: float
    ) -> None:
        for order in orders:
            if funds.room <= 0:
                return
            if await self._must_wait(order):
                plan.postponed = True
                continue
            if order.tokens > funds.tokens:
                plan.problems.append(
                    OutOfTokensError(
                        f"account {self._context.purse.address} lacks {driver.network.symbol} to {order.what}:"
                        f" {format_amount(Amount(order.tokens - funds.tokens))}",
                        hint="send tokens to it; it goes out by itself then",
                    )
                )
                continue
            if order.tokens and funds.today is not None and order.tokens > funds.today:
                purse, platform, what = self._context.purse, driver.network.platform, f"{order.what}: "
                plan.problems.append(purse.over_the_day(order.tokens, platform, funds.today, funds.opens_at, what=what))
                continue
            call = Call(order.to, order.data, order.gas, order.value)
            if not call.gas:
                try:
                    call = replace(call, gas=_with_margin(await driver.estimate(self._context.purse.address, call)))
                except CallRevertedError as exc:
                    if now - order.created_at >= limits.ORDER_PATIENCE_S:
                        plan.failed.append((order, exc.message))
                    else:
                        plan.problems.append(OrderRefusedError(f"{order.what} waits: {exc.message}"))
                    continue
            if not self._take(Planned(Mode.ORDER, order.key, call, fees, order.tokens, order=order), funds, plan):
                return
            funds.tokens -= order.tokens
            funds.today = None if funds.today is None else Amount(funds.today - order.tokens)

    async def _must_wait(self, order: Order) -> bool:
        """A deposit is closed when all is paid from it."""
        deposit = order.detail.get("deposit", "")
        return bool(deposit) and await self._context.storage.run(lambda c: repo.deposit_in_use(c, deposit))

    def _take(self, planned: Planned, funds: _Funds, plan: Plan) -> bool:
        if planned.max_cost_wei > funds.coin:
            plan.problems.append(
                OutOfGasFundsError(
                    f"account {self._context.purse.address} lacks"
                    f" {format_amount(Amount(planned.max_cost_wei - funds.coin))} of the chain's own coin for the fee",
                    hint="send some to it; the payment goes out by itself then",
                )
            )
            return False
        funds.coin -= planned.max_cost_wei
        funds.room -= 1
        plan.planned.append(planned)
        return True


def _doubtful(debt: Obligation, transaction: str) -> PaidBeforeError:
    return PaidBeforeError(
        f"{format_amount(debt.amount)} to {debt.payee} may be paid already: transaction {transaction} of this account,"
        " which the database does not know, has paid that payee",
        hint="is the database an older copy? golemp2p payment settle --now pays it all the same",
    )


def _parked(payee: Address, reason: str) -> PayeeParkedError:
    return PayeeParkedError(
        f"payments to {payee} wait: {reason}",
        hint="others are paid; amend an allocation or start the node again to try at once",
    )


def _with_margin(gas: int) -> int:
    return gas * 6 // 5
