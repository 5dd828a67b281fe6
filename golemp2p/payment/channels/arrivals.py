"""Vouchers that came in, verified, become ours: many in one transaction, because a payee may get thousands a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p.core.ids import AgreementId, PeerId
from golemp2p.core.money import Amount, format_amount
from golemp2p.core.payment import Side
from golemp2p.core.payment.vouchers import ChannelConfig, Voucher, VoucherDomain
from golemp2p.errors import GolemError, NotFoundError, PolicyError, RemoteProtocolError
from golemp2p.payment.channels import journaling
from golemp2p.storage import channels as repo
from golemp2p.storage import payment as ledger_repo
from golemp2p.storage.channels import VoucherTotals

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Known:
    """What does not change of a channel: a voucher is checked against it without asking the database."""

    peer: PeerId
    config: ChannelConfig
    domain: VoucherDomain
    platform: str


@dataclass
class Arrived:
    """A verified voucher that waits to be stored. ``total``: what of the channel belongs to the agreement."""

    known: Known
    voucher: Voucher
    agreement_id: AgreementId
    total: Amount
    error: Exception | None = None
    done: trio.Event = field(default_factory=trio.Event)


@dataclass
class _Books:
    """Of one channel, while a group is gone through."""

    totals: VoucherTotals
    newest: Voucher | None = None
    shares: dict[AgreementId, Amount] = field(default_factory=dict)


def store_vouchers(connection: Connection, group: Sequence[Arrived], now: float) -> None:
    """One that is refused gets its ``error`` and changes nothing; of each channel the newest one is written once."""
    books: dict[Known, _Books] = {}
    for arrived in group:
        try:
            _take(connection, arrived, books)
        except GolemError as exc:
            arrived.error = exc
    for known, book in books.items():
        if book.newest is None and not book.shares:
            continue
        channel_id, totals = "0x" + known.config.id.hex(), book.totals
        repo.put_voucher(
            connection,
            channel_id,
            Side.PAYEE,
            cumulative=totals.cumulative,
            signature=totals.signature,
            attributed=totals.attributed,
            shares={str(agreement): total for agreement, total in book.shares.items()},
            now=now,
        )
        assert totals.signature is not None, channel_id
        newest = Voucher(known.config.id, totals.cumulative, totals.signature)
        for agreement, total in book.shares.items():
            journaling.voucher(connection, Side.PAYEE, known.domain, known.config, newest, agreement, total, now=now)


def _take(connection: Connection, arrived: Arrived, books: dict[Known, _Books]) -> None:
    """Into ``books``. Raises NotFoundError, PolicyError, RemoteProtocolError before anything is changed."""
    known, voucher, agreement = arrived.known, arrived.voucher, arrived.agreement_id
    channel_id = "0x" + known.config.id.hex()
    book = books.get(known)
    if book is None:
        totals = repo.get_totals(connection, channel_id, Side.PAYEE)
        if totals is None:
            raise NotFoundError(f"channel {channel_id} was not announced here")
        book = books[known] = _Books(totals)
    totals = book.totals
    before = book.shares.get(agreement)
    if before is None:
        before = repo.vouched(connection, channel_id, Side.PAYEE, agreement)
    if before == 0:
        parties = ledger_repo.get_parties(connection, agreement, Side.PAYEE)
        if parties is None or (parties.peer, parties.platform) != (known.peer, known.platform):
            raise PolicyError(f"nothing was billed to you under agreement {agreement}")
    newer = voucher.cumulative > totals.cumulative
    cumulative = max(totals.cumulative, voucher.cumulative)
    grown = max(0, arrived.total - before)
    if totals.attributed + grown > cumulative:
        raise RemoteProtocolError(
            f"vouchers of {format_amount(cumulative)} cannot be split into"
            f" {format_amount(totals.attributed + grown)} for their agreements"
        )
    if totals.closing and newer:
        # It still counts, as far as the deposit reaches, until the channel is closed.
        log.warning("voucher_for_closing_channel", channel_id=channel_id)
    if newer:
        book.newest = voucher
    book.totals = replace(
        totals,
        cumulative=cumulative,
        signature=voucher.signature if newer else totals.signature,
        attributed=Amount(totals.attributed + grown),
    )
    if grown:
        book.shares[agreement] = Amount(before + grown)
