"""Budgets: made against the account's balance, spent by acceptances, released by the agent or by time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.agreement import ALLOCATIONS
from golemp2p.core.ids import Address, AllocationId, new_allocation_id
from golemp2p.core.money import ZERO, Amount, format_amount
from golemp2p.core.payment import ALLOCATION, AllocationEvent, AllocationState
from golemp2p.core.payment.vouchers import CHANNEL, MODE, MODES
from golemp2p.errors import ConflictError, DeadlineError, GolemError, PolicyError, UsageError
from golemp2p.payment import books
from golemp2p.payment.drivers import deposits
from golemp2p.payment.drivers.deposits import Deposit
from golemp2p.payment.ports import Context
from golemp2p.storage import orders as order_repo
from golemp2p.storage import payment as repo
from golemp2p.storage.orders import Order
from golemp2p.storage.payment import Allocation

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Decoration:
    """What an allocation adds to a demand."""

    properties: tuple[tuple[str, str], ...]
    constraints: tuple[str, ...]


class Allocations:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def create(
        self,
        *,
        platform: str,
        total: Amount,
        address: Address | None = None,
        timeout_at: float | None = None,
        make_deposit: bool = False,
        allocation_id: AllocationId | None = None,
        deposit: Deposit | None = None,
    ) -> Allocation:
        """Idempotent by ``allocation_id``. ``deposit``: it is paid from tokens that somebody locked for this account.

        Raises UsageError (unknown platform or account, too little money, a deposit that is not for us).
        """
        context = self._context
        driver = context.driver(platform)
        own = context.signer.address
        if address not in (None, own):
            raise UsageError(f"this node has no key of {address}", hint=f"its account is {own}")
        now = context.clock()
        if timeout_at is not None and timeout_at <= now:
            raise UsageError("the allocation's timeout is in the past")
        wanted = Allocation(
            id=allocation_id or new_allocation_id(),
            address=own,
            platform=driver.network.platform,
            total=total,
            created_at=now,
            timeout_at=timeout_at,
            make_deposit=make_deposit,
            state=AllocationState.LIVE,
            deposit=None if deposit is None else str(deposit),
        )
        if deposit is not None:
            with _deadline(deposit):
                await deposits.check(driver, deposit, spender=own, total=total, timeout_at=timeout_at)
        balance = await self._balance(platform) if deposit is None else None

        def store(connection: Connection) -> Allocation:
            known = repo.find_allocations(connection, id=wanted.id)
            if known:
                if (known[0].platform, known[0].total) != (wanted.platform, wanted.total):
                    raise ConflictError(f"allocation {wanted.id} exists already, with other contents")
                return known[0]
            if deposit is not None and any(
                other.deposit == wanted.deposit for other in books.live_allocations(connection, now=now)
            ):
                raise UsageError(f"deposit {deposit.id:#x} has an allocation already", hint="release that one first")
            self._check_balance(connection, platform, balance, needed=total)
            repo.put_allocation(connection, wanted)
            return wanted

        allocation = await context.storage.run(store)
        context.events.tell()  # it may cover what waits for an answer
        return allocation

    async def amend(
        self, allocation_id: str, *, total: Amount | None = None, timeout_at: float | None = None
    ) -> Allocation:
        """Change the budget or its end. Raises UsageError when the total falls below what is used."""
        context = self._context
        now = context.clock()
        allocation = await self.get(allocation_id)
        if allocation.deposit is not None:
            driver, locked = context.driver(allocation.platform), Deposit.stored(allocation.deposit)
            until = allocation.timeout_at if timeout_at is None else timeout_at
            wanted = allocation.total if total is None else total
            with _deadline(locked):
                await deposits.check(
                    driver,
                    locked,
                    spender=context.signer.address,
                    total=Amount(max(0, wanted - allocation.spent)),
                    timeout_at=until,
                )
        balance = await self._balance(allocation.platform) if allocation.deposit is None else None

        def store(connection: Connection) -> Allocation:
            old = books.get_allocation(connection, allocation_id, now=now)
            new = replace(
                old,
                total=old.total if total is None else total,
                timeout_at=old.timeout_at if timeout_at is None else timeout_at,
                state=ALLOCATION.next(old.state, AllocationEvent.AMEND),
            )
            used = old.spent + old.reserved
            if new.total < used:
                raise UsageError(
                    f"allocation {old.id} has used {format_amount(used)} already,"
                    f" it cannot be lowered to {format_amount(new.total)}"
                )
            self._check_balance(connection, old.platform, balance, needed=Amount(max(0, new.total - old.total)))
            repo.put_allocation(connection, new)
            return new

        result = await context.storage.run(store)
        context.events.tell()
        context.parking.rearm(result.platform)
        context.debts.tell()
        return result

    async def get(self, allocation_id: str) -> Allocation:
        """Raises NotFoundError, GoneError."""
        now = self._context.clock()
        return await self._context.storage.run(lambda c: books.get_allocation(c, allocation_id, now=now))

    async def list_live(self) -> list[Allocation]:
        now = self._context.clock()
        return await self._context.storage.run(lambda c: books.live_allocations(c, now=now))

    async def release(self, allocation_id: str) -> None:
        """What is unused is free again; what was accepted is still paid. A deposit is closed when its debts are paid:
        the rest goes back to its funder. Raises NotFoundError, GoneError."""
        now = self._context.clock()

        def store(connection: Connection) -> None:
            allocation = books.get_allocation(connection, allocation_id, now=now)
            state = ALLOCATION.next(allocation.state, AllocationEvent.RELEASE)
            repo.put_allocation(connection, replace(allocation, state=state))
            if allocation.deposit is not None:
                order_repo.place_order(connection, _closing(allocation, allocation.deposit), now=now)

        await self._context.storage.run(store)
        self._context.debts.tell()

    async def decorate(self, allocation_ids: list[str]) -> Decoration:
        """What a demand must say to be paid from these. Raises NotFoundError, GoneError, UsageError, PolicyError."""
        if not allocation_ids:
            raise UsageError("no allocation ids were given", hint="?allocationIds=ID[,ID]")
        found = [await self.get(allocation_id) for allocation_id in allocation_ids]
        platforms = {a.platform: a.address for a in found}
        properties: list[tuple[str, str]] = [
            (f"golem.com.payment.platform.{p}.address", address) for p, address in platforms.items()
        ]
        present = [f"(golem.com.payment.platform.{p}.address=*)" for p in platforms]
        # golem-js takes flat single comparisons only, and always asks for one platform.
        choice = present[0] if len(present) == 1 else f"(|{''.join(present)})"
        constraints = [choice, "(golem.com.payment.protocol.version>1)"]
        properties += [
            ("golem.com.payment.protocol.version", "3"),
            (ALLOCATIONS, ",".join(a.id for a in found)),
        ]
        if self._context.settings.channels.mode == CHANNEL:
            for platform in platforms:
                if self._context.driver(platform).network.channels is None:
                    raise PolicyError(
                        f"payment.mode is channel, but {platform} has no channel contract",
                        hint="golemp2p payment deploy puts it there and into the settings; or payment.mode = batch",
                    )
            properties.append((MODE, CHANNEL))
            constraints.append(f"({MODES}={CHANNEL})")
        return Decoration(tuple(properties), tuple(constraints))

    async def _balance(self, platform: str) -> Amount | None:
        """None when the chain does not answer in time: a budget can be made without it."""
        driver = self._context.driver(platform)
        try:
            with trio.fail_after(limits.ALLOCATION_CHECK_TIMEOUT_S):
                return await driver.balance(self._context.signer.address)
        except (trio.TooSlowError, GolemError) as exc:
            log.warning("allocation_balance_unknown", platform=platform, error=str(exc) or "too slow")
            return None

    def _check_balance(self, connection: Connection, platform: str, balance: Amount | None, *, needed: Amount) -> None:
        if balance is None or needed == ZERO:
            return
        account = self._context.signer.address
        promised = books.committed(connection, platform, account, now=self._context.clock())
        free = max(0, balance - promised)
        if needed > free:
            raise UsageError(
                f"account {account} has {format_amount(balance)} on {platform}, {format_amount(promised)} of it"
                f" promised already: {format_amount(needed)} cannot be allocated",
                hint=f"{format_amount(needed - free)} more is needed",
            )


@contextmanager
def _deadline(deposit: Deposit) -> Iterator[None]:
    """An agent waits for it."""
    try:
        with trio.fail_after(limits.DEPOSIT_CHECK_TIMEOUT_S):
            yield
    except trio.TooSlowError:
        raise DeadlineError(
            f"the chain said nothing of deposit {deposit.id:#x} within {limits.DEPOSIT_CHECK_TIMEOUT_S:g} s",
            hint="try again",
        ) from None


def _closing(allocation: Allocation, deposit: str) -> Order:
    locked = Deposit.stored(deposit)
    return Order(
        key=f"close deposit {deposit} of {allocation.id}",
        platform=allocation.platform,
        to=locked.contract,
        data=locked.close_call(),
        tokens=ZERO,
        what="close the deposit",
        detail={"deposit": deposit},
    )
