"""Tables of voucher channels: what is known of each, and what of its vouchers belongs to which agreement.

Both sides keep the same tables; a node that buys from itself has a row for each side. A voucher is one update of its
channel and of the agreement's share: older vouchers are worth nothing once a newer one exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from golemp2p.core.ids import Address, AgreementId, PeerId
from golemp2p.core.money import ZERO, Amount
from golemp2p.core.payment import Side
from golemp2p.core.payment.vouchers import CLOSED, ChannelConfig, ChannelState, Share
from golemp2p.storage.payment import AmountText
from golemp2p.storage.schema import metadata

channels = sa.Table(
    "pay_channel",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # "0x" + 64 hex
    sa.Column("side", sa.Text, primary_key=True),
    sa.Column("peer", sa.Text, nullable=False),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("chain_id", sa.Integer, nullable=False),
    sa.Column("contract", sa.Text, nullable=False),
    sa.Column("payer", sa.Text, nullable=False),
    sa.Column("payee", sa.Text, nullable=False),
    sa.Column("signer", sa.Text, nullable=False),
    sa.Column("grace_s", sa.Integer, nullable=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    # As the chain finally has it.
    sa.Column("deposit", AmountText, nullable=False),
    sa.Column("claimed", AmountText, nullable=False),
    sa.Column("close_at", AmountText, nullable=False),  # CLOSED does not fit SQLite's integers
    sa.Column("seen_block", sa.Integer, nullable=False),  # claims up to here are booked
    # The newest voucher.
    sa.Column("cumulative", AmountText, nullable=False),
    sa.Column("signature", sa.LargeBinary),
    sa.Column("attributed", AmountText, nullable=False),  # what of it belongs to known agreements
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("used_at", sa.Float, nullable=False),
    sa.Column("unclaimed_since", sa.Float),
    # Orders under way: at most one to fund (or approve) it, one to claim from it or close it.
    sa.Column("fund_order", sa.Text),
    sa.Column("order", sa.Text),
    sa.Column("orders", sa.Integer, nullable=False),  # ever placed: names the next one
    sa.Index("ix_pay_channel_peer", "peer", "platform", "side"),
    sa.Index("ix_pay_channel_state", "state"),
)
shares = sa.Table(
    "pay_channel_share",
    metadata,
    sa.Column("channel_id", sa.Text, primary_key=True),
    sa.Column("side", sa.Text, primary_key=True),
    sa.Column("agreement_id", sa.Text, primary_key=True, index=True),
    sa.Column("number", sa.Integer, nullable=False),  # the order in which claims are booked
    sa.Column("amount", AmountText, nullable=False),
    sa.Column("credited", AmountText, nullable=False),
)


class ChannelStatus(StrEnum):
    """LIVE: vouchers are made and taken; RETIRED: it is being closed; DONE: it is closed on the chain."""

    LIVE = "live"
    RETIRED = "retired"
    DONE = "done"


@dataclass(frozen=True)
class Channel:
    id: str
    side: Side
    peer: PeerId
    platform: str
    chain_id: int
    contract: Address
    payer: Address
    payee: Address
    signer: Address
    grace_s: int
    salt: bytes
    created_at: float
    state: ChannelStatus = ChannelStatus.LIVE
    deposit: Amount = ZERO
    claimed: Amount = ZERO
    close_at: int = 0
    seen_block: int = -1  # -1: never looked at
    cumulative: Amount = ZERO
    signature: bytes | None = None
    attributed: Amount = ZERO
    used_at: float = 0.0
    unclaimed_since: float | None = None
    fund_order: str | None = None
    order: str | None = None
    orders: int = 0

    @property
    def config(self) -> ChannelConfig:
        return ChannelConfig(self.payer, self.payee, self.signer, self.grace_s, self.salt)

    @property
    def on_chain(self) -> ChannelState:
        return ChannelState(self.deposit, self.claimed, self.close_at)

    @property
    def is_outdated(self) -> bool:
        """Of the payer: the chain knows vouchers of ours that we do not, so this database is an older one."""
        return self.side is Side.PAYER and self.claimed > self.cumulative

    @property
    def unclaimed(self) -> Amount:
        """Vouched for, locked, and not claimed yet."""
        if self.close_at == CLOSED:
            return ZERO
        return Amount(max(0, min(self.cumulative, self.deposit) - self.claimed))


def put_channel(connection: Connection, channel: Channel) -> None:
    """Insert or replace."""
    row = {c.name: getattr(channel, c.name) for c in channels.columns}
    connection.execute(insert(channels).values(row).on_conflict_do_update(index_elements=["id", "side"], set_=row))


def change_channel(connection: Connection, channel_id: str, side: Side, **values: object) -> None:
    where = sa.and_(channels.c.id == channel_id, channels.c.side == side)
    connection.execute(sa.update(channels).where(where).values(**values))


def remove_channel(connection: Connection, channel_id: str, side: Side) -> None:
    """One that nothing was ever vouched for in."""
    connection.execute(sa.delete(channels).where(channels.c.id == channel_id, channels.c.side == side))


def get_channel(connection: Connection, channel_id: str, side: Side) -> Channel | None:
    found = find_channels(connection, id=channel_id, side=side)
    return found[0] if found else None


def find_channels(
    connection: Connection,
    *,
    id: str | None = None,  # noqa: A002 - the column
    side: Side | None = None,
    peer: PeerId | None = None,
    platform: str | None = None,
    states: Sequence[ChannelStatus] = (),
) -> list[Channel]:
    """Oldest first."""
    c = channels.c
    query = sa.select(channels).order_by(c.created_at, c.id)
    for column, value in ((c.id, id), (c.side, side), (c.peer, peer), (c.platform, platform)):
        if value is not None:
            query = query.where(column == value)
    if states:
        query = query.where(c.state.in_(states))
    return [
        Channel(
            **{
                **row._mapping,
                "side": Side(row.side),
                "state": ChannelStatus(row.state),
                "close_at": int(row.close_at),
            }
        )
        for row in connection.execute(query)
    ]


# --- vouchers: the busiest statements of the node, so they are plain text for SQLite --------------------------------

_GET_TOTALS = "SELECT cumulative, signature, attributed, close_at FROM pay_channel WHERE id = ? AND side = ?"
_GET_VOUCHED = "SELECT amount FROM pay_channel_share WHERE channel_id = ? AND side = ? AND agreement_id = ?"
_PUT_SHARE = (
    "INSERT INTO pay_channel_share (channel_id, side, agreement_id, number, amount, credited)"
    " VALUES (?1, ?2, ?3, (SELECT COUNT(*) FROM pay_channel_share WHERE channel_id = ?1 AND side = ?2), ?4, '0')"
    " ON CONFLICT (channel_id, side, agreement_id) DO UPDATE SET amount = ?4"
)
_PUT_VOUCHER = (
    "UPDATE pay_channel SET cumulative = ?3, signature = ?4, attributed = ?5, used_at = ?6,"
    " unclaimed_since = COALESCE(unclaimed_since, ?6) WHERE id = ?1 AND side = ?2"
)


@dataclass(frozen=True)
class VoucherTotals:
    """Of one channel: what its newest voucher says, and what of that belongs to known agreements."""

    cumulative: Amount
    signature: bytes | None
    attributed: Amount
    closing: bool


def get_totals(connection: Connection, channel_id: str, side: Side) -> VoucherTotals | None:
    row = connection.exec_driver_sql(_GET_TOTALS, (channel_id, side.value)).one_or_none()
    if row is None:
        return None
    return VoucherTotals(Amount(int(row[0])), row[1], Amount(int(row[2])), row[3] != "0")


def vouched(connection: Connection, channel_id: str, side: Side, agreement_id: str) -> Amount:
    """What of the channel's vouchers belongs to this agreement."""
    found = connection.exec_driver_sql(_GET_VOUCHED, (channel_id, side.value, agreement_id)).scalar()
    return Amount(int(found or 0))


