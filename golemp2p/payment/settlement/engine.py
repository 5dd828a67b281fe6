"""The loop over platforms: push what is under way, plan, sign and store, send; and what it shows of that."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final, Literal, NoReturn

import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.money import Amount
from golemp2p.core.payment import Side, SlotState
from golemp2p.errors import ConflictError, GolemError, NotFoundError, PolicyError
from golemp2p.payment.drivers.base import ChainDriver
from golemp2p.payment.ports import Context
from golemp2p.payment.purse import DAY_S
from golemp2p.payment.settlement.closing import Closing
from golemp2p.payment.settlement.planning import Plan, Planner
from golemp2p.payment.settlement.slots import Slots
from golemp2p.payment.settlement.states import Checkpoint, Planned, PlatformStatus, SlotView
from golemp2p.storage import orders as order_repo
from golemp2p.storage import payment as ledger_repo
from golemp2p.storage import payment_settlement as repo
from golemp2p.storage import spending
from golemp2p.storage.orders import Order, OrderState
from golemp2p.storage.payment_settlement import OPEN_SLOTS, Mode, Slot, Version
from golemp2p.storage.spending import Spend

log = structlog.get_logger(__name__)

BUSY: Final = "busy"
# What a step leaves: more to do soon; nothing until a moment (seconds since the epoch); nothing until news.
Left = Literal["busy"] | float | None


class SettlementEngine:
    """``checkpoint`` is awaited between the durable steps with their name; tests stop (or kill) the process there."""

    def __init__(self, context: Context, *, checkpoint: Checkpoint | None = None) -> None:
        self._context = context
        self._checkpoint = checkpoint
        self._running: set[str] = set()
        self._problems: dict[str, str] = {}
        self._held: dict[str, str] = {}  # all that the last step found in the way
        self._next_at: dict[str, float] = {}
        self._rolled_over: dict[str, Amount] = {}
        self._forced: set[str] = set()
        self._planner = Planner(context)
        self._slots = Slots(context, Closing(context, self._reached), self._reached)

    async def run(self) -> NoReturn:
        """Start a task for each platform with work; it ends when nothing is left to do there."""
        async with trio.open_nursery() as nursery:
            while True:
                news = self._context.debts.next()
                for platform in await self._context.storage.run(repo.platforms_with_work):
                    if platform not in self._running:
                        self._running.add(platform)
                        nursery.start_soon(self._serve, platform)
                await news.wait()
        raise AssertionError("the nursery does not end")  # pragma: no cover

    async def _serve(self, platform: str) -> None:
        pause_s = limits.SETTLEMENT_RETRY_S
        try:
            while True:
                news = self._context.debts.next()
                left: Left
                try:
                    left = await self.step(platform)
                    self._note(platform, "")
                    pause_s, wait_s = limits.SETTLEMENT_RETRY_S, self._context.driver(platform).network.poll_s
                except GolemError as exc:
                    self._note(platform, self._held.pop(platform, "") or str(exc))
                    left, wait_s = BUSY, pause_s
                    pause_s = min(limits.SETTLEMENT_RETRY_MAX_S, 2 * pause_s)
                    if isinstance(exc, PolicyError) and await self._awaits_chain(platform):
                        wait_s = self._context.driver(platform).network.poll_s  # what others get is not held up
                if left != BUSY:
                    if left is None and not news.is_set():
                        return
                    wait_s = float("inf") if left is None else max(0.0, left - self._context.clock())
                with trio.move_on_after(wait_s):
                    await news.wait()
        finally:
            self._running.discard(platform)

    async def _awaits_chain(self, platform: str) -> bool:
        states = (SlotState.SENT, SlotState.MINED)
        return bool(await self._context.storage.run(lambda c: repo.find_slots(c, platform, states=states)))

    def _note(self, platform: str, problem: str) -> None:
        if problem != self._problems.get(platform, ""):
            if problem:
                log.warning("settlement_problem", platform=platform, problem=problem)
            else:
                log.info("settlement_recovered", platform=platform)
            self._problems[platform] = problem

    async def step(self, platform: str) -> Left:
        """Push everything on one platform as far as it goes now. Raises the first thing that stands in the way."""
        driver = self._context.driver(platform)
        problems = await self._advance_all(driver)
        plan = await self._planner.plan(driver, force=platform in self._forced)
        self._rolled_over[platform] = plan.choice.rolled_over
        problems += plan.problems
        problems += await self._commit(driver, plan)
        if plan.planned:
            problems += await self._advance_all(driver, states=(SlotState.SIGNED, SlotState.SENT))
        if plan.wake_at is None:
            self._next_at.pop(platform, None)
        else:
            self._next_at[platform] = plan.wake_at
        if not (plan.choice.groups or plan.planned):
            self._forced.discard(platform)
        if problems:
            self._held[platform] = _all_of(problems)
            raise problems[0]
        # News that came meanwhile is seen by the loop; what is owed beyond the plan waits for room, so slots are open.
        open_slots = await self._context.storage.run(lambda c: repo.find_slots(c, platform, states=OPEN_SLOTS))
        more = open_slots or plan.approve is not None or (plan.postponed and plan.planned)
        return BUSY if more else plan.wake_at

    async def _advance_all(self, driver: ChainDriver, states: tuple[SlotState, ...] = OPEN_SLOTS) -> list[GolemError]:
        problems: list[GolemError] = []
        platform = driver.network.platform
        for slot in await self._context.storage.run(lambda c: repo.find_slots(c, platform, states=states)):
            try:
                await self._slots.advance(driver, slot)
            except PolicyError as exc:  # of this slot alone: the others go on
                problems.append(exc)
        return problems

    async def _reached(self, step: str) -> None:
        if self._checkpoint is not None:
            await self._checkpoint(step)

    # --- from plan to signed bytes ------------------------------------------------------------------------------------

    async def _commit(self, driver: ChainDriver, plan: Plan) -> list[GolemError]:
        """Take nonces, sign, store: each transaction's in one database transaction."""
        context = self._context
        problems: list[GolemError] = []
        for order, reason in plan.failed:
            await context.storage.run(
                partial(order_repo.mark_order, key=order.key, state=OrderState.FAILED, problem=reason)
            )
            context.orders.tell()
        if plan.approve is not None:
            await self._place_approval(plan.approve)
        for planned in plan.planned:
            nonce = await self._slots.next_nonce(driver)
            await self._reached("planned")
            try:
                await context.storage.run(partial(self._sign, driver=driver, planned=planned, nonce=nonce))
            except (PolicyError, ConflictError) as exc:  # a spending cap; withdrawn meanwhile
                problems.append(exc)
                continue
            await self._reached("signed")
        return problems

    def _sign(self, connection: Connection, driver: ChainDriver, planned: Planned, nonce: int) -> None:
        network, now, call = driver.network, self._context.clock(), planned.call
        if planned.order is not None:
            order = order_repo.get_order(connection, planned.order.key)
            if order is None or order.state is not OrderState.WAITING:
                raise ConflictError(f"order {planned.order.key} was withdrawn")
            order_repo.mark_order(connection, planned.order.key, OrderState.SENT)
            spends = [Spend(network.platform, "", planned.amount, planned.batch_id)] if planned.amount else []
        else:
            repo.take_debts(connection, planned.batch_id, planned.groups)
            spends = [
                Spend(network.platform, debt.agreement_id, debt.amount, planned.batch_id)
                for group in planned.groups
                for debt in group.debts
            ]
        slot = repo.insert_slot(
            connection,
            batch_id=planned.batch_id,
            mode=planned.mode,
            platform=network.platform,
            chain_id=network.chain_id,
            account=self._context.purse.address,
            nonce=nonce,
            payee=planned.groups[0].payee if len(planned.groups) == 1 else "",
            amount=planned.amount,
            target=call.to,
            data=call.data,
            gas=call.gas,
            value=call.value,
            now=now,
        )
        signed = self._context.purse.transaction(connection, driver, nonce, call, planned.fees, spends=spends, now=now)
        version = Version(signed.hash, signed.raw, planned.fees.max_fee, planned.fees.tip, now)
        repo.add_version(connection, slot.id, version)

    async def _place_approval(self, wanted: Order) -> None:
        """Once at a time; again when an earlier one is used up or failed."""
        now = self._context.clock()

        def place(connection: Connection) -> bool:
            earlier = [
                o for o in order_repo.find_orders(connection, platform=wanted.platform) if o.key.startswith(wanted.key)
            ]
            if any(o.state in (OrderState.WAITING, OrderState.SENT) for o in earlier):
                return False
            order_repo.place_order(connection, replace(wanted, key=f"{wanted.key} {len(earlier)}"), now=now)
            return True

        if await self._context.storage.run(place):
            self._context.debts.tell()

    # --- what others see and ask ----------------------------------------------------------------------------------

    def settle_now(self, platform: str) -> None:
        """Do not wait for due dates, sizes and fees: pay all that is owed on ``platform``. Raises UsageError."""
        self._context.driver(platform)
        self._forced.add(platform)
        self._context.debts.tell()

    async def preview(self, platform: str, *, order: Order | None = None, force: bool = True) -> list[Planned]:
        """Exactly what would be sent now, with nonces; nothing is stored or sent. ``order``: that one alone.

        Raises what stands in the way.
        """
        driver = self._context.driver(platform)
        plan = await self._planner.plan(driver, force=force, only=order)
        if plan.problems and not plan.planned:
            raise plan.problems[0]
        nonce = await self._slots.next_nonce(driver)
        return [replace(planned, nonce=nonce + i) for i, planned in enumerate(plan.planned)]

    async def wait_order(self, key: str) -> Order:
        """Until it is final or failed; the caller sets a deadline. Raises NotFoundError."""
        while True:
            news = self._context.orders.next()
            order = await self._context.storage.run(lambda c: order_repo.get_order(c, key))
            if order is None:
                raise NotFoundError(f"no order {key} here")
            if order.state in (OrderState.FINAL, OrderState.FAILED):
                return order
            await news.wait()

    async def status(self) -> list[PlatformStatus]:
        """From the database alone: a dead chain cannot make it hang."""

        def read(connection: Connection) -> list[PlatformStatus]:
            return [self._status(connection, p) for p in sorted({*self._context.drivers, *self._problems})]

        return await self._context.storage.run(read)

    def _status(self, connection: Connection, platform: str) -> PlatformStatus:
        slots = repo.find_slots(connection, platform, states=OPEN_SLOTS)
        caps = self._context.purse.caps
        since = self._context.clock() - DAY_S
        return PlatformStatus(
            platform,
            ledger_repo.owed(connection, Side.PAYER, platform=platform),
            len(slots),
            self._problems.get(platform, ""),
            Amount(sum(debt.amount for debt in repo.unplanned_obligations(connection, platform))),
            self._rolled_over.get(platform, Amount(0)),
            self._next_at.get(platform),
            len(order_repo.find_orders(connection, platform=platform, state=OrderState.WAITING)),
            tuple(self._view(connection, slot) for slot in slots),
            Amount(sum(amount for _, amount in spending.since(connection, platform, since))),
            caps.per_day,
            caps.per_agreement,
        )

    @staticmethod
    def _view(connection: Connection, slot: Slot) -> SlotView:
        versions = repo.get_versions(connection, slot.id)
        return SlotView(
            slot.nonce,
            Mode(slot.mode),
            slot.state,
            slot.amount,
            slot.payee,
            slot.transaction or versions[0].hash,
            len(versions),
            versions[0].max_fee,
            slot.created_at,
        )


def _all_of(problems: list[GolemError]) -> str:
    """In one line; each once."""
    texts = list(dict.fromkeys(str(problem) for problem in problems))
    more = len(texts) - limits.MAX_SHOWN_PROBLEMS
    return "; ".join(texts[: limits.MAX_SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
