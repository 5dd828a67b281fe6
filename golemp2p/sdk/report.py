"""Who did what, for how much: one row for each attempt at a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from golemp2p.core.money import format_amount
from golemp2p.sdk.contracts import Attempt, Contract, shares
from golemp2p.wire.rest.payment import Payment


@dataclass(frozen=True)
class ReportRow:
    """``price`` in GLM is this attempt's share of its agreement's bill, by time; None until there is a bill.

    ``outcome``: done, failed (the task's fault), lost (the provider's fault), cancelled. ``transaction``: known after
    ``Golem.settled``.
    """

    task: int
    provider_name: str
    provider_id: str
    seconds: float
    outcome: str
    price: Decimal | None
    agreement_id: str
    invoice_id: str
    transaction: str


def rows(
    attempts: Sequence[Attempt], contracts: Mapping[str, Contract], payments: Sequence[Payment]
) -> list[ReportRow]:
    """In the order in which the attempts ended. The prices of an agreement's rows add up to its bill."""
    transactions = {
        share.agreement_id: payment.transaction for payment in payments for share in payment.agreement_payments
    }
    prices: dict[int, Decimal] = {}
    for agreement_id, contract in contracts.items():
        own = [n for n, attempt in enumerate(attempts) if attempt.agreement_id == agreement_id]
        if contract.invoiced is None and not contract.notes:
            continue
        for n, amount in zip(own, shares(contract.billed, [attempts[n].seconds for n in own]), strict=True):
            prices[n] = Decimal(format_amount(amount))
    found = []
    for n, attempt in enumerate(attempts):
        contract = contracts[attempt.agreement_id]
        found.append(
            ReportRow(
                attempt.task,
                contract.provider_name,
                contract.provider_id,
                attempt.seconds,
                attempt.outcome,
                prices.get(n),
                contract.agreement_id,
                contract.invoice_id,
                transactions.get(contract.agreement_id, ""),
            )
        )
    return found
