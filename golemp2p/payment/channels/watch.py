"""Looks at the chain for channels that need it, as rarely as is safe, and does what follows from what it sees.

A payee with unclaimed vouchers looks whether the payer closes (many times within the grace), a payer whether its
vouchers were claimed, and both at once when they have a reason: a finished order, a word from the other side. Of
channels with nothing open the chain is asked nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.money import format_amount
from golemp2p.core.payment import Side
from golemp2p.core.payment.vouchers import CLOSED, ChannelState
from golemp2p.errors import GolemError
from golemp2p.payment.channels.abi import ClaimedEvent
from golemp2p.payment.channels.booking import book
from golemp2p.payment.channels.parts import Parts
from golemp2p.payment.channels.payee import Payee
from golemp2p.payment.channels.payer import Payer
from golemp2p.payment.outbox import post
from golemp2p.storage import channels as repo
from golemp2p.storage import orders as order_repo
from golemp2p.storage import payment as ledger_repo
from golemp2p.storage.channels import Channel, ChannelStatus
from golemp2p.storage.orders import OrderState
from golemp2p.wire.p2p import channels as wire

log = structlog.get_logger(__name__)

_OPEN = (ChannelStatus.LIVE, ChannelStatus.RETIRED)
_ENDED = (OrderState.FINAL, OrderState.FAILED)


class Watcher:
    def __init__(self, parts: Parts, payer: Payer, payee: Payee) -> None:
        self._parts = parts
        self._payer = payer
        self._payee = payee
        self._due: dict[tuple[str, Side], float] = {}  # when to look next, in the clock of the event loop
        self._wanted: set[str] = set()  # to be looked at now
        self._looked: dict[tuple[str, Side], float] = {}  # when, in the clock of the event loop
        self._failed: dict[tuple[str, Side], float] = {}  # until when nothing more is ordered for a channel
        self._dust: dict[tuple[str, bool], float] = {}  # until when it is not worth a claim's gas; by id and "closing"
        self._pause_s: dict[str, float] = {}  # after a failed look, by platform
        self._behind: set[str] = set()  # more was claimed of them on the chain than their events have told us yet

    def poke(self, channel_id: str) -> None:
        """Somebody says that there is something to see."""
        self._wanted.add(channel_id)
        self._parts.news.tell()

    async def run(self) -> NoReturn:
        context = self._parts.context
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_orders)
            while True:
                news = self._parts.news.next()
                found = await context.storage.run(partial(repo.find_channels, states=_OPEN))
                by_platform: dict[str, list[Channel]] = defaultdict(list)
                for channel in found:
                    by_platform[channel.platform].append(channel)
                waits = [float("inf")]
                async with trio.open_nursery() as group:  # a dead network holds up its own channels only
                    for platform, some in by_platform.items():
                        group.start_soon(self._serve, platform, some, waits)
                with trio.move_on_after(min(waits)):
                    await news.wait()
        raise AssertionError("the nursery does not end")  # pragma: no cover

    async def _hear_orders(self) -> NoReturn:
        """An order of ours that ended is news of its channel."""
        context = self._parts.context
        while True:
            news = context.orders.next()
            for channel in await context.storage.run(_with_ended_orders):
                self._wanted.add(channel.id)
                self._parts.news.tell()
            await news.wait()

    async def _serve(self, platform: str, channels: list[Channel], waits: list[float]) -> None:
        """One round; ``waits`` gets how long the next one may wait."""
        try:
            now = trio.current_time()
            due = [c for c in channels if self._next_look(c) <= now]
            if due:
                self._wanted -= {c.id for c in due}
                await self.look(platform, sorted({c.id for c in due}))
            await self._act(platform)
            self._pause_s.pop(platform, None)
        except GolemError as exc:
            pause_s = self._pause_s.get(platform, limits.CHANNEL_LOOK_RETRY_S)
            self._pause_s[platform] = min(limits.CHANNEL_LOOK_RETRY_MAX_S, 2 * pause_s)
            log.warning("channels_not_looked_at", platform=platform, error=str(exc), retry_in_s=pause_s)
            waits.append(pause_s)
            return
        now = trio.current_time()
        current = await self._parts.context.storage.run(partial(repo.find_channels, platform=platform, states=_OPEN))
        waits += [max(0.0, self._next_look(c) - now) for c in current]
        waits += [until - now for until in self._failed.values() if until > now]
        waits += [self._claim_in(c) if c.side is Side.PAYEE else self._idle_in(c) for c in current]

    def _next_look(self, channel: Channel) -> float:
        """When this channel is to be looked at next (event loop's clock)."""
        if channel.id in self._wanted:  # whoever asks for it: once a poll, so that no peer makes us ask without end
            poll_s = self._parts.context.driver(channel.platform).network.poll_s
            return self._looked.get((channel.id, channel.side), -float("inf")) + poll_s
        busy = channel.cumulative > channel.claimed and channel.deposit > 0
        # A payer's once in each run: a database that was restored may not know what it has vouched for.
        mine = channel.side is Side.PAYER
        busy = busy or (mine and (channel.state is ChannelStatus.RETIRED or self._is_unseen(channel)))
        return self._due.get((channel.id, channel.side), -float("inf")) if busy else float("inf")

    def _is_unseen(self, channel: Channel) -> bool:
        return channel.seen_block >= 0 and (channel.id, channel.side) not in self._looked

    def _every_s(self, channel: Channel) -> float:
        if channel.side is Side.PAYER:
            return limits.CHANNEL_PAYER_WATCH_S
        poll_s = self._parts.context.driver(channel.platform).network.poll_s
        return max(poll_s, min(limits.CHANNEL_WATCH_S, channel.grace_s / 8))

    def _claim_in(self, channel: Channel) -> float:
        """Seconds until its vouchers are old enough to be claimed."""
        if not channel.unclaimed or channel.unclaimed_since is None or channel.order is not None:
            return float("inf")
        held_s = self._dust.get((channel.id, bool(channel.close_at)), -float("inf")) - trio.current_time()
        if held_s > 0:
            return held_s
        after_s = self._parts.settings.claim_after_s
        return max(limits.CHANNEL_LOOK_RETRY_S, channel.unclaimed_since + after_s - self._parts.context.clock())

    def _idle_in(self, channel: Channel) -> float:
        """Seconds until an unused channel is closed; not sooner than it would be asked again."""
        if channel.state is not ChannelStatus.LIVE:
            return float("inf")
        idle_at = channel.used_at + self._parts.settings.idle_close_s
        return max(limits.CHANNEL_PAYER_WATCH_S, idle_at - self._parts.context.clock())

    # --- looking ----------------------------------------------------------------------------------------------------

    async def look(self, platform: str, ids: Sequence[str]) -> list[Channel]:
        """Both sides of them where we are both. Raises NetworkError, WrongNetworkError, PolicyError."""
        context, chain = self._parts.context, self._parts.chain(platform)
        # Before the chain is asked: what an order that ended by now has done is in the answer.
        before, ended = await context.storage.run(lambda c: _read(c, ids))
        last = await chain.driver.final_block()
        states = await chain.states([bytes.fromhex(i[2:]) for i in ids])
        by_id = dict(zip(ids, states, strict=True))
        result = []
        for channel in before:
            state = by_id[channel.id]
            events: list[ClaimedEvent] = []
            if channel.seen_block >= 0 and (state.claimed > channel.claimed):
                first = channel.seen_block + 1
                events = await chain.claims(channel.config.id, first=first, last=max(first, last))
            done = {name for name in (channel.order, channel.fund_order) if name is not None and name in ended}
            found = _Found(channel, state, events, last, done, context.clock())
            after = await context.storage.run(partial(_book, found=found))
            if any(ended[name] is OrderState.FAILED for name in done):
                self._failed[channel.id, channel.side] = trio.current_time() + limits.CHANNEL_ORDER_RETRY_S
            # Claims in blocks since the last final one are looked at as soon as that one is another.
            behind = state.claimed > after.claimed
            self._looked[channel.id, channel.side] = trio.current_time()
            (self._behind.add if behind else self._behind.discard)(after.id)
            every_s = chain.driver.network.poll_s if behind else self._every_s(after)
            self._due[channel.id, channel.side] = trio.current_time() + every_s
            result.append(after)
        if any(a.claimed > b.claimed for a, b in zip(result, before, strict=True)):
            context.events.tell()
            context.outbox.tell()
        if any(channel.state is ChannelStatus.DONE and channel.side is Side.PAYER for channel in result):
            context.debts.tell()  # vouchers beyond the deposit are debts by now
        return [c for c in result if c.id in by_id]

    async def look_again(self, channels: Sequence[Channel]) -> None:
        """At those whose last look is old enough for another: whoever makes us ask costs the chain no more than that.

        Raises as :meth:`look` does.
        """
        now = trio.current_time()
        due = [c for c in channels if self._due.get((c.id, c.side), -float("inf")) <= now]
        for platform in sorted({c.platform for c in due}):
            await self.look(platform, sorted({c.id for c in due if c.platform == platform}))

    # --- acting -----------------------------------------------------------------------------------------------------

    async def _act(self, platform: str) -> None:
        context, now = self._parts.context, trio.current_time()
        blocked = {key for key, until in self._failed.items() if until > now}
        channels = await context.storage.run(partial(repo.find_channels, platform=platform, states=_OPEN))
        free = [c for c in channels if (c.id, c.side) not in blocked]
        # What was claimed already is not claimed again at our cost; before a close it is better once too often.
        behind = {c.id for c in free if c.id in self._behind and not c.close_at}
        await self._claim(platform, [c for c in free if c.side is Side.PAYEE and c.id not in behind])
        for channel in free:
            if channel.side is not Side.PAYER:
                continue
            if channel.state is ChannelStatus.RETIRED:
                if channel.close_at == CLOSED:  # by somebody else, with claims that are not booked yet
                    continue
                if channel.close_at and channel.order is None:
                    await self._payer.finalize(self._parts.chain(platform), channel)
                elif channel.order is None:  # the wish to close it never got to the chain
                    await self._payer.close(channel.id)
            else:
                busy = await context.storage.run(partial(_has_open_agreements, channel_id=channel.id))
                await self._payer.keep(channel, busy=busy)

    async def _claim(self, platform: str, channels: Sequence[Channel]) -> None:
        now = self._parts.context.clock()

        def judge(connection: Connection) -> list[tuple[Channel, str]]:
            judged = [(c, self._payee.why_claim(connection, c, now=now)) for c in free]
            return [(channel, why) for channel, why in judged if why]

        here = trio.current_time()
        free = [c for c in channels if self._dust.get((c.id, bool(c.close_at)), -float("inf")) <= here]
        wanted = await self._parts.context.storage.run(judge)
        worth = await self._payee.worth_its_gas(platform, wanted) if wanted else []
        taken = []
        for (channel, why), good in zip(wanted, worth, strict=True):
            key = (channel.id, bool(channel.close_at))
            if good:
                self._dust.pop(key, None)
                taken.append((channel, why))
                continue
            if key not in self._dust:
                log.info("claim_not_worth_its_gas", channel_id=channel.id, amount=format_amount(channel.unclaimed))
            self._dust[key] = here + limits.CHANNEL_DUST_RECHECK_S
        if taken:
            await self._payee.claim(platform, [channel for channel, _ in taken], taken[0][1])


@dataclass(frozen=True)
class _Found:
    """By one look at the chain. ``ended``: orders of the channel that had ended before it."""

    channel: Channel
    state: ChannelState
    events: Sequence[ClaimedEvent]
    seen_block: int
    ended: set[str]
    now: float


def _book(connection: Connection, found: _Found) -> Channel:
    """And tell the payer, who would not look so soon."""
    after = book(connection, found.channel, found.state, found.events, seen_block=found.seen_block, now=found.now)
    forget = {name: None for name in ("order", "fund_order") if getattr(after, name) in found.ended}
    if forget:
        repo.change_channel(connection, after.id, after.side, **forget)
        after = replace(after, **forget)  # type: ignore[arg-type]  # None is allowed in both
    if after.side is Side.PAYEE and found.events and after.claimed > found.channel.claimed:
        hint = wire.ClaimedMessage(channel_id=after.id, transaction=found.events[-1].transaction)
        post(connection, after.peer, wire.CLAIMED, hint, now=found.now)
    return after


def _read(connection: Connection, ids: Sequence[str]) -> tuple[list[Channel], dict[str, OrderState]]:
    """The channels, and which of their orders have ended."""
    found = [channel for i in ids for channel in repo.find_channels(connection, id=i)]
    names = {name for c in found for name in (c.order, c.fund_order) if name is not None}
    orders = {name: order_repo.get_order(connection, name) for name in names}
    return found, {name: o.state for name, o in orders.items() if o is not None and o.state in _ENDED}


def _with_ended_orders(connection: Connection) -> list[Channel]:
    found = [c for c in repo.find_channels(connection, states=_OPEN) if c.order is not None or c.fund_order is not None]
    _, ended = _read(connection, sorted({c.id for c in found}))
    return [c for c in found if c.order in ended or c.fund_order in ended]


def _has_open_agreements(connection: Connection, channel_id: str) -> bool:
    """Whether an agreement that it pays for is not invoiced yet."""
    return any(
        ledger_repo.get_ledger(connection, agreement, Side.PAYER).invoice is None
        for agreement in repo.agreements_of(connection, channel_id, Side.PAYER)
    )
