"""Debit notes and invoices, on both sides: issue and send (payee), receive, accept and reject (payer)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.agreement import Agreement, AgreementState, Role
from golemp2p.core.ids import ActivityId, Address, AgreementId, AllocationId, DocumentId, PeerId, new_document_id
from golemp2p.core.money import Amount, format_amount
from golemp2p.core.payment import (
    DOCUMENT,
    Acceptance,
    Document,
    DocumentEvent,
    DocumentKind,
    DocumentState,
    Ledger,
    Side,
)
from golemp2p.core.payment.vouchers import CHANNEL, mode_of
from golemp2p.core.peer import address_of, recover_address
from golemp2p.errors import ConflictError, PolicyError, RemoteError, RemoteProtocolError, UsageError
from golemp2p.net.ratelimit import RateLimit
from golemp2p.payment import books, journaling
from golemp2p.payment.incoming import Step
from golemp2p.payment.messages import document_message
from golemp2p.payment.outbox import post
from golemp2p.payment.ports import Context
from golemp2p.storage import payment as repo
from golemp2p.storage.payment import Parties, StoredDocument
from golemp2p.wire.p2p import payment as wire

_DEAD = (DocumentState.REJECTED, DocumentState.CANCELLED)
_SEND_METHOD = {DocumentKind.DEBIT_NOTE: wire.SEND_DEBIT_NOTE, DocumentKind.INVOICE: wire.SEND_INVOICE}


def terms_of(agreement: Agreement, platform: str | None = None) -> tuple[str, Address, Address]:
    """(platform, payer, payee) as both sides agreed.

    Raises UsageError when no platform was agreed, PolicyError when somebody else's account is named: a node proves
    its own account only, and who may name another's may have that one's payments counted as its own.
    """
    prefix, suffix = "golem.com.payment.platform.", ".address"
    platform = platform or agreement.payment_platform
    if platform is None:
        common = [
            name[len(prefix) : -len(suffix)]
            for name in agreement.demand
            if name.startswith(prefix) and name.endswith(suffix) and name in agreement.offer
        ]
        if not common:
            raise UsageError(f"agreement {agreement.id} names no payment platform")
        platform = sorted(common)[0]
    name = f"{prefix}{platform}{suffix}"
    payer = str(agreement.demand.get(name, agreement.requestor_address)).lower()
    payee = str(agreement.offer.get(name, agreement.provider_address)).lower()
    for role, named, own in (
        ("requestor", payer, agreement.requestor_address),
        ("provider", payee, agreement.provider_address),
    ):
        if named != own:
            raise PolicyError(
                f"agreement {agreement.id} names the account {named}, which is not its {role}'s ({own})",
                hint="paying from or to another account is not possible yet",
            )
    return platform, Address(payer), Address(payee)


class Vouchers(Protocol):
    """Payment mode "channel" (payment/channels)."""

    def vouch(self, connection: Connection, parties: Parties, amount: Amount, *, now: float) -> bool:
        """A voucher over ``amount`` more, in this transaction. False: no channel. Raises SpendingCapError."""
        ...

    def tell(self) -> None:
        """An acceptance was made, or came in."""
        ...


class Documents:
    def __init__(self, context: Context, vouchers: Vouchers) -> None:
        self._context = context
        self._vouchers = vouchers
        self._note_rate = RateLimit(limits.DEBIT_NOTES_PER_S, limits.DEBIT_NOTES_BURST)

    # --- the payee ------------------------------------------------------------------------------------------------

    async def issue_debit_note(
        self,
        agreement_id: AgreementId,
        activity_id: ActivityId,
        total: Amount,
        *,
        usage: Sequence[float] = (),
        due_at: float | None = None,
        document_id: DocumentId | None = None,
    ) -> StoredDocument:
        """``total`` is what the activity has cost so far, ``due_at`` makes it payable before the invoice.

        Idempotent by ``document_id``. Raises NotFoundError, UsageError, ConflictError (a total that went down).
        """
        document = await self._draft(agreement_id, DocumentKind.DEBIT_NOTE, (activity_id,), total, due_at, document_id)
        document = replace(document, usage=json.dumps(list(usage)))
        document.usage_vector  # noqa: B018 - refuses what is not a number
        return await self._issue(document)

    async def agreement_of(self, activity_id: ActivityId) -> AgreementId:
        """From the activity's earlier debit notes. Raises UsageError: then the caller must say."""
        found = await self._context.storage.run(
            lambda c: repo.find_documents(c, kind=DocumentKind.DEBIT_NOTE, side=Side.PAYEE)
        )
        for stored in found:
            if stored.document.activity_id == activity_id:
                return stored.document.agreement_id
        raise UsageError(f"the agreement of activity {activity_id} is not known here", hint="give agreementId too")

    async def issue_invoice(
        self,
        agreement_id: AgreementId,
        amount: Amount,
        *,
        activity_ids: Sequence[ActivityId] = (),
        due_at: float | None = None,
        document_id: DocumentId | None = None,
    ) -> StoredDocument:
        """``amount`` is final for the agreement. Raises NotFoundError, UsageError, ConflictError."""
        due_at = due_at if due_at is not None else self._context.clock()
        return await self._issue(
            await self._draft(agreement_id, DocumentKind.INVOICE, tuple(activity_ids), amount, due_at, document_id)
        )

    async def _draft(
        self,
        agreement_id: AgreementId,
        kind: DocumentKind,
        activity_ids: tuple[ActivityId, ...],
        amount: Amount,
        due_at: float | None,
        document_id: DocumentId | None,
    ) -> Document:
        agreement = await self._context.agreements.agreement(agreement_id)
        if agreement.role is not Role.PROVIDER:
            raise UsageError(f"this node is the requestor of agreement {agreement_id}: the provider bills")
        if agreement.state not in (AgreementState.APPROVED, AgreementState.TERMINATED):
            raise UsageError(f"agreement {agreement_id} is {agreement.state}, not approved")
        platform, payer, payee = terms_of(agreement)
        return Document(
            kind=kind,
            id=document_id or new_document_id(),
            agreement_id=agreement_id,
            activity_ids=activity_ids,
            payer=payer,
            payee=payee,
            platform=platform,
            amount=amount,
            issued_at_ms=self._context.now_ms(),
            due_at_ms=0 if due_at is None else round(due_at * 1000),
        )

    async def _issue(self, document: Document) -> StoredDocument:
        context = self._context
        agreement = await context.agreements.agreement(document.agreement_id)
        now = context.clock()

        def store(connection: Connection) -> StoredDocument:
            known = repo.find_document(connection, document.id, Side.PAYEE)
            if known is not None:
                if not _same_claim(document, known.document):
                    raise ConflictError(f"{document.kind.noun} {document.id} exists already, with other contents")
                return known
            linked = document
            if document.kind is DocumentKind.DEBIT_NOTE:
                last = _last_note(connection, document, Side.PAYEE)
                linked = replace(document, previous_id=last.id if last is not None else "")
            stored = StoredDocument(
                document=linked,
                side=Side.PAYEE,
                peer=agreement.counterpart,
                signature=context.signer.sign(linked.digest(context.domain)),
                session_id=agreement.session_id,
                state=DOCUMENT.initial,
                stored_at=now,
            )
            _check_sequence(connection, linked, Side.PAYEE)
            repo.insert_document(connection, stored)
            journaling.document(connection, agreement, stored, context.domain)
            if repo.get_parties(connection, document.agreement_id, Side.PAYEE) is None:
                repo.put_ledger(connection, books.parties_of(stored), Ledger())
            return stored

        return await context.storage.run(store)

    async def send(self, kind: DocumentKind, document_id: str) -> None:
        """Hand it to the outbox: from here on it gets to the requestor, restarts or not. Repeated: nothing."""
        context = self._context
        now = context.clock()

        def store(connection: Connection) -> None:
            stored = books.get_document(connection, kind, document_id, Side.PAYEE)
            if stored.state is not DocumentState.ISSUED and stored.state is not DocumentState.CANCELLED:
                return
            stored = replace(stored, state=DOCUMENT.next(stored.state, DocumentEvent.SEND))
            repo.update_document(connection, stored)
            message = document_message(stored.document, stored.signature)
            post(connection, stored.peer, _SEND_METHOD[kind], message, now=now)

        await context.storage.run(store)
        context.outbox.tell()

    async def cancel(self, kind: DocumentKind, document_id: str) -> None:
        """Before it was sent only."""
        context = self._context
        now = context.clock()

        def store(connection: Connection) -> None:
            stored = books.get_document(connection, kind, document_id, Side.PAYEE)
            if stored.state is DocumentState.CANCELLED:
                return
            stored = replace(stored, state=DOCUMENT.next(stored.state, DocumentEvent.CANCEL))
            repo.update_document(connection, stored)
            journaling.cancellation(connection, stored.side, stored.document, now=now)
            repo.add_event(connection, stored, "Cancelled", now=now)

        await context.storage.run(store)
        context.events.tell()

    # --- the payer ------------------------------------------------------------------------------------------------

    async def receive(self, peer: PeerId, document: Document, signature: bytes) -> Step:
        """From the provider's node. Raises what it is answered, now or in the job: RemoteProtocolError, PolicyError,
        ConflictError, and RemoteError "busy" for debit notes that come too fast."""
        context = self._context
        agreement = await context.agreements.agreement(document.agreement_id)
        noun = document.kind.noun
        if agreement.role is not Role.REQUESTOR or agreement.provider != peer:
            raise PolicyError(f"agreement {agreement.id} is not between us")
        if agreement.state not in (AgreementState.APPROVED, AgreementState.TERMINATED):
            raise PolicyError(f"agreement {agreement.id} is {agreement.state}, not approved")
        if (document.platform, document.payer, document.payee) != terms_of(agreement):
            raise RemoteProtocolError(f"the {noun}'s platform, payer or payee is not the agreed one")
        if recover_address(document.digest(context.domain), signature) != address_of(peer):
            raise RemoteProtocolError(f"the {noun}'s signature is not the provider's")
        stored = StoredDocument(
            document=document,
            side=Side.PAYER,
            peer=peer,
            signature=signature,
            session_id=agreement.session_id,
            state=DOCUMENT.next(DOCUMENT.initial, DocumentEvent.SEND),
            stored_at=context.clock(),
        )

        def store(connection: Connection) -> None:
            known = repo.find_document(connection, document.id, Side.PAYER)
            if known is not None:
                if known.document != document:
                    raise ConflictError(f"{noun} {document.id} was received before, with other contents")
                return
            if document.kind is DocumentKind.DEBIT_NOTE:
                self._check_flood(connection, document)
            _check_sequence(connection, document, Side.PAYER)
            repo.insert_document(connection, stored)
            journaling.document(connection, agreement, stored, context.domain)
            repo.add_event(connection, stored, "Received", now=stored.stored_at)

        return Step(store, context.events.tell)

    def _check_flood(self, connection: Connection, note: Document) -> None:
        if repo.count_notes(connection, note.agreement_id, Side.PAYER) >= limits.MAX_DEBIT_NOTES:
            raise PolicyError(
                f"agreement {note.agreement_id} has {limits.MAX_DEBIT_NOTES} debit notes, no more are taken",
                hint="send the invoice",
            )
        if not self._note_rate.allow(note.agreement_id, self._context.clock()):
            raise RemoteError(
                f"debit notes of agreement {note.agreement_id} come too fast",
                code="busy",
                hint=f"{limits.DEBIT_NOTES_PER_S:g} a second are taken",
            )

    async def accept(
        self, kind: DocumentKind, document_id: str, *, amount: Amount, allocation_id: AllocationId
    ) -> None:
        """Promise to pay it. Accepted before: nothing. Raises UsageError (amount, budget), GoneError, NotFoundError."""
        context = self._context
        now = context.clock()
        found = await context.storage.run(lambda c: books.get_document(c, kind, document_id, Side.PAYER))
        agreement = await context.agreements.agreement(found.document.agreement_id)
        vouch = partial(self._vouchers.vouch, now=now) if mode_of(agreement.demand) == CHANNEL else None

        def store(connection: Connection) -> bool:
            stored = books.get_document(connection, kind, document_id, Side.PAYER)
            if stored.document.amount != amount:
                raise UsageError(
                    f"the {kind.noun} is for {format_amount(stored.document.amount)}, not {format_amount(amount)}",
                    hint="accept exactly its amount, or reject it",
                )
            acceptance = Acceptance(stored.document, round(now * 1000))
            signature = context.signer.sign(acceptance.digest(context.domain))
            accepted = books.accept(
                connection,
                stored,
                allocation_id,
                accepted_at_ms=acceptance.accepted_at_ms,
                signature=signature,
                now=now,
                vouch=vouch,
            )
            if accepted:
                journaling.acceptance(connection, Side.PAYER, acceptance, signature, context.domain, now=now)
                message = wire.AcceptanceMessage(
                    kind=kind, document_id=document_id, accepted_at=acceptance.accepted_at_ms, signature=signature
                )
                post(connection, stored.peer, wire.ACCEPTANCE, message, now=now)
            return accepted

        if await context.storage.run(store):
            context.events.tell()
            context.outbox.tell()
            context.debts.tell()
            self._vouchers.tell()

    async def reject(self, kind: DocumentKind, document_id: str, *, code: str, message: str) -> None:
        """Tell the provider why it is not paid. Rejected before: nothing."""
        context = self._context
        now = context.clock()

        def store(connection: Connection) -> None:
            stored = books.get_document(connection, kind, document_id, Side.PAYER)
            if _note_rejection(connection, stored, code, message, now=now):
                body = wire.RejectionMessage(kind=kind, document_id=document_id, code=code, message=message)
                post(connection, stored.peer, wire.REJECTION, body, now=now)

        await context.storage.run(store)
        context.events.tell()
        context.outbox.tell()

    # --- the payee hears ------------------------------------------------------------------------------------------

    def hear_acceptance(
        self, peer: PeerId, kind: DocumentKind, document_id: str, *, accepted_at_ms: int, signature: bytes
    ) -> Step:
        """From the requestor's node. Its job raises NotFoundError, PolicyError, RemoteProtocolError: its answer."""
        context = self._context
        now = context.clock()

        def store(connection: Connection) -> None:
            stored = books.get_document(connection, kind, document_id, Side.PAYEE)
            _must_be_from(peer, stored)
            acceptance = Acceptance(stored.document, accepted_at_ms)
            if recover_address(acceptance.digest(context.domain), signature) != address_of(peer):
                raise RemoteProtocolError("the acceptance's signature is not the requestor's")
            if books.note_acceptance(connection, stored, accepted_at_ms=accepted_at_ms, signature=signature, now=now):
                journaling.acceptance(connection, Side.PAYEE, acceptance, signature, context.domain, now=now)

        def tell() -> None:
            context.events.tell()
            self._vouchers.tell()

        return Step(store, tell)

    def hear_rejection(self, peer: PeerId, kind: DocumentKind, document_id: str, *, code: str, message: str) -> Step:
        """From the requestor's node."""
        now = self._context.clock()

        def store(connection: Connection) -> None:
            stored = books.get_document(connection, kind, document_id, Side.PAYEE)
            _must_be_from(peer, stored)
            _note_rejection(connection, stored, code, message, now=now)

        return Step(store, self._context.events.tell)