def put_voucher(
    connection: Connection,
    channel_id: str,
    side: Side,
    *,
    cumulative: Amount,
    signature: bytes | None,
    attributed: Amount,
    shares: Mapping[str, Amount],
    now: float,
) -> None:
    """The newest voucher of a channel; ``shares``: what of it belongs in all to each agreement that has more now."""
    parameters = (channel_id, side.value, str(cumulative), signature, str(attributed), now)
    connection.exec_driver_sql(_PUT_VOUCHER, parameters)
    for agreement_id, amount in shares.items():
        connection.exec_driver_sql(_PUT_SHARE, (channel_id, side.value, agreement_id, str(amount)))


def open_shares(connection: Connection, channel_id: str, side: Side) -> list[Share]:
    """Those that are not paid in full yet, in the order in which claims are booked."""
    c = shares.c
    query = (
        sa.select(shares).where(c.channel_id == channel_id, c.side == side, c.amount != c.credited).order_by(c.number)
    )
    return [Share(r.agreement_id, r.amount, r.credited) for r in connection.execute(query)]


def put_credit(connection: Connection, channel_id: str, side: Side, share: Share) -> None:
    c = shares.c
    where = sa.and_(c.channel_id == channel_id, c.side == side, c.agreement_id == share.agreement_id)
    connection.execute(sa.update(shares).where(where).values(credited=share.credited))


def put_cut(connection: Connection, channel_id: str, side: Side, share: Share) -> None:
    """It has less than was vouched for: the rest is owed in another way, and no claim can pay it."""
    c = shares.c
    where = sa.and_(c.channel_id == channel_id, c.side == side, c.agreement_id == share.agreement_id)
    connection.execute(sa.update(shares).where(where).values(amount=share.amount))


def channels_of(connection: Connection, agreement_id: AgreementId, side: Side) -> list[Channel]:
    """Those that have vouched for this agreement: one, unless the first was closed meanwhile."""
    c = shares.c
    ids = connection.execute(sa.select(c.channel_id).where(c.agreement_id == agreement_id, c.side == side)).scalars()
    found = [get_channel(connection, channel_id, side) for channel_id in ids]
    return [channel for channel in found if channel is not None]


def agreements_of(connection: Connection, channel_id: str, side: Side) -> list[AgreementId]:
    c = shares.c
    query = sa.select(c.agreement_id).where(c.channel_id == channel_id, c.side == side).order_by(c.number)
    return [AgreementId(a) for a in connection.execute(query).scalars()]


def unclaimed(connection: Connection, side: Side, *, platform: str) -> Amount:
    """Vouched for and locked in contracts: neither to be paid from the account nor arrived in it."""
    found = find_channels(connection, side=side, platform=platform, states=(ChannelStatus.LIVE, ChannelStatus.RETIRED))
    return Amount(sum(channel.unclaimed for channel in found))
