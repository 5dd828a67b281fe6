"""Does a transaction on the chain bear out a payment notice? Judged from the token's own Transfer events alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from golemp2p.core.ids import Address
from golemp2p.core.money import format_amount
from golemp2p.core.payment.documents import PaymentNotice


@dataclass(frozen=True)
class Leg:
    """One Transfer event. ``token`` is the contract that emitted it: anybody can emit one from a contract of theirs."""

    log_index: int
    token: Address
    sender: Address
    recipient: Address
    amount: int


@dataclass(frozen=True)
class MinedTransfers:
    """All Transfer events of a mined transaction. ``depth``: blocks from its own to the head, both counted;
    ``final``: by the network's rule."""

    transaction: str
    block_number: int
    block_hash: str
    depth: int
    succeeded: bool
    legs: tuple[Leg, ...]
    final: bool = True
    sender: Address | None = None  # of the transaction
    target: Address | None = None  # the contract that it called


def judge_claim(
    notice: PaymentNotice,
    found: MinedTransfers,
    *,
    token: Address,
    used_log_indices: Collection[int],
    distributors: Collection[Address] = (),
    lock: Address | None = None,
) -> tuple[list[Leg], str]:
    """The legs that pay ``notice``, or a reason why it is refused.

    ``used_log_indices``: events of this transaction that paid an earlier notice. A native-coin transfer has no event
    and so counts for nothing; events of other tokens, recipients and senders do not count either.
    ``distributors``: contracts of the network that pull a sum from the payer and push it on to several payees.
    ``lock``: Golem's deposit contract: only a deposit's spender moves its tokens, so what it sends in a transaction by
    which the payer calls it is the payer's payment.
    """
    if not found.succeeded:
        return [], f"transaction {notice.transaction} was reverted"
    if lock is not None and found.sender == notice.payer and found.target == lock:
        legs = [replace(leg, sender=notice.payer) if leg.sender == lock else leg for leg in found.legs]
        found = replace(found, legs=tuple(legs))
    ours = [
        leg
        for leg, payer in _with_payers([leg for leg in found.legs if leg.token == token], distributors)
        if payer == notice.payer and leg.recipient == notice.payee and leg.amount > 0
    ]
    if not ours:
        return [], (
            f"transaction {notice.transaction} holds no transfer of token {token} from {notice.payer} to {notice.payee}"
        )
    fresh = [leg for leg in ours if leg.log_index not in used_log_indices]
    if not fresh:
        return [], f"transaction {notice.transaction} has paid for something else already"
    total = sum(leg.amount for leg in fresh)
    if total != notice.amount:
        return [], (
            f"transaction {notice.transaction} transfers {format_amount(total)}, the notice claims"
            f" {format_amount(notice.amount)}"
        )
    return fresh, ""


def _with_payers(legs: Sequence[Leg], distributors: Collection[Address]) -> list[tuple[Leg, Address]]:
    """Each leg with whose money it was.

    A distributor holds nothing between calls: what it pushes comes from the transfer to it that is the latest before,
    and no more than that. So one who calls it in the same transaction as somebody else cannot claim that one's legs.
    """
    pulled: dict[Address, tuple[Address, int]] = {}  # distributor -> (payer, what is left of its sum)
    result = []
    for leg in sorted(legs, key=lambda leg: leg.log_index):
        payer = leg.sender
        if leg.recipient in distributors:
            pulled[leg.recipient] = (leg.sender, leg.amount)
        elif leg.sender in distributors:
            source, left = pulled.get(leg.sender, (leg.sender, 0))
            if leg.amount <= left:
                payer = source
                pulled[leg.sender] = (source, left - leg.amount)
        result.append((leg, payer))
    return result