def _same_claim(one: Document, other: Document) -> bool:
    """Alike but for what is filled in at issue: a repeated request has another time."""
    return one == replace(other, issued_at_ms=one.issued_at_ms, due_at_ms=one.due_at_ms, previous_id=one.previous_id)


def _must_be_from(peer: PeerId, stored: StoredDocument) -> None:
    if stored.peer != peer:
        raise PolicyError(f"{stored.document.kind.noun} {stored.document.id} is not between us")


def _note_rejection(connection: Connection, stored: StoredDocument, code: str, message: str, *, now: float) -> bool:
    if stored.state is DocumentState.REJECTED:
        return False
    state = DOCUMENT.next(stored.state, DocumentEvent.REJECT)
    stored = replace(stored, state=state, reason=f"{code}: {message}" if message else code)
    repo.update_document(connection, stored)
    journaling.rejection(connection, stored.side, stored.document, code, message, now=now)
    detail: dict[str, object] = {"rejection": {"rejectionReason": code, "totalAmountAccepted": "0", "message": message}}
    repo.add_event(connection, stored, "Rejected", now=now, detail=detail)
    return True


def _last_note(connection: Connection, document: Document, side: Side) -> Document | None:
    return repo.last_note(connection, document.agreement_id, side, document.activity_id)


def _check_sequence(connection: Connection, document: Document, side: Side) -> None:
    """Totals of an activity never go down, and an agreement has one invoice, not below what is accepted."""
    if document.kind is DocumentKind.DEBIT_NOTE:
        last = _last_note(connection, document, side)
        if last is not None and document.amount < last.amount:
            raise ConflictError(
                f"debit notes are cumulative: {format_amount(document.amount)} is below the previous"
                f" {format_amount(last.amount)} of activity {document.activity_id}"
            )
        return
    others = repo.find_documents(connection, kind=DocumentKind.INVOICE, side=side, agreement_id=document.agreement_id)
    for other in others:
        if other.state not in _DEAD:
            raise ConflictError(f"agreement {document.agreement_id} has invoice {other.document.id} already")
    repo.get_ledger(connection, document.agreement_id, side).accept_invoice(document.amount)
