"""What the chain finally says of a channel becomes ours: claims are payments, on both sides, in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import structlog
from sqlalchemy.engine import Connection

from golemp2p.core.ids import AgreementId, DocumentId
from golemp2p.core.money import Amount, format_amount
from golemp2p.core.payment import PaymentNotice, Side
from golemp2p.core.payment.vouchers import CLOSED, ChannelState, credit_shares, cut_shares
from golemp2p.payment import books
from golemp2p.payment.channels import journaling
from golemp2p.payment.channels.abi import ClaimedEvent
from golemp2p.storage import channels as repo
from golemp2p.storage import payment as ledger_repo
from golemp2p.storage import payment_notices, spending
from golemp2p.storage import payment_settlement as settlement_repo
from golemp2p.storage.channels import Channel, ChannelStatus
from golemp2p.storage.payment_notices import StoredPayment
from golemp2p.storage.spending import Spend

log = structlog.get_logger(__name__)
_NAMESPACE: Final = uuid.UUID("a3b0c9e2-5a52-4c4c-9f0e-6d2b6f0c5b1d")


def book(
    connection: Connection,
    channel: Channel,
    state: ChannelState,
    events: Sequence[ClaimedEvent],
    *,
    seen_block: int,
    now: float,
) -> Channel:
    """Returns the channel as it is now. ``events``: claims up to ``seen_block``; those booked before count once."""
    fresh = repo.get_channel(connection, channel.id, channel.side)
    assert fresh is not None, channel.id
    if fresh.seen_block < 0:
        # Of a channel that we meet for the first time we know no vouchers: what was claimed is not ours to book.
        fresh = replace(fresh, claimed=state.claimed)
        if fresh.side is Side.PAYEE:
            fresh = replace(fresh, cumulative=max(fresh.cumulative, state.claimed))
            fresh = replace(fresh, attributed=max(fresh.attributed, state.claimed))
    for event in events:
        if event.claimed > fresh.claimed:
            paid = Amount(event.claimed - fresh.claimed)
            fresh = replace(fresh, claimed=event.claimed)
            _credit(connection, fresh, event, paid, now=now)
    # Claims that the state counts and no event has told of yet are looked for again in the same blocks: an endpoint
    # that lags says "none" for blocks that it does not have. Until then a closed channel is not done: nobody looks at
    # those.
    complete = fresh.claimed >= state.claimed
    status = fresh.state
    if fresh.side is Side.PAYER and state.claimed > fresh.cumulative and status is ChannelStatus.LIVE:
        # We have signed more than we know of: a restored database. Any voucher of ours here may be worth nothing.
        status = ChannelStatus.RETIRED
        log.error("channel_record_outdated", channel_id=fresh.id, peer=fresh.peer, claimed=format_amount(state.claimed))
    if state.close_at:
        status = ChannelStatus.DONE if state.close_at == CLOSED and complete else ChannelStatus.RETIRED
    if status is ChannelStatus.DONE and fresh.side is Side.PAYER and fresh.state is not ChannelStatus.DONE:
        _owe_uncovered(connection, fresh, now=now)
    if status is not fresh.state:
        log.info("channel_closing", channel_id=fresh.id, side=fresh.side, state=status, close_at=state.close_at)
    fresh = replace(
        fresh,
        # Once closed the contract calls what was claimed the deposit; what it was is needed until all is booked.
        deposit=state.deposit if complete or state.close_at != CLOSED else fresh.deposit,
        close_at=state.close_at,
        seen_block=max(seen_block, fresh.seen_block) if complete else fresh.seen_block,
        state=status,
        unclaimed_since=fresh.unclaimed_since if fresh.cumulative > fresh.claimed else None,
    )
    repo.put_channel(connection, fresh)
    return fresh


def payment_id(channel_id: str, claimed: Amount) -> str:
    """Of the claim that brings a channel to ``claimed`` in all. The payer can foresee it."""
    return str(uuid.uuid5(_NAMESPACE, f"{channel_id} {claimed}"))


def _credit(connection: Connection, channel: Channel, event: ClaimedEvent, paid: Amount, *, now: float) -> None:
    """``paid`` more of the channel is claimed: ledgers, documents, the payment and the journal."""
    credited: list[tuple[AgreementId, Amount]] = []
    documents: list[DocumentId] = []
    for share, amount in credit_shares(repo.open_shares(connection, channel.id, channel.side), paid):
        agreement = AgreementId(share.agreement_id)
        repo.put_credit(connection, channel.id, channel.side, share)
        parties = ledger_repo.get_parties(connection, agreement, channel.side)
        if parties is None:  # vouched for something that is not in our books
            continue
        before = ledger_repo.get_ledger(connection, agreement, channel.side)
        after = before.pay(amount) if channel.side is Side.PAYER else before.credit(amount)
        ledger_repo.put_ledger(connection, parties, after, before=before)
        documents += books.settle_covered(connection, agreement, channel.side, after, now=now)
        credited.append((agreement, amount))
    log.info(
        "channel_claim_final",
        side=channel.side,
        channel_id=channel.id,
        amount=format_amount(paid),
        transaction=event.transaction,
    )
    journaling.claim(connection, channel, event, [(str(a), v) for a, v in credited], now=now)
    if credited:
        _note_payment(connection, channel, event, credited, documents, now=now)


def _owe_uncovered(connection: Connection, channel: Channel, *, now: float) -> None:
    """The channel of this payer is closed, all claims are booked: what was vouched for beyond its last known deposit is
    owed like any other debt, now. What the deposit covered and nobody claimed is not: that is the payee's loss."""
    beyond = Amount(max(0, channel.cumulative - max(channel.deposit, channel.claimed)))
    owed: list[tuple[AgreementId, Amount]] = []
    for share, amount in cut_shares(repo.open_shares(connection, channel.id, channel.side), beyond):
        agreement = AgreementId(share.agreement_id)
        parties = ledger_repo.get_parties(connection, agreement, channel.side)
        if parties is None:  # nothing was ever accepted under it
            continue
        repo.put_cut(connection, channel.id, channel.side, share)
        settlement_repo.add_obligation(connection, parties, amount, now=now, due_at=now)
        # As a voucher it gave nothing away; the transaction that pays it now counts under the agreement's cap.
        back = Spend(channel.platform, agreement, Amount(-amount), "uncovered voucher", daily=False)
        spending.add(connection, [back], now=now)
        owed.append((agreement, amount))
    if owed:
        total = format_amount(Amount(sum(amount for _, amount in owed)))
        log.warning("channel_closed_below_its_vouchers", channel_id=channel.id, peer=channel.peer, owed=total)
        journaling.closed(connection, channel, [(str(a), v) for a, v in owed], now=now)


def _note_payment(
    connection: Connection,
    channel: Channel,
    event: ClaimedEvent,
    credited: Sequence[tuple[AgreementId, Amount]],
    documents: Sequence[DocumentId],
    *,
    now: float,
) -> None:
    """So that lists of payments have it. It has the same id on both sides, and no signature: the chain is its proof."""
    notice = PaymentNotice(
        id=payment_id(channel.id, event.claimed),
        payer=channel.payer,
        payee=channel.payee,
        platform=channel.platform,
        transaction=event.transaction,
        shares=tuple(credited),
        document_ids=tuple(documents),
        paid_at_ms=round(now * 1000),
    )
    stored = StoredPayment(notice, channel.side, channel.peer, b"", payment_notices.CONFIRMED, "", now)
    payment_notices.insert_payment(connection, stored, replaces=True)
