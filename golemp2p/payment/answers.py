"""The node answers for an agent that is gone: what the agreement plainly owes is accepted, all else waits, with why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import NoReturn

import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p.core.agreement import Agreement
from golemp2p.core.ids import ActivityId, AllocationId
from golemp2p.core.money import Amount, format_amount
from golemp2p.core.payment import (
    DocumentKind,
    Ledger,
    Side,
    refusal_of_debit_note,
    refusal_of_invoice,
)
from golemp2p.errors import GolemError
from golemp2p.payment import books
from golemp2p.payment.documents import Documents
from golemp2p.payment.ports import Context
from golemp2p.storage import payment as repo
from golemp2p.storage.payment import Allocation, StoredDocument

log = structlog.get_logger(__name__)


class Answers:
    def __init__(self, context: Context, documents: Documents) -> None:
        self._context = context
        self._documents = documents

    async def run(self) -> NoReturn:
        """Sleeps until the next unanswered document is due, or until something changes."""
        context = self._context
        after_s = context.settings.auto_accept_after_s
        if after_s is None:
            await trio.sleep_forever()
            raise AssertionError  # pragma: no cover - never reached
        while True:
            news = context.events.next()
            now = context.clock()
            due, following = await context.storage.run(partial(repo.received_before, moment=now - after_s))
            for stored in due:
                await self._answer(stored)
            with trio.move_on_after(float("inf") if following is None else following + after_s - now):
                await news.wait()

    async def _answer(self, stored: StoredDocument) -> None:
        document = stored.document
        try:
            allocation_id, reason = await self._judge(stored)
            if allocation_id is not None:
                await self._documents.accept(
                    document.kind, document.id, amount=document.amount, allocation_id=allocation_id
                )
                log.info(
                    "document_accepted_by_node",
                    kind=document.kind,
                    document_id=document.id,
                    amount=format_amount(document.amount),
                )
                return
        except GolemError as exc:
            reason = str(exc)
        if reason != stored.reason:
            log.warning("document_waits_for_agent", kind=document.kind, document_id=document.id, reason=reason)
            waiting = replace(stored, reason=reason)
            await self._context.storage.run(lambda c: repo.update_document(c, waiting))

    async def _judge(self, stored: StoredDocument) -> tuple[AllocationId | None, str]:
        """The allocation that pays it, or the reason why the node does not accept it by itself."""
        context, document = self._context, stored.document
        now = context.clock()
        agreement = await context.agreements.agreement(document.agreement_id)
        ledger = await context.storage.run(lambda c: repo.get_ledger(c, document.agreement_id, Side.PAYER))
        reason = await self._refusal(stored, agreement, ledger, now)
        if reason:
            return None, reason
        needed = Amount(books.accepted(ledger, document).accepted - ledger.accepted)
        named = frozenset(agreement.allocations)
        for allocation in await context.storage.run(lambda c: _allocations_for(c, stored, named, now=now)):
            if allocation.remaining >= needed:
                return allocation.id, ""
        return None, f"no live allocation of this session has {format_amount(needed)} left for it"

    async def _refusal(self, stored: StoredDocument, agreement: Agreement, ledger: Ledger, now: float) -> str:
        document = stored.document
        if document.kind is DocumentKind.DEBIT_NOTE:
            stranger = await self._stranger(agreement, document.activity_ids)
            return stranger or refusal_of_debit_note(document, agreement, ledger, now=now)
        notes = await self._context.storage.run(lambda c: repo.last_notes(c, document.agreement_id, Side.PAYER))
        if stranger := await self._stranger(agreement, notes):
            return stranger
        return refusal_of_invoice(document, agreement, ledger, notes, now=now)

    async def _stranger(self, agreement: Agreement, activities: Iterable[ActivityId]) -> str:
        """A provider must not bill activities that nobody created. "" when all are known."""
        known = self._context.knows_activity
        for activity in activities:
            if known is not None and not await known(agreement.id, activity):
                return f"this node created no activity {activity} under the agreement"
        return ""


def _allocations_for(
    connection: Connection, stored: StoredDocument, named: frozenset[str], *, now: float
) -> list[Allocation]:
    """The live budgets that were meant for this document: those that paid for its agreement, then for its session.

    ``named``: those that its demand names, when it does; then no others but those that paid before. Else, when nothing
    of either was accepted yet: the platform's only live one, unless another session has used it. An agent that is
    gone must not be answered for with the money of another.
    """
    document = stored.document
    fitting = [
        a
        for a in books.live_allocations(connection, now=now)
        if (a.platform, a.address) == (document.platform, document.payer)
    ]
    of_agreement = {charge.allocation for charge in repo.get_charges(connection, document.agreement_id)}
    if named:
        meant = named | of_agreement
        return sorted((a for a in fitting if a.id in meant), key=lambda a: (a.id not in of_agreement, a.created_at))
    mine = of_agreement
    if stored.session_id is not None:
        mine = mine | {a.id for a in fitting if a.id == stored.session_id}  # our SDK names its session so
        mine = mine | repo.allocations_of_session(connection, stored.session_id)
    if mine:
        return sorted((a for a in fitting if a.id in mine), key=lambda a: (a.id not in of_agreement, a.created_at))
    if len(fitting) == 1 and repo.sessions_of_allocation(connection, fitting[0].id) <= {stored.session_id}:
        return fitting
    return []
