"""What the node's owner does with its account by hand: send tokens, take test tokens, settle now, look back.

Nothing is sent from here: orders go to the settlement engine, which nonces, signs within the caps, stores, sends and
confirms them like payments. Whatever the owner asks for is named by a key of the caller's, so that a repeated request
is the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal

import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.money import Amount, format_amount, parse_amount
from golemp2p.core.payment import Side
from golemp2p.errors import ConflictError, DeadlineError, NotFoundError, UsageError
from golemp2p.networks.schema import check_address
from golemp2p.payment import contracts
from golemp2p.payment.drivers.base import OutOfGasFundsError
from golemp2p.payment.drivers.transactions import mint_call, transfer_call
from golemp2p.payment.endpoints import EndpointStatus, HasEndpoints
from golemp2p.payment.networks import PaymentNetwork
from golemp2p.payment.ports import Context
from golemp2p.payment.settlement import OutOfTokensError, Planned, SettlementEngine
from golemp2p.storage import orders as order_repo
from golemp2p.storage import payment_notices as notices
from golemp2p.storage import payment_settlement as repo
from golemp2p.storage.orders import Order, OrderState

FAUCET_CALL: Final = keccak256(b"create()")[:4]  # of Golem's mint contracts: so many test tokens to the caller
MINTED: Final = parse_amount("1000")  # where the test token itself mints, when nobody says how much
_ZERO: Final = Address("0x" + "00" * 20)


@dataclass(frozen=True)
class Movement:
    """A payment made or received, or an order of the owner's. ``fee_wei``: of its whole transaction, if it is ours."""

    at: float  # seconds since the epoch
    what: str  # "payment", or the order's words
    outgoing: bool
    platform: str
    amount: Amount
    other: Address | None
    transaction: str | None
    state: str
    problem: str
    fee_wei: int | None
    id: str
    agreements: tuple[str, ...] = ()


@dataclass(frozen=True)
class NetworkView:
    network: PaymentNetwork
    endpoints: tuple[EndpointStatus, ...]


Kind = Literal["batch", "channels"]
CONTRACTS: Final[Mapping[Kind, contracts.ContractName]] = {"batch": "BatchPayer", "channels": "VoucherChannels"}


@dataclass(frozen=True)
class Deployment:
    """One of our contracts on a chain. ``configured``: the settings name it; else it is where it would be."""

    kind: Kind
    address: Address
    deployed: bool
    configured: bool


