"""The payer's side: a funded channel before an agreement is confirmed, vouchers instead of debts, and the way back."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.agreement import Agreement, Role
from golemp2p.core.ids import Address, PeerId
from golemp2p.core.money import ZERO, Amount, format_amount, parse_amount
from golemp2p.core.payment import Side
from golemp2p.core.payment.vouchers import (
    CHANNEL,
    MODES,
    ChannelConfig,
    Voucher,
    VoucherDomain,
    check_top_up,
    exposure_of,
    mode_of,
)
from golemp2p.errors import DeadlineError, GolemError, NotFoundError, PolicyError, UsageError
from golemp2p.payment import books
from golemp2p.payment.channels import abi, journaling
from golemp2p.payment.channels.chain import ChannelChain
from golemp2p.payment.channels.parts import Parts
from golemp2p.payment.documents import terms_of
from golemp2p.payment.drivers.transactions import MAX_UINT256, approve_call
from golemp2p.payment.outbox import post
from golemp2p.storage import channels as repo
from golemp2p.storage import orders as order_repo
from golemp2p.storage.channels import Channel, ChannelStatus
from golemp2p.storage.orders import Order, OrderState
from golemp2p.storage.payment import Parties
from golemp2p.wire.p2p import channels as wire
from golemp2p.wire.p2p.payment import PROTOCOL

log = structlog.get_logger(__name__)
_TRIES: Final = 3  # channels, until one is not closed by somebody, or by an outdated record, while we look at it


class ChannelNotFundedError(PolicyError):
    """The channel that an agreement needs could not be funded; the message says why."""

    code = "channel_not_funded"


@dataclass
class _Reason:
    """Why it has not come to its end yet, for who loses patience."""

    text: str = ""


class Payer:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._locks: Mapping[tuple[PeerId, str], trio.Lock] = defaultdict(trio.Lock)

    # --- before an agreement is confirmed ---------------------------------------------------------------------------

    async def prepare(self, agreement: Agreement) -> None:
        """Make sure that a funded channel to the provider is there, if the demand is to be paid through one.

        Raises ChannelNotFundedError, DeadlineError, UsageError (the provider does not take channels), NetworkError.
        """
        if agreement.role is not Role.REQUESTOR or mode_of(agreement.demand) != CHANNEL:
            return
        offered = agreement.offer.get(MODES)
        if not isinstance(offered, list) or CHANNEL not in offered:
            raise UsageError(
                f"the provider of agreement {agreement.id} does not take payment channels",
                hint="set payment.mode to batch, or choose another provider",
            )
        platform, _, payee = terms_of(agreement)
        exposure = _exposure(agreement)
        deposit = await self._deposit(agreement, platform, exposure)
        timeout_s, why = self._parts.settings.open_timeout_s, _Reason()
        with trio.move_on_after(timeout_s):
            async with self._locks[agreement.provider, platform]:
                for _ in range(_TRIES):
                    channel = await self._channel(agreement.provider, platform, payee)
                    await self._announce(channel)
                    if await self._fund(channel.id, platform, exposure, deposit, why):
                        break
                else:
                    raise ChannelNotFundedError(
                        f"channel {channel.id} is being closed", hint="try again: a new one is made"
                    )
                used_at = self._parts.context.clock()  # not to be closed as idle before its first voucher
                await self._parts.context.storage.run(
                    lambda c: repo.change_channel(c, channel.id, Side.PAYER, used_at=used_at)
                )
            return
        raise DeadlineError(
            f"the payment channel to {agreement.provider} was not funded within {timeout_s:g} s"
            + (f": {why.text}" if why.text else ""),
            hint="the money is on its way: see golemp2p payment channels list, and try again",
        )

    async def _channel(self, peer: PeerId, platform: str, payee: Address) -> Channel:
        """The live one to this provider, or a new row."""
        context, chain = self._parts.context, self._parts.chain(platform)
        purse = context.purse

        def find(connection: Connection) -> Channel:
            for known in repo.find_channels(
                connection, side=Side.PAYER, peer=peer, platform=platform, states=(ChannelStatus.LIVE,)
            ):
                if (known.contract, known.signer) == (chain.contract, purse.voucher_address):
                    return known
            config = ChannelConfig(
                purse.address,
                payee,
                purse.voucher_address,
                self._parts.settings.grace_s,
                # Random: a node that has lost its database must not go on with a channel of unknown vouchers.
                secrets.token_bytes(32),
            )
            now = context.clock()
            channel = Channel(
                "0x" + config.id.hex(),
                Side.PAYER,
                peer,
                platform,
                chain.domain.chain_id,
                chain.contract,
                config.payer,
                config.payee,
                config.signer,
                config.grace_s,
                config.salt,
                now,
                used_at=now,
            )
            repo.put_channel(connection, channel)
            return channel

        return await context.storage.run(find)

    async def _announce(self, channel: Channel) -> None:
        """Every time: it is one call, and the provider may have lost its disk."""
        message = wire.AnnounceMessage(
            platform=channel.platform,
            contract=channel.contract,
            payer=channel.payer,
            payee=channel.payee,
            signer=channel.signer,
            grace_s=channel.grace_s,
            salt=channel.salt,
        )
        body = message.model_dump()
        await self._parts.rpc.call(channel.peer, PROTOCOL, wire.ANNOUNCE, body, timeout_s=limits.PAYMENT_RPC_TIMEOUT_S)

    async def _fund(self, channel_id: str, platform: str, exposure: Amount, deposit: Amount, why: _Reason) -> bool:
        """Until the chain finally has enough free deposit for ``exposure``. False: the channel is no good any more, and
        another is to be used. Raises ChannelNotFundedError."""
        context = self._parts.context
        while True:
            news = context.orders.next()
            (channel,) = await self._parts.watch.look(platform, [channel_id])
            if channel.state is not ChannelStatus.LIVE:
                return False
            if channel.deposit - max(channel.claimed, channel.cumulative) >= max(exposure, 1):
                return True
            order = await self.top_up(channel, deposit)
            why.text = order.problem
            if order.state is OrderState.FAILED:
                raise ChannelNotFundedError(
                    f"the payment channel to {channel.peer} could not be funded: {order.problem}",
                    hint="see golemp2p payment status",
                )
            with trio.move_on_after(context.driver(platform).network.poll_s):
                await news.wait()

    async def _deposit(self, agreement: Agreement, platform: str, exposure: Amount) -> Amount:
        """How much to lock. The exposure is the provider's word: it must not make us lock more than the owner has set,
        or than the agent's budget. Raises ChannelNotFundedError."""
        context, own = self._parts.context, self._parts.settings.deposit
        if own is not None:
            most, what = own, "setting payment.channels.deposit"
        else:
            live = await context.storage.run(lambda c: books.live_allocations(c, now=context.clock()))
            named = set(agreement.allocations)
            # What is backed by somebody's deposit does not allow the account to lock its own tokens.
            live = [a for a in live if a.deposit is None and a.platform == platform]
            fitting = [a for a in live if not named or a.id in named]
            most, what = Amount(sum(a.remaining for a in fitting)), "what is left of the budget"
        if exposure > most:
            raise ChannelNotFundedError(
                f"the provider of agreement {agreement.id} wants {format_amount(exposure)} locked for it at least;"
                f" {what} is {format_amount(most)}",
                hint="choose another provider, or raise it",
            )
        return most if own is not None else Amount(min(most, limits.CHANNEL_DEPOSIT_EXPOSURES * exposure))

    async def top_up(self, channel: Channel, amount: Amount) -> Order:
        """The order that funds it: the one under way, or a new one. (A look at the chain forgets the finished one.)

        Raises ChannelNotFundedError, NetworkError.
        """
        context = self._parts.context
        driver = context.driver(channel.platform)
        allowance = await driver.allowance(channel.payer, channel.contract)
        if channel.fund_order is None and (has := await driver.balance(channel.payer)) < amount:
            raise ChannelNotFundedError(
                f"account {channel.payer} has {format_amount(has)} {driver.network.symbol}, the deposit of a payment"
                f" channel to {channel.payee} is {format_amount(amount)}",
                hint="send tokens to it, or lower payment.channels.deposit",
            )
        if channel.fund_order is None:
            # Else the order would wait for a day with more room, and lock the tokens for nobody.
            room, opens_at = await context.storage.run(
                lambda c: context.purse.room_today(c, channel.platform, now=context.clock())
            )
            if room is not None and amount > room:
                refusal = context.purse.over_the_day(amount, channel.platform, room, opens_at)
                raise ChannelNotFundedError(
                    f"deposit of a payment channel to {channel.payee}: {refusal.message}",
                    hint=f"lower payment.channels.deposit; or {refusal.hint}",
                )

        def place(connection: Connection) -> Order:
            fresh = repo.get_channel(connection, channel.id, Side.PAYER)
            assert fresh is not None, channel.id
            if fresh.fund_order is not None:
                return _order(connection, fresh.fund_order)
            check_top_up(fresh.on_chain, amount)
            detail, now = {"channel": fresh.id, "peer": fresh.peer}, context.clock()
            key = f"channel-fund-{fresh.id}-{fresh.orders}"

            def order(name: str, to: Address, data: bytes, tokens: Amount, what: str) -> Order:
                new = Order(name, fresh.platform, to, data, tokens, what, detail)
                order_repo.place_order(connection, new, now=now)
                return _order(connection, name)

            if allowance < amount:
                # Once for all channels: the contract is known by its code, and takes only what a call of ours says.
                data = approve_call(fresh.contract, MAX_UINT256)
                approval = order(f"{key}-approve", driver.network.token, data, ZERO, "approve the channel contract")
                if approval.state is OrderState.FAILED:
                    repo.change_channel(
                        connection, fresh.id, Side.PAYER, orders=fresh.orders + 1
                    )  # the next has a name
                if approval.state is not OrderState.FINAL:
                    return approval
            data = abi.fund_call([(fresh.payee, amount)], signer=fresh.signer, grace_s=fresh.grace_s, salt=fresh.salt)
            what = f"fund the channel to {fresh.payee} with {format_amount(amount)}"
            funding = order(key, fresh.contract, data, amount, what)
            repo.change_channel(connection, fresh.id, Side.PAYER, fund_order=key, orders=fresh.orders + 1)
            return funding

        placed = await context.storage.run(place)
        context.debts.tell()
        return placed

    # --- vouchers ---------------------------------------------------------------------------------------------------

    def vouch(self, connection: Connection, parties: Parties, amount: Amount, *, now: float) -> bool:
        """Part of the transaction that accepts a document: ``amount`` more, by a voucher. False: there is no live
        channel to the payee, so it is owed like any other debt. Raises SpendingCapError."""
        live = repo.find_channels(
            connection, side=Side.PAYER, peer=parties.peer, platform=parties.platform, states=(ChannelStatus.LIVE,)
        )
        signer = self._parts.context.purse.voucher_address  # of another one's channel our vouchers are worth nothing
        funded = [c for c in live if c.deposit > 0 and (c.payee, c.signer) == (parties.payee, signer)]
        if not funded:
            log.warning("channel_missing", agreement_id=parties.agreement_id, peer=parties.peer)
            return False
        channel = funded[0]
        context, agreement = self._parts.context, parties.agreement_id
        cumulative = Amount(channel.cumulative + amount)
        domain = VoucherDomain(channel.chain_id, channel.contract)
        digest = domain.digest(channel.config.id, cumulative)
        signature = context.purse.voucher(
            connection, digest, platform=channel.platform, agreement_id=agreement, amount=amount, now=now
        )
        total = Amount(repo.vouched(connection, channel.id, Side.PAYER, agreement) + amount)
        repo.put_voucher(
            connection,
            channel.id,
            Side.PAYER,
            cumulative=cumulative,
            signature=signature,
            attributed=cumulative,
            shares={agreement: total},
            now=now,
        )
        voucher = Voucher(channel.config.id, cumulative, signature)
        journaling.voucher(connection, Side.PAYER, domain, channel.config, voucher, agreement, total, now=now)
        message = wire.VoucherMessage(
            channel_id=channel.id,
            cumulative=str(cumulative),
            agreement_id=agreement,
            total=str(total),
            signature=signature,
        )
        post(connection, parties.peer, wire.VOUCHER, message, now=now)
        return True

    # --- the way back -----------------------------------------------------------------------------------------------

    async def close(self, channel_id: str) -> None:
        """Begin the time of grace; the rest comes back by itself after it. Repeated: nothing. Raises NotFoundError."""
        context = self._parts.context

        def store(connection: Connection) -> None:
            channel = repo.get_channel(connection, channel_id, Side.PAYER)
            if channel is None:
                raise NotFoundError(f"no channel {channel_id[:80]} that this node pays through")
            failed = channel.state is ChannelStatus.RETIRED and not channel.close_at and channel.order is None
            if channel.state is not ChannelStatus.LIVE and not failed:
                return
            if channel.deposit == 0 and channel.fund_order is None:  # nothing was ever put in
                repo.change_channel(connection, channel_id, Side.PAYER, state=ChannelStatus.DONE)
                return
            data, what = abi.request_close_call(channel.config), f"ask to close the channel to {channel.payee}"
            place_channel_order(connection, channel, data, what, now=context.clock())
            repo.change_channel(connection, channel_id, Side.PAYER, state=ChannelStatus.RETIRED)

        await context.storage.run(store)
        context.debts.tell()
        self._parts.news.tell()

    async def finalize(self, chain: ChannelChain, channel: Channel) -> None:
        """Fetch the rest of a closing channel, if the contract lets us yet."""
        data = abi.finalize_call(channel.config)
        try:
            await chain.driver.call(chain.contract, data, sender=channel.payer)
        except PolicyError:  # too early, by the chain's own clock
            return
        what = f"close the channel to {channel.payee}"

        def store(connection: Connection) -> None:
            place_channel_order(connection, channel, data, what, now=self._parts.context.clock())

        await self._parts.context.storage.run(store)
        self._parts.context.debts.tell()

    async def keep(self, channel: Channel, *, busy: bool) -> None:
        """Top it up when it is nearly used, close it when it is not used any more. ``busy``: an agreement that it
        pays for is not invoiced yet."""
        part, whole = limits.CHANNEL_USED_PARTS
        if self._parts.context.clock() - channel.used_at > self._parts.settings.idle_close_s:
            # Busy or not: a provider that vanished never sends its invoice.
            log.info("channel_idle", channel_id=channel.id, peer=channel.peer)
            await self.close(channel.id)
        elif busy and channel.deposit and channel.cumulative * whole > channel.deposit * part:
            try:
                own = self._parts.settings.deposit
                await self.top_up(channel, own or Amount(max(channel.deposit, channel.cumulative - channel.deposit)))
            except GolemError as exc:
                log.warning("channel_not_topped_up", channel_id=channel.id, error=str(exc))


def _exposure(agreement: Agreement) -> Amount:
    """What must be free in the channel. An offer that takes channels and names no exposure gets a usual one."""
    exposure = exposure_of(agreement.demand, agreement.offer)
    return parse_amount(f"{exposure:.18f}", what="exposure") if exposure else Amount(limits.CHANNEL_USUAL_EXPOSURE)


def _order(connection: Connection, key: str) -> Order:
    found = order_repo.get_order(connection, key)
    assert found is not None, key
    return found


def place_channel_order(connection: Connection, channel: Channel, data: bytes, what: str, *, now: float) -> None:
    """An order about one channel, and the row's memory of it."""
    key = f"channel-{channel.id}-{channel.orders}"
    detail = {"channel": channel.id, "peer": channel.peer}
    order_repo.place_order(
        connection, Order(key, channel.platform, channel.contract, data, ZERO, what, detail), now=now
    )
    repo.change_channel(connection, channel.id, channel.side, order=key, orders=channel.orders + 1)
