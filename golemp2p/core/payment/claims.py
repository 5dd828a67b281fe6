"""Does a transaction on the chain bear out a payment notice? Judged from the token's own Transfer events alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

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
    """All Transfer events of a mined transaction. ``depth``: blocks from its own to the head, both counted."""

    transaction: str
    block_number: int
    block_hash: str
    depth: int
    succeeded: bool
    legs: tuple[Leg, ...]


def judge_claim(
    notice: PaymentNotice, found: MinedTransfers, *, token: Address, used_log_indices: Collection[int]
) -> tuple[list[Leg], str]:
    """The legs that pay ``notice``, or a reason why it is refused.

    ``used_log_indices``: events of this transaction that paid an earlier notice. A native-coin transfer has no event
    and so counts for nothing; events of other tokens, recipients and senders do not count either.
    """
    if not found.succeeded:
        return [], f"transaction {notice.transaction} was reverted"
    ours = [
        leg
        for leg in found.legs
        if leg.token == token and leg.sender == notice.payer and leg.recipient == notice.payee and leg.amount > 0
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
