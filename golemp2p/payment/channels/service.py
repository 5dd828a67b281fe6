"""Channels of a node: both sides, their messages, and what REST asks of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NoReturn

from sqlalchemy.engine import Connection

from golemp2p.core.agreement import Agreement
from golemp2p.core.ids import Address, AgreementId, PeerId
from golemp2p.core.money import MAX_AMOUNT, Amount, format_amount
from golemp2p.core.payment import Side
from golemp2p.core.payment.vouchers import ChannelConfig, Cover, Voucher
from golemp2p.errors import NotFoundError, RemoteProtocolError, UsageError
from golemp2p.payment.channels.parts import Parts
from golemp2p.payment.channels.payee import Payee
from golemp2p.payment.channels.payer import Payer
from golemp2p.payment.channels.settings import ChannelSettings
from golemp2p.payment.channels.watch import Watcher
from golemp2p.payment.messages import parse
from golemp2p.payment.ports import Context, Handler, Rpc
from golemp2p.storage import channels as repo
from golemp2p.storage.channels import Channel, ChannelStatus
from golemp2p.storage.payment import Parties
from golemp2p.wire.p2p import channels as wire


class Channels:
    def __init__(self, context: Context, rpc: Rpc, settings: ChannelSettings) -> None:
        self.settings = settings
        self._parts = Parts(context, rpc, settings)
        self.payer = Payer(self._parts)
        self.payee = Payee(self._parts)
        self._watcher = Watcher(self._parts, self.payer, self.payee)
        self._parts.watch = self._watcher

    def handlers(self) -> dict[str, Handler]:
        return {wire.ANNOUNCE: self._on_announce, wire.VOUCHER: self._on_voucher, wire.CLAIMED: self._on_claimed}

    async def run(self) -> NoReturn:
        """Until cancelled."""
        await self._watcher.run()

    def vouch(self, connection: Connection, parties: Parties, amount: Amount, *, now: float) -> bool:
        """When a document is accepted: see :meth:`Payer.vouch`."""
        return self.payer.vouch(connection, parties, amount, now=now)

    def tell(self) -> None:
        """A document was accepted: there may be something to claim, or to top up."""
        self._parts.news.tell()

    async def prepare(self, agreement: Agreement) -> None:
        """Before the requestor confirms: see :meth:`Payer.prepare`."""
        await self.payer.prepare(agreement)

    async def refusal(self, agreement: Agreement, *, timeout_s: float) -> str:
        """Before the provider approves: see :meth:`Payee.refusal`."""
        return await self.payee.refusal(agreement, timeout_s=timeout_s)

    async def cover(self, agreement_id: AgreementId) -> Cover:
        return await self.payee.cover(agreement_id)

    async def list_channels(self, *, closed: bool = False) -> list[Channel]:
        states = () if closed else (ChannelStatus.LIVE, ChannelStatus.RETIRED)
        return await self._parts.context.storage.run(partial(repo.find_channels, states=states))

    async def problem(self, platform: str) -> str:
        """What is wrong with channels that we pay through, from the database; "" for nothing."""
        found = await self._parts.context.storage.run(partial(repo.find_channels, side=Side.PAYER, platform=platform))
        for channel in found:
            if channel.is_outdated and channel.state is not ChannelStatus.DONE:
                return (
                    f"this node's database is older than the chain: of channel {channel.id}"
                    f" {format_amount(channel.claimed)} was claimed, it knows of {format_amount(channel.cumulative)}."
                    " The channel is closed and another one used; what was paid since the backup is not in the books"
                )
        return ""

    async def close(self, channel_id: str) -> None:
        """Raises NotFoundError."""
        await self.payer.close(channel_id)

    async def claim(self, channel_id: str) -> None:
        """Whatever the settings say. Raises NotFoundError, UsageError (nothing to claim), NetworkError."""
        channel = await self._parts.context.storage.run(lambda c: repo.get_channel(c, channel_id, Side.PAYEE))
        if channel is None:
            raise NotFoundError(f"no channel {channel_id[:80]} that this node is paid through")
        (channel,) = [c for c in await self._watcher.look(channel.platform, [channel.id]) if c.side is Side.PAYEE]
        if channel.order is not None:
            return  # it is on its way
        if channel.unclaimed == 0:
            raise UsageError(f"nothing is to be claimed from channel {channel_id}")
        await self.payee.claim(channel.platform, [channel], "asked for")

    def look_soon(self, channel_id: str) -> None:
        """The chain is asked about this channel now."""
        self._watcher.poke(channel_id)

    # --- other nodes ------------------------------------------------------------------------------------------------

    async def _on_announce(self, peer: PeerId, body: Mapping[str, object]) -> object:
        message = parse(wire.AnnounceMessage, body)
        config = ChannelConfig(
            Address(message.payer),
            Address(message.payee),
            Address(message.signer),
            message.grace_s,
            message.salt,
        )
        await self.payee.announced(peer, message.platform, Address(message.contract), config)
        return {}

    async def _on_voucher(self, peer: PeerId, body: Mapping[str, object]) -> object:
        message = parse(wire.VoucherMessage, body)
        self.payee.check_rate(peer)
        voucher = Voucher(bytes.fromhex(message.channel_id[2:]), _amount(message.cumulative), message.signature)
        await self.payee.receive(peer, voucher, AgreementId(message.agreement_id), _amount(message.total))
        return {}

    async def _on_claimed(self, peer: PeerId, body: Mapping[str, object]) -> object:
        message = parse(wire.ClaimedMessage, body)
        channel = await self._parts.context.storage.run(lambda c: repo.get_channel(c, message.channel_id, Side.PAYER))
        if channel is None or channel.peer != peer:
            raise NotFoundError(f"channel {message.channel_id} is not between us")
        if channel.cumulative > channel.claimed:  # else there is nothing to see, whatever the peer says
            self._watcher.poke(channel.id)
        return {}


def _amount(text: str) -> Amount:
    if int(text) > MAX_AMOUNT:
        raise RemoteProtocolError(f"amount {text} is too large")
    return Amount(int(text))
