"""What settlement shows of itself: errors that are states, plans, and the status of a platform."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from golemp2p.core.ids import Address
from golemp2p.core.money import ZERO, Amount
from golemp2p.core.payment import Fees, Group, SlotState
from golemp2p.errors import PolicyError
from golemp2p.payment.drivers.base import Call
from golemp2p.storage.orders import Order
from golemp2p.storage.payment_settlement import Mode

Checkpoint = Callable[[str], Awaitable[None]]


class OutOfTokensError(PolicyError):
    """The account holds less of the token than it owes."""

    code = "out_of_tokens"


class PaymentRevertedError(PolicyError):
    """The token contract refused a transfer."""

    code = "payment_reverted"


class PayeeParkedError(PolicyError):
    """The token contract refuses transfers to this payee; others are paid all the same."""

    code = "payee_parked"


class FeesAboveCapError(PolicyError):
    """The chain asks more per gas than the network's cap. Goes on by itself when fees fall."""

    code = "fees_above_cap"


class NonceTakenError(PolicyError):
    """A transaction that is not ours has used a nonce of the account. Goes on by itself when that one is final."""

    code = "nonce_taken"


class PaidBeforeError(PolicyError):
    """A transaction of the account that the database does not know has paid this payee: an older copy owes again."""

    code = "paid_before"


class OrderRefusedError(PolicyError):
    """A contract refuses an ordered call now."""

    code = "order_refused"


@dataclass(frozen=True)
class Planned:
    """One transaction that would be sent now. ``groups``: whom it pays; or ``order``: what somebody ordered."""

    mode: Mode
    batch_id: str
    call: Call
    fees: Fees
    amount: Amount  # tokens that leave the account
    groups: tuple[Group, ...] = ()
    order: Order | None = None
    nonce: int | None = None  # in a preview

    @property
    def max_cost_wei(self) -> int:
        return self.call.gas * self.fees.max_fee + self.call.value


@dataclass(frozen=True)
class SlotView:
    """A transaction under way."""

    nonce: int
    mode: Mode
    state: SlotState
    amount: Amount
    payee: Address
    transaction: str  # the newest version's
    versions: int
    max_fee: int
    since: float  # seconds since the epoch


@dataclass(frozen=True)
class PlatformStatus:
    """What the engine is doing on one platform. ``problem`` is "" when all is well."""

    platform: str
    owed: Amount  # accepted and not finally paid
    in_flight: int
    problem: str
    waiting: Amount  # owed, and in no transaction yet
    rolled_over: Amount  # of that: to payees below the least payout
    next_at: float | None  # when waiting debts go out at the latest (seconds since the epoch)
    orders: int  # transactions ordered and not sent yet
    slots: tuple[SlotView, ...] = ()
    spent_today: Amount = ZERO
    cap_per_day: Amount | None = None
    cap_per_agreement: Amount | None = None
