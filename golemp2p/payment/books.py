"""The transactions of the ledger: accept, settle, credit. Each runs inside one database transaction or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy.engine import Connection

from golemp2p.core.ids import Address, AgreementId, AllocationId, DocumentId
from golemp2p.core.money import Amount
from golemp2p.core.payment import (
    DOCUMENT,
    AllocationState,
    Charge,
    Document,
    DocumentEvent,
    DocumentKind,
    DocumentState,
    Ledger,
    Side,
    charge_allocations,
    check_budget,
)
from golemp2p.errors import ConflictError, GoneError, NotFoundError, UsageError
from golemp2p.storage import channels
from golemp2p.storage import payment as repo
from golemp2p.storage import payment_settlement as settlement_repo
from golemp2p.storage.payment import Allocation, Parties, StoredDocument

# Signs a voucher over so much more; False: there is no channel.
Vouch = Callable[[Connection, Parties, Amount], bool]
_ANSWERED = (DocumentState.ACCEPTED, DocumentState.SETTLED)


def get_document(connection: Connection, kind: DocumentKind, document_id: str, side: Side | None) -> StoredDocument:
    """Raises NotFoundError. With ``side`` None: whichever side this node is on."""
    for candidate in (Side.PAYEE, Side.PAYER) if side is None else (side,):
        found = repo.find_document(connection, DocumentId(document_id), candidate)
        if found is not None and found.document.kind is kind:
            return found
    raise NotFoundError(f"no {kind.noun} {document_id} here")


def get_allocation(connection: Connection, allocation_id: str, *, now: float) -> Allocation:
    """A live one. Raises NotFoundError, GoneError (released, expired)."""
    found = repo.find_allocations(connection, id=AllocationId(allocation_id))
    if not found:
        raise NotFoundError(f"no allocation {allocation_id} here")
    allocation = found[0]
    if allocation.state is not AllocationState.LIVE or _timed_out(allocation, now):
        state = allocation.state if allocation.state is not AllocationState.LIVE else AllocationState.EXPIRED
        raise GoneError(f"allocation {allocation_id} is {state}", hint="make a new one")
    return allocation


def live_allocations(connection: Connection, *, now: float) -> list[Allocation]:
    return [a for a in repo.find_allocations(connection, only_live=True) if not _timed_out(a, now)]


def _timed_out(allocation: Allocation, now: float) -> bool:
    return allocation.timeout_at is not None and allocation.timeout_at <= now


def committed(connection: Connection, platform: str, address: Address, *, now: float) -> Amount:
    """What of the account's balance is promised already: live budgets, and what is accepted but not yet paid."""
    live = [a for a in live_allocations(connection, now=now) if a.deposit is None]
    budgets = [a for a in live if (a.platform, a.address) == (platform, address)]
    owed = repo.owed(connection, Side.PAYER, platform=platform)
    locked = channels.unclaimed(connection, Side.PAYER, platform=platform)  # has left the account
    return Amount(sum(a.remaining for a in budgets) + max(0, owed - locked))


def accepted(ledger: Ledger, document: Document, *, at_once: bool = False) -> Ledger:
    """``at_once``: a debit note counts as payable whether or not it has a due date."""
    if document.kind is DocumentKind.INVOICE:
        return ledger.accept_invoice(document.amount)
    return ledger.accept_note(document.activity_id, document.amount, payable=document.payable or at_once)


def parties_of(stored: StoredDocument) -> Parties:
    d = stored.document
    return Parties(d.agreement_id, stored.side, stored.peer, d.payer, d.payee, d.platform)