class Wallet:
    def __init__(self, context: Context, engine: SettlementEngine) -> None:
        self._context = context
        self._engine = engine

    def networks(self) -> list[NetworkView]:
        """From memory."""
        return [
            NetworkView(driver.network, tuple(driver.endpoints()) if isinstance(driver, HasEndpoints) else ())
            for driver in self._context.drivers.values()
        ]

    def platform(self, name: str | None) -> str:
        """Of a network's or a platform's name; None: the only one there is. Raises UsageError."""
        known = [driver.network for driver in self._context.drivers.values()]
        fitting = [n.platform for n in known if name in (None, n.name, n.platform)]
        if len(fitting) == 1:
            return fitting[0]
        names = ", ".join(n.name for n in known)
        if name is None and known:
            raise UsageError("this node has several payment networks", hint=f"say which: {names}")
        raise UsageError(
            f"this node has no payment network {name or ''}".rstrip(),
            hint=f"it has: {names}" if names else "golemp2p payment init --network NAME adds one",
        )

    def send_order(self, platform: str, to: str, amount: Amount, key: str) -> Order:
        """Tokens to ``to``. Raises UsageError."""
        network = self._context.driver(platform).network
        try:
            recipient = Address(check_address(to))
        except ValueError as exc:
            raise UsageError(f"{to[:80]!r}: {exc}") from exc
        if recipient in (_ZERO, network.token):
            raise UsageError(f"what is sent to {recipient} is lost")
        if amount <= 0:
            raise UsageError("the amount is not more than zero")
        return Order(
            key=f"send-{key}",
            platform=platform,
            to=network.token,
            data=transfer_call(recipient, amount),
            tokens=amount,
            what=f"send {format_amount(amount)} {network.symbol} to {recipient}",
            detail={"kind": "send", "recipient": recipient, "amount": format_amount(amount)},
        )

    def mint_order(self, platform: str, amount: Amount | None, key: str) -> Order:
        """Test tokens for the account. Raises UsageError where there are none."""
        network = self._context.driver(platform).network
        if network.mint is None:
            hint = network.faucet_hint or f"send {network.symbol} and {network.coin} to {self._context.purse.address}"
            raise UsageError(f"nobody gives away tokens of {network.name}", hint=hint)
        if amount is not None and amount <= 0:
            raise UsageError("the amount is not more than zero")
        if network.mint_kind == "faucet":
            if amount is not None:
                raise UsageError(f"the faucet of {network.name} gives an amount of its own")
            data, what = FAUCET_CALL, f"take {network.symbol} from the faucet of {network.name}"
        else:
            given = MINTED if amount is None else amount
            data = mint_call(self._context.purse.address, given)
            what = f"mint {format_amount(given)} {network.symbol}"
        return Order(f"mint-{key}", platform, network.mint, data, Amount(0), what, {"kind": "mint"})

    async def deployments(self, platform: str) -> list[Deployment]:
        """Where this node's own contracts are, or would be, on a chain. Raises NetworkError."""
        driver = self._context.driver(platform)
        found = []
        for kind, name in CONTRACTS.items():
            configured: Address | None = getattr(driver.network, kind)
            address = configured or contracts.deterministic_address(name, driver.network.token)
            with _deadline(platform):
                there = await driver.has_code(address, contracts.deployed_sha256(name, driver.network.token))
            found.append(Deployment(kind, address, there, configured is not None))
        return found

    async def deploy_order(self, platform: str, kind: Kind, key: str) -> Order:
        """Raises UsageError where that cannot be or is done already."""
        driver, name = self._context.driver(platform), CONTRACTS[kind]
        (found,) = [d for d in await self.deployments(platform) if d.kind == kind]
        if found.deployed:
            raise ConflictError(f"{name} is at {found.address} already")
        with _deadline(platform):
            if not await driver.has_code(contracts.DEPLOYER):
                raise UsageError(
                    f"network {driver.network.name} has no deployment contract at {contracts.DEPLOYER}",
                    hint=f"deploy {name} otherwise and put its address into the settings as {kind}",
                )
        data = contracts.deployer_call(name, driver.network.token)
        address = contracts.deterministic_address(name, driver.network.token)
        what = f"deploy {name} at {address}"
        return Order(f"deploy-{key}", platform, contracts.DEPLOYER, data, Amount(0), what, {"kind": "deploy"})

    async def preview(self, order: Order) -> Planned:
        """What would be sent for it. Raises what stands in the way, NetworkError.

        The engine's hints are about what waits; here nothing was ordered.
        """
        network = self._context.driver(order.platform).network
        try:
            with _deadline(order.platform):
                planned = await self._engine.preview(order.platform, order=order)
        except OutOfGasFundsError as exc:
            raise OutOfGasFundsError(exc.message, hint=network.faucet_hint or "send some to it first") from exc
        except OutOfTokensError as exc:
            raise OutOfTokensError(exc.message, hint="nothing was ordered; send tokens to it first") from exc
        if not planned:
            raise DeadlineError(
                f"too many transactions of {order.platform} are under way", hint="look at: golemp2p payment status"
            )
        return planned[0]

    async def place(self, order: Order) -> Order:
        """Hand it to the engine, once for its key. Refused when it could not go out now: a person would not want to
        be surprised by it next week. Raises ConflictError, what stands in the way, NetworkError."""
        context = self._context
        known = await context.storage.run(lambda c: order_repo.get_order(c, order.key))
        if known is None:
            await self.preview(order)

        def store(connection: Connection) -> Order:
            order_repo.place_order(connection, order, now=context.clock())
            stored = order_repo.get_order(connection, order.key)
            assert stored is not None, order
            return stored

        stored = await context.storage.run(store)
        if (stored.platform, stored.to, stored.data) != (order.platform, order.to, order.data):
            raise ConflictError(f"the key {order.key!r} was used for something else: {stored.what}")
        context.debts.tell()
        return stored

    async def order(self, key: str, *, timeout_s: float = 0.0) -> Order:
        """When it is final or failed, or at the end of the time. Raises NotFoundError."""
        with trio.move_on_after(min(timeout_s, limits.MAX_LONG_POLL_S)):
            return await self._engine.wait_order(key)
        with trio.CancelScope(shield=True):
            found = await self._context.storage.run(lambda c: order_repo.get_order(c, key))
        if found is None:
            raise NotFoundError(f"no order {key[:200]} here")
        return found

    async def cancel(self, key: str) -> Order:
        """Withdraw one that waits. Raises NotFoundError, ConflictError (it was sent, or is done)."""
        order = await self.order(key)

        def withdraw(connection: Connection) -> bool:
            now = order_repo.get_order(connection, key)
            if now is None or now.state is not OrderState.WAITING:
                return False
            order_repo.mark_order(connection, key, OrderState.FAILED, problem="withdrawn by the owner")
            return True

        if not await self._context.storage.run(withdraw):
            raise ConflictError(f"{order.what} is {(await self.order(key)).state}: it cannot be withdrawn")
        self._context.orders.tell()
        return await self.order(key)

    async def settle(self, platform: str, *, dry_run: bool) -> list[Planned]:
        """Pay all that is owed without waiting for due dates and sizes; what that means now. Raises NetworkError."""
        with _deadline(platform):
            planned = await self._engine.preview(platform)
        if not dry_run:
            self._engine.settle_now(platform)
        return planned

    async def history(self, *, platform: str | None = None, limit: int = limits.MAX_LISTED) -> list[Movement]:
        """The newest last."""

        def read(connection: Connection) -> list[Movement]:
            payments = [p for p in notices.find_payments(connection) if platform in (None, p.notice.platform)]
            orders = order_repo.find_orders(connection, platform=platform)
            found = sorted([*map(_of_payment, payments), *map(_of_order, orders)], key=lambda m: m.at)[-limit:]
            fees = _fees(connection, [m.transaction for m in found if m.outgoing and m.transaction])
            return [replace(m, fee_wei=fees.get(m.transaction or "") if m.outgoing else None) for m in found]

        return await self._context.storage.run(read)


