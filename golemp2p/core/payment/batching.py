"""When debts are paid, and which: the fewer transactions the better, but never later than was agreed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from golemp2p.core.ids import Address, AgreementId, PeerId
from golemp2p.core.money import ZERO, Amount


@dataclass(frozen=True)
class Cycle:
    """When debts are gathered into a transaction. Whichever comes first; all zero: at once.

    ``fee_parts``: before its due date a batch waits while its fee is more than one part in so many of its sum, at
    ``coin_price`` tokens for one of the chain's own coins (0: the fee is not looked at).
    ``min_payout``: what one payee is owed stays owed, and rolls over, while it is less.
    """

    interval_s: float = 0.0  # since the oldest debt
    max_payees: int = 1  # so many payees wait
    max_total: Amount = ZERO  # so much is owed in all; 0: any sum
    due_margin_s: float = 60.0  # before the earliest due date
    fee_parts: int = 0
    coin_price: float = 0.0
    min_payout: Amount = ZERO

    def affords(self, fee_wei: int, total: Amount) -> bool:
        """Whether a fee is worth its payout. Token and coin both have 18 decimals."""
        if not self.fee_parts or not self.coin_price:
            return True
        return fee_wei * self.coin_price * self.fee_parts <= total


@dataclass(frozen=True)
class Obligation:
    """A debt: the growth of one agreement's payable total. ``due_at``: seconds since the epoch."""

    id: int
    agreement_id: AgreementId
    peer: PeerId
    payer: Address
    payee: Address
    platform: str
    amount: Amount
    created_at: float
    due_at: float | None = None
    deposit: str | None = None  # paid from tokens that somebody locked for us: "contract/0xid"


@dataclass(frozen=True)
class Group:
    """All that one payee is to get in one transaction."""

    payee: Address
    peer: PeerId
    debts: tuple[Obligation, ...]

    @property
    def deposit(self) -> str | None:
        return self.debts[0].deposit

    @property
    def amount(self) -> Amount:
        return Amount(sum(debt.amount for debt in self.debts))


@dataclass(frozen=True)
class Choice:
    """``groups``: whom to pay now. Else ``wake_at`` (seconds since the epoch) says when to look again; None: at news.

    ``urgent``: some of it is due, so no fee is too high. ``rolled_over``: owed to payees below the least payout.
    """

    groups: tuple[Group, ...] = ()
    wake_at: float | None = None
    urgent: bool = False
    rolled_over: Amount = ZERO


def net(debts: Sequence[Obligation], *, max_agreements: int) -> list[Group]:
    """By payee (its node, and the deposit it is paid from), the one with the oldest debt first; a payment notice has
    room for so many agreements."""
    groups: dict[tuple[Address, PeerId, str | None], list[Obligation]] = {}
    agreements: dict[tuple[Address, PeerId, str | None], set[AgreementId]] = {}
    for debt in debts:
        key = (debt.payee, debt.peer, debt.deposit)
        known = agreements.setdefault(key, set())
        if debt.agreement_id in known or len(known) < max_agreements:
            known.add(debt.agreement_id)
            groups.setdefault(key, []).append(debt)
    return [Group(payee, peer, tuple(mine)) for (payee, peer, _), mine in groups.items()]


def choose(groups: Sequence[Group], cycle: Cycle, *, now: float, force: bool = False) -> Choice:
    """Whether it is time. ``force``: the owner said so."""
    payable = [group for group in groups if force or group.amount >= cycle.min_payout]
    rolled_over = Amount(sum(group.amount for group in groups if group not in payable))
    if not payable:
        return Choice(rolled_over=rolled_over)
    debts = [debt for group in payable for debt in group.debts]
    oldest = min(debt.created_at for debt in debts)
    due = min((debt.due_at for debt in debts if debt.due_at is not None), default=float("inf")) - cycle.due_margin_s
    urgent = force or due <= now
    total = sum(debt.amount for debt in debts)
    enough = (cycle.max_payees > 0 and len(payable) >= cycle.max_payees > 1) or (
        cycle.max_total > 0 and total >= cycle.max_total
    )
    if urgent or enough or now >= oldest + cycle.interval_s:
        return Choice(tuple(payable), urgent=urgent, rolled_over=rolled_over)
    return Choice(wake_at=min(oldest + cycle.interval_s, due), rolled_over=rolled_over)