def accept(
    connection: Connection,
    stored: StoredDocument,
    allocation_id: AllocationId,
    *,
    accepted_at_ms: int,
    signature: bytes,
    now: float,
    vouch: Vouch | None = None,
) -> bool:
    """The payer accepts: totals, budget, debt, state and event, together. False when it was accepted before.

    ``vouch``: in mode channel, what is payable becomes a voucher instead of a debt, if there is a channel.
    Raises UsageError (wrong allocation, too little budget), GoneError, ConflictError.
    """
    document = stored.document
    stored = get_document(connection, document.kind, document.id, Side.PAYER)
    if stored.state in _ANSWERED:
        return False
    state = DOCUMENT.next(stored.state, DocumentEvent.ACCEPT)
    allocation = get_allocation(connection, allocation_id, now=now)
    if (allocation.platform, allocation.address) != (document.platform, document.payer):
        raise UsageError(
            f"allocation {allocation.id} is for {allocation.address} on {allocation.platform}; the {document.kind.noun}"
            f" is to be paid by {document.payer} on {document.platform}"
        )
    before = repo.get_ledger(connection, document.agreement_id, Side.PAYER)
    after = accepted(before, document, at_once=vouch is not None)
    check_budget(
        allocation.remaining,
        Amount(after.accepted - before.accepted),
        allocation=allocation.id,
        total=allocation.total,
    )
    charges = repo.get_charges(connection, document.agreement_id)
    charged = charge_allocations(charges, allocation.id, before, after)
    repo.put_charges(connection, document.agreement_id, charged)
    after, due = after.schedule()
    parties = parties_of(stored)
    repo.put_ledger(connection, parties, after, before=before)
    if due:
        due_at = document.due_at_ms / 1000 if document.due_at_ms else None
        for deposit, amount in _by_deposit(connection, charges, charged).items():
            # A voucher gives away the account's tokens: it cannot pay what a deposit is to pay.
            if deposit is None and vouch is not None and vouch(connection, parties, amount):
                continue
            settlement_repo.add_obligation(connection, parties, amount, now=now, due_at=due_at, deposit=deposit)
    stored = replace(
        stored,
        state=state,
        reason="",
        allocation_id=allocation.id,
        accepted_at_ms=accepted_at_ms,
        acceptance_signature=signature,
    )
    repo.update_document(connection, stored)
    repo.add_event(connection, stored, "Accepted", now=now)
    _settle_if_covered(connection, stored, after, now=now)
    return True


def _by_deposit(connection: Connection, before: Sequence[Charge], after: Sequence[Charge]) -> dict[str | None, Amount]:
    """What became payable, by the deposit that pays it; None: the account.

    A released allocation's deposit, too: it is not closed while something is reserved in it. The account was never
    asked for this money, so no order of acceptances and releases may make it pay.
    """
    spent = {charge.allocation: charge.spent for charge in before}
    result: dict[str | None, Amount] = {}
    for charge in after:
        grown = charge.spent - spent.get(charge.allocation, 0)
        if grown:
            (allocation,) = repo.find_allocations(connection, id=charge.allocation)
            result[allocation.deposit] = Amount(result.get(allocation.deposit, 0) + grown)
    return result


def note_acceptance(
    connection: Connection, stored: StoredDocument, *, accepted_at_ms: int, signature: bytes, now: float
) -> bool:
    """The payee hears of it. Repeated: nothing changes, and the answer is False."""
    stored = get_document(connection, stored.document.kind, stored.document.id, Side.PAYEE)
    if stored.state in _ANSWERED:
        return False
    state = DOCUMENT.next(stored.state, DocumentEvent.ACCEPT)
    stored = replace(stored, state=state, reason="", accepted_at_ms=accepted_at_ms, acceptance_signature=signature)
    before = ledger = repo.get_ledger(connection, stored.document.agreement_id, Side.PAYEE)
    # The payer checked its own books; a contradiction with ours (say, after a lost disk) must not lose its signature.
    try:
        ledger = accepted(ledger, stored.document)
    except ConflictError as exc:
        stored = replace(stored, reason=exc.message)
    repo.put_ledger(connection, parties_of(stored), ledger, before=before)
    repo.update_document(connection, stored)
    repo.add_event(connection, stored, "Accepted", now=now)
    _settle_if_covered(connection, stored, ledger, now=now)
    return True


def settle_covered(
    connection: Connection, agreement_id: AgreementId, side: Side, ledger: Ledger, *, now: float
) -> list[DocumentId]:
    """Accepted documents whose amount is paid become SETTLED. Returns their ids."""
    states = (DocumentState.ACCEPTED, DocumentState.FAILED)
    found = repo.find_documents(connection, agreement_id=agreement_id, side=side, states=states)
    return [stored.document.id for stored in found if _settle_if_covered(connection, stored, ledger, now=now)]


def _settle_if_covered(connection: Connection, stored: StoredDocument, ledger: Ledger, *, now: float) -> bool:
    document = stored.document
    activity = document.activity_id if document.kind is DocumentKind.DEBIT_NOTE else None
    if not ledger.covers(activity, document.amount):
        return False
    stored = replace(stored, state=DOCUMENT.next(stored.state, DocumentEvent.SETTLE))
    repo.update_document(connection, stored)
    repo.add_event(connection, stored, "Settled", now=now)
    return True
