"""The payee's alarm: a bill that was accepted, and is not SETTLED some time after it was due.

It is told once in the log of each run of the node, and shown in the status until it is paid. What is SETTLED is decided
by the chain alone (claims.py), so a payer that only says that it paid does not silence it.
"""

from __future__ import annotations

from functools import partial
from typing import NoReturn

import structlog
import trio

from golemp2p import limits
from golemp2p.core.money import Amount, format_amount
from golemp2p.payment.ports import Context
from golemp2p.storage import payment_overdue as repo
from golemp2p.storage.payment_overdue import OverdueBill

log = structlog.get_logger(__name__)


class Overdue:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._told: set[str] = set()

    async def bills(self) -> list[OverdueBill]:
        """From the database; the longest overdue first, MAX_LISTED at most."""
        before = self._context.clock() - limits.OVERDUE_GRACE_S
        return await self._context.storage.run(
            lambda c: repo.overdue_bills(c, due_before=before, limit=limits.MAX_LISTED)
        )

    async def run(self) -> NoReturn:
        """Looks when a bill falls due, and asks neither the chain nor the database otherwise."""
        context = self._context
        while True:
            news = context.events.next()
            self._tell(await self.bills())
            now = context.clock()
            due = await context.storage.run(partial(repo.next_due, after=now - limits.OVERDUE_GRACE_S))
            if due is None:
                await news.wait()  # any change of a document may be an acceptance
                await trio.sleep(limits.OVERDUE_CHECK_S)  # and they come in swarms
            else:
                await trio.sleep(max(limits.OVERDUE_CHECK_S, due + limits.OVERDUE_GRACE_S - now))

    def _tell(self, bills: list[OverdueBill]) -> None:
        for bill in bills:
            if bill.id not in self._told:
                log.warning(
                    "bill_overdue",
                    document_id=bill.id,
                    agreement_id=bill.agreement_id,
                    payer=bill.payer,
                    platform=bill.platform,
                    amount=format_amount(bill.amount),
                    overdue_s=round(self._context.clock() - bill.due_at),
                )
        self._told = {bill.id for bill in bills}


def overdue_problem(bills: list[OverdueBill], *, now: float) -> str:
    """In words, "" for none. Notes are totals of their activity, so sums of documents would say too much."""
    if not bills:
        return ""
    worst = bills[0]
    what = "one accepted bill is" if len(bills) == 1 else f"{len(bills)} accepted bills are"
    return (
        f"{what} overdue: {worst.kind} {worst.id} of {format_amount(Amount(worst.amount))} from {worst.payer},"
        f" by {(now - worst.due_at) / 3600:.1f} h"
    )
