"""The payee's side: which channel is good enough to work for, vouchers as they come, and when they are claimed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.agreement import Agreement, Role
from golemp2p.core.ids import Address, AgreementId, PeerId
from golemp2p.core.money import ZERO, Amount, format_amount, parse_amount
from golemp2p.core.payment import Side
from golemp2p.core.payment.dust import worth_claiming
from golemp2p.core.payment.vouchers import (
    CHANNEL,
    ChannelConfig,
    ChannelRules,
    Cover,
    Voucher,
    VoucherDomain,
    check_voucher,
    cover_of,
    exposure_of,
    mode_of,
)
from golemp2p.core.peer import address_of
from golemp2p.errors import GolemError, NotFoundError, PolicyError, RemoteError
from golemp2p.net.ratelimit import RateLimit
from golemp2p.payment.channels import abi
from golemp2p.payment.channels.abi import ClaimItem
from golemp2p.payment.channels.arrivals import Arrived, Known, store_vouchers
from golemp2p.payment.channels.parts import Parts
from golemp2p.payment.documents import terms_of
from golemp2p.storage import channels as repo
from golemp2p.storage import orders as order_repo
from golemp2p.storage import payment as ledger_repo
from golemp2p.storage.channels import Channel, ChannelStatus
from golemp2p.storage.orders import Order

log = structlog.get_logger(__name__)
_USED: Final = "most of the deposit is vouched for"
_OLD: Final = "the vouchers are old"
_PATIENT: Final = (_USED, _OLD)  # reasons to claim that can wait for cheaper gas


class Payee:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._known: dict[str, Known] = {}
        self._waiting: list[Arrived] = []
        self._storing = False
        self._rate = RateLimit(limits.VOUCHERS_PER_S, limits.VOUCHERS_BURST)

    # --- announcements ----------------------------------------------------------------------------------------------

    async def announced(self, peer: PeerId, platform: str, contract: Address, config: ChannelConfig) -> None:
        """The requestor's node tells of its channel to us. Raises PolicyError with what is wrong: its answer."""
        context, chain = self._parts.context, self._parts.chain(platform)
        if contract != chain.contract:
            raise PolicyError(f"channels of {platform} are taken in contract {chain.contract} only, not {contract}")
        rules = ChannelRules(context.signer.address, self._parts.settings.min_grace_s, ZERO)
        if reason := rules.refusal_of_config(config, address_of(peer)):
            raise PolicyError(reason)
        channel_id, now = "0x" + config.id.hex(), context.clock()

        def open_ones(connection: Connection) -> list[Channel]:
            states = (ChannelStatus.LIVE, ChannelStatus.RETIRED)
            return repo.find_channels(connection, side=Side.PAYEE, peer=peer, states=states)

        open_now = await context.storage.run(open_ones)
        if len(open_now) >= limits.MAX_CHANNELS_PER_PEER:
            # Nobody looks at those without vouchers to claim: by now they may be closed.
            await self._parts.watch.look_again(open_now)

        def store(connection: Connection) -> None:
            if repo.get_channel(connection, channel_id, Side.PAYEE) is not None:
                return
            mine = open_ones(connection)
            if len(mine) >= limits.MAX_CHANNELS_PER_PEER:
                empty = next((c for c in mine if c.deposit == 0 and c.cumulative == 0), None)
                if empty is None:
                    raise PolicyError(f"{len(mine)} channels of yours are open already", hint="close one")
                repo.remove_channel(connection, empty.id, Side.PAYEE)  # or announcements without end fill the disk
            channel = Channel(
                channel_id,
                Side.PAYEE,
                peer,
                platform,
                chain.domain.chain_id,
                contract,
                config.payer,
                config.payee,
                config.signer,
                config.grace_s,
                config.salt,
                now,
                used_at=now,
            )
            repo.put_channel(connection, channel)

        await context.storage.run(store)

    # --- before and while we work -----------------------------------------------------------------------------------

    async def refusal(self, agreement: Agreement, *, timeout_s: float) -> str:
        """Why we do not work under ``agreement``, by what the chain finally says of its channel; "" when we do.

        A deposit that is not final yet is waited for. An agreement of another mode needs no channel.
        """
        if agreement.role is not Role.PROVIDER or mode_of(agreement.demand) != CHANNEL:
            return ""
        platform, _, payee = terms_of(agreement)
        exposure = exposure_of(agreement.demand, agreement.offer)
        least = parse_amount(f"{exposure or 0:.18f}", what="exposure")
        rules = ChannelRules(payee, self._parts.settings.min_grace_s, Amount(max(1, least)))
        reason = "the requestor has told of no channel"
        with trio.move_on_after(timeout_s):
            while True:
                try:
                    reason = await self._refusal(agreement.requestor, platform, rules)
                except GolemError as exc:
                    reason = f"the chain could not be asked: {exc}"
                if not reason:
                    return ""
                await trio.sleep(self._parts.context.driver(platform).network.poll_s)
        return reason

    async def _refusal(self, peer: PeerId, platform: str, rules: ChannelRules) -> str:
        find = self._parts.context.storage.run
        live = await find(
            lambda c: repo.find_channels(c, side=Side.PAYEE, peer=peer, platform=platform, states=(ChannelStatus.LIVE,))
        )
        if not live:
            return "the requestor has told of no channel that is open"
        looked = await self._parts.watch.look(platform, [channel.id for channel in live])
        reasons = [
            rules.refusal_of_config(channel.config, address_of(peer))
            or rules.refusal_of_state(channel.on_chain, channel.cumulative)
            for channel in looked
        ]
        return "" if "" in reasons else reasons[-1]

    async def cover(self, agreement_id: AgreementId) -> Cover:
        """What is vouched for under an agreement, and what of it is locked for us."""

        def read(connection: Connection) -> Cover:
            vouched, sure = 0, 0
            for channel in repo.channels_of(connection, agreement_id, Side.PAYEE):
                amount = repo.vouched(connection, channel.id, Side.PAYEE, agreement_id)
                cover = cover_of(channel.on_chain, channel.cumulative, amount)
                vouched, sure = vouched + cover.vouched, sure + cover.secured
            return Cover(Amount(vouched), Amount(sure))

        return await self._parts.context.storage.run(read)

    # --- vouchers ---------------------------------------------------------------------------------------------------

    def check_rate(self, peer: PeerId) -> None:
        """Raises RemoteError "busy"."""
        if not self._rate.allow(peer, self._parts.context.clock()):
            raise RemoteError(
                "vouchers come too fast", code="busy", hint=f"{limits.VOUCHERS_PER_S:g} a second are taken"
            )

    async def receive(self, peer: PeerId, voucher: Voucher, agreement_id: AgreementId, total: Amount) -> None:
        """Verified and on disk on return. ``total``: what of the channel belongs to this agreement. A repeated or an
        older one changes nothing. Raises NotFoundError, PolicyError, RemoteProtocolError."""
        known = await self._find("0x" + voucher.channel_id.hex())
        if known.peer != peer:
            raise PolicyError(f"channel 0x{voucher.channel_id.hex()} is not between us")
        check_voucher(known.domain, known.config, voucher)  # before the database is asked: 0.1 ms
        arrived = Arrived(known, voucher, agreement_id, total)
        self._waiting.append(arrived)
        if not self._storing:
            await self._store_waiting()
        else:
            await arrived.done.wait()
        if arrived.error is not None:
            raise arrived.error

    async def _store_waiting(self) -> None:
        """Who comes first stores for all that come meanwhile: of each channel the newest is written, once a group."""
        context = self._parts.context
        self._storing = True
        try:
            with trio.CancelScope(shield=True):  # others wait for what we have begun
                while self._waiting:
                    group = self._waiting[: limits.VOUCHER_GROUP]
                    del self._waiting[: limits.VOUCHER_GROUP]
                    now = context.clock()
                    try:
                        await context.storage.run(partial(store_vouchers, group=group, now=now))
                    except Exception as exc:  # noqa: BLE001 - nothing of the group is stored; each caller gets it
                        for arrived in group:
                            arrived.error = exc
                    for arrived in group:
                        arrived.done.set()
        finally:
            self._storing = False
        self._parts.news.tell()

    async def _find(self, channel_id: str) -> Known:
        known = self._known.get(channel_id)
        if known is None:
            found = await self._parts.context.storage.run(lambda c: repo.get_channel(c, channel_id, Side.PAYEE))
            if found is None:
                raise NotFoundError(f"channel {channel_id} was not announced here")
            known = Known(found.peer, found.config, VoucherDomain(found.chain_id, found.contract), found.platform)
            if len(self._known) >= limits.MAX_CHANNELS_CACHED:
                self._known.pop(next(iter(self._known)))
            self._known[channel_id] = known
        return known

    # --- claims -----------------------------------------------------------------------------------------------------

    def why_claim(self, connection: Connection, channel: Channel, *, now: float) -> str:
        """Why its vouchers are claimed now; "" when they are not."""
        settings = self._parts.settings
        if channel.unclaimed == 0 or channel.order is not None or channel.state is ChannelStatus.DONE:
            return ""
        part, whole = limits.CHANNEL_USED_PARTS
        if channel.close_at:
            return "the channel is being closed"
        if channel.unclaimed >= settings.claim_threshold:
            return "the threshold is reached"
        if settings.claim_on_invoice and _invoiced(connection, channel):
            return "an invoice is accepted"
        if channel.unclaimed * whole > channel.deposit * part:
            return _USED
        if channel.unclaimed_since is not None and now - channel.unclaimed_since >= settings.claim_after_s:
            return _OLD
        return ""

    async def worth_its_gas(self, platform: str, wanted: Sequence[tuple[Channel, str]]) -> list[bool]:
        """Which of them to claim at what gas costs now, each with its :meth:`why_claim`. Raises NetworkError."""
        driver = self._parts.context.driver(platform)
        cycle, price = driver.network.cycle, 0
        if cycle.coin_price:
            market = await driver.market()
            price = market.base_fee + max(market.tip, driver.network.min_tip_wei)
        return worth_claiming([(c.unclaimed, why not in _PATIENT) for c, why in wanted], price, cycle)

    async def claim(self, platform: str, channels: Sequence[Channel], why: str) -> None:
        """One transaction for all of them. What another one claims meanwhile does no harm."""
        chain, context = self._parts.chain(platform), self._parts.context
        await chain.check()
        some = [c for c in channels if c.signature is not None][: limits.CHANNELS_PER_CLAIM]
        items = [ClaimItem(c.config, c.cumulative, c.signature) for c in some if c.signature is not None]
        if not items:
            return
        data = abi.claim_call(items[0]) if len(items) == 1 else abi.claim_all_call(items)
        amount = Amount(sum(c.unclaimed for c in some))
        key = f"channel-claim-{some[0].id[2:]}.{some[0].orders}-{len(some)}"

        def store(connection: Connection) -> None:
            for channel in some:
                fresh = repo.get_channel(connection, channel.id, Side.PAYEE)
                if fresh is None or fresh.order is not None or fresh.orders != channel.orders:
                    return  # somebody was faster
            order = Order(
                key,
                platform,
                chain.contract,
                data,
                ZERO,
                f"claim {format_amount(amount)} from {len(some)} channel{'s' if len(some) > 1 else ''}",
                {"why": why, "channel": some[0].id},
            )
            order_repo.place_order(connection, order, now=context.clock())
            for channel in some:
                repo.change_channel(connection, channel.id, Side.PAYEE, order=key, orders=channel.orders + 1)

        await context.storage.run(store)
        log.info("channels_claimed", platform=platform, channels=len(some), amount=format_amount(amount), why=why)
        context.debts.tell()


def _invoiced(connection: Connection, channel: Channel) -> bool:
    """Whether an agreement that it owes for has its invoice accepted."""
    return any(
        ledger_repo.get_ledger(connection, AgreementId(share.agreement_id), Side.PAYEE).invoice is not None
        for share in repo.open_shares(connection, channel.id, Side.PAYEE)
    )