@contextmanager
def _deadline(platform: str) -> Iterator[None]:
    """A person waits for it."""
    try:
        with trio.fail_after(limits.WALLET_CHAIN_TIMEOUT_S):
            yield
    except trio.TooSlowError:
        raise DeadlineError(
            f"the chain of {platform} did not answer within {limits.WALLET_CHAIN_TIMEOUT_S:g} s"
        ) from None


def _fees(connection: Connection, transactions: Sequence[str]) -> dict[str, int]:
    result: dict[str, int] = {}
    for start in range(0, len(transactions), 500):  # below SQLite's limit of variables
        result |= repo.slot_fees(connection, transactions[start : start + 500])
    return result


def _of_payment(stored: notices.StoredPayment) -> Movement:
    n, outgoing = stored.notice, stored.side is Side.PAYER
    return Movement(
        at=stored.stored_at,
        what="payment",
        outgoing=outgoing,
        platform=n.platform,
        amount=n.amount,
        other=n.payee if outgoing else n.payer,
        transaction=n.transaction,
        state=stored.state,
        problem=stored.reason,
        fee_wei=None,
        id=n.id,
        agreements=tuple(agreement for agreement, _ in n.shares),
    )


def _of_order(order: Order) -> Movement:
    recipient = order.detail.get("recipient")
    return Movement(
        at=order.created_at,
        what=order.what,
        outgoing=True,
        platform=order.platform,
        amount=order.tokens,
        other=Address(recipient) if recipient else None,
        transaction=order.transaction,
        state=OrderState(order.state).value,
        problem=order.problem,
        fee_wei=None,
        id=order.key,
    )
