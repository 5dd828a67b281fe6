"""The end of a slot: paid (ledgers, documents, payment and notices, together), or owed again."""

from __future__ import annotations

import uuid
from collections import defaultdict
from typing import Final

import structlog
from sqlalchemy.engine import Connection

from golemp2p.core.ids import Address, AgreementId, DocumentId, PeerId
from golemp2p.core.money import Amount, format_amount
from golemp2p.core.payment import PaymentNotice, Side, SlotState
from golemp2p.payment import books, journaling
from golemp2p.payment.messages import notice_message
from golemp2p.payment.outbox import post
from golemp2p.payment.ports import Context
from golemp2p.payment.settlement.states import Checkpoint
from golemp2p.storage import orders as order_repo
from golemp2p.storage import payment as ledger_repo
from golemp2p.storage import payment_notices as notices
from golemp2p.storage import payment_settlement as repo
from golemp2p.storage import spending
from golemp2p.storage.orders import OrderState
from golemp2p.storage.payment_notices import StoredPayment
from golemp2p.storage.payment_settlement import Mode, Slot
from golemp2p.wire.p2p import payment as wire

log = structlog.get_logger(__name__)
_NAMESPACE: Final = uuid.UUID("0f7a1d52-6f6e-4bd1-9d2b-5a2f4c1f7c10")


class Closing:
    def __init__(self, context: Context, reached: Checkpoint) -> None:
        self._context = context
        self._reached = reached

    async def finish(self, slot: Slot, *, transaction: str) -> None:
        """``transaction`` did the batch of ``slot`` for good: its own, or another one with the same id on the chain."""
        context = self._context
        legs = await context.storage.run(lambda c: self._finish(c, slot, transaction))
        for payee, _, _ in legs:
            context.parking.paid(slot.platform, payee)
        log.info(
            "payment_settled" if legs else "order_done",
            platform=slot.platform,
            payees=len(legs),
            amount=format_amount(slot.amount),
            transaction=transaction,
        )
        context.events.tell()
        context.outbox.tell()
        context.orders.tell()
        await self._reached("final")

    def _finish(self, connection: Connection, slot: Slot, transaction: str) -> list[tuple[Address, PeerId, Amount]]:
        repo.update_slot(connection, slot)
        if slot.mode is Mode.ORDER:
            order_repo.mark_order(connection, slot.batch_id, OrderState.FINAL, transaction=transaction)
            return []
        repo.settle_batch(connection, slot.batch_id)
        shares: dict[tuple[Address, PeerId], dict[AgreementId, Amount]] = defaultdict(dict)
        for debt in repo.batch_obligations(connection, slot.batch_id):
            mine = shares[debt.payee, debt.peer]
            mine[debt.agreement_id] = Amount(mine.get(debt.agreement_id, 0) + debt.amount)
        legs = repo.get_legs(connection, slot.batch_id)
        for payee, peer, amount in legs:
            assert sum(shares[payee, peer].values()) == amount, (slot, payee)
            self._pay(connection, slot, transaction, payee, peer, shares[payee, peer])
        assert sum(amount for _, _, amount in legs) == slot.amount, slot
        return legs

    def _pay(
        self,
        connection: Connection,
        slot: Slot,
        transaction: str,
        payee: Address,
        peer: PeerId,
        shares: dict[AgreementId, Amount],
    ) -> None:
        context, now = self._context, self._context.clock()
        settled: list[DocumentId] = []
        for agreement_id, amount in shares.items():
            parties = ledger_repo.get_parties(connection, agreement_id, Side.PAYER)
            assert parties is not None, agreement_id
            ledger = ledger_repo.get_ledger(connection, agreement_id, Side.PAYER).pay(amount)
            ledger_repo.put_ledger(connection, parties, ledger, before=ledger)
            settled += books.settle_covered(connection, agreement_id, Side.PAYER, ledger, now=now)
        notice = PaymentNotice(
            id=str(uuid.uuid5(_NAMESPACE, f"{slot.batch_id} {payee} {peer}")),
            payer=slot.account,
            payee=payee,
            platform=slot.platform,
            transaction=transaction,
            shares=tuple(shares.items()),
            document_ids=tuple(settled),
            paid_at_ms=round(now * 1000),
        )
        signature = context.signer.sign(notice.digest(context.domain))
        stored = StoredPayment(notice, Side.PAYER, peer, signature, notices.CONFIRMED, "", now)
        notices.insert_payment(connection, stored)
        journaling.notice(connection, Side.PAYER, notice, signature, now=now)
        journaling.payment(
            connection,
            Side.PAYER,
            notice,
            chain_id=slot.chain_id,
            block_number=slot.block_number,
            block_hash=slot.block_hash,
            now=now,
        )
        post(connection, peer, wire.PAYMENT_NOTICE, notice_message(notice, signature), now=now)

    async def release(self, slot: Slot) -> None:
        """FAILED or FOREIGN, finally: what it was to pay is owed again; what was ordered has failed."""
        context = self._context
        reason = f"payment {slot.transaction} was reverted by the token contract"

        def release(connection: Connection) -> list[Address]:
            repo.update_slot(connection, slot)
            spending.forget(connection, slot.batch_id)
            if slot.mode is Mode.ORDER:
                problem = f"transaction {slot.transaction} was reverted"
                order_repo.mark_order(
                    connection, slot.batch_id, OrderState.FAILED, transaction=slot.transaction, problem=problem
                )
                return []
            repo.free_batch(connection, slot.batch_id)
            return [payee for payee, _, _ in repo.get_legs(connection, slot.batch_id)]

        payees = await context.storage.run(release)
        context.orders.tell()
        if slot.state is SlotState.FAILED:
            if len(payees) == 1:
                context.parking.reverted(slot.platform, payees[0], reason)
            context.parking.suspect(slot.platform, payees)
        await self._reached("released")
