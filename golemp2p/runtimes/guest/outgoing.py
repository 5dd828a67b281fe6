"""Connections that a payload makes to the outside: the agent tells of each, ours is the decision and the copying."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address
from typing import Final, Protocol

import structlog
import trio

from golemp2p import limits
from golemp2p.errors import GolemError
from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.runtimes.guest import protocol
from golemp2p.runtimes.guest.channel import Channel, ChannelStream, SessionPort
from golemp2p.runtimes.guest.protocol import Ask, Fields, Tell, u32
from golemp2p.runtimes.link import Pace
from golemp2p.runtimes.outbound import OutboundPort

log = structlog.get_logger(__name__)

CONNECTION: Final = 1
QUERY: Final = 2
_COPY_BYTES: Final = 64 * 1024


class AskingSession(SessionPort, Protocol):
    """GuestSession."""

    def open_channel(self, window_bytes: int) -> Channel: ...

    async def request(self, channel: Channel, kind: Ask, body: bytes) -> None: ...


class Outgoing:
    """Of one session. ``channel`` is that of an OUTBOUND request which the agent has agreed to."""

    def __init__(self, session: AskingSession, channel: Channel, outbound: OutboundPort) -> None:
        self._session = session
        self._channel = channel
        self._outbound = outbound
        self._open = self._refused = 0

    async def run(self) -> None:
        """Until the session is lost. Never raises but Cancelled."""
        pace = Pace()
        async with trio.open_nursery() as nursery:
            with contextlib.suppress(RuntimeFailureError):
                while (frame := await self._channel.get()).kind is Tell.DATA:
                    await self._hear(frame.body, nursery)
                    await self._channel.consumed(frame)
                    await pace.spend(1)
            nursery.cancel_scope.cancel()

    async def _hear(self, body: bytes, nursery: trio.Nursery) -> None:
        what, token = self._channel.parse(_two_numbers, body)
        if what == QUERY:
            reply = self._outbound.answer(body[8:])
            if reply is not None:
                await self._say(QUERY, token, reply)
        elif what == CONNECTION:
            address, port = self._channel.parse(_two_numbers, body[8:])
            if self._open >= limits.OUTBOUND_CONNECTIONS or not 0 < port < 65_536:
                await self._say(CONNECTION, token)
            else:
                self._open += 1
                nursery.start_soon(self._connect, token, IPv4Address(address), port)

    async def _say(self, what: int, token: int, body: bytes = b"") -> None:
        await self._session.send(protocol.frame(Ask.DATA, self._channel.id, u32(what, token) + body))

    async def _connect(self, token: int, address: IPv4Address, port: int) -> None:
        """One connection from the decision to its end."""
        try:
            with contextlib.suppress(RuntimeFailureError):
                try:
                    outside = await self._outbound.dial(address, port)
                except GolemError as exc:
                    self._refused += 1
                    if self._refused <= limits.OUTBOUND_REFUSALS_TOLD:  # a payload must not fill the provider's disk
                        log.info("outbound_refused", address=str(address), port=port, error=str(exc))
                    await self._say(CONNECTION, token)
                    return
                async with outside:
                    inside = await self._accept(token)
                    async with inside:
                        await join(inside, outside)
        finally:
            self._open -= 1

    async def _accept(self, token: int) -> trio.abc.HalfCloseableStream:
        channel = self._session.open_channel(limits.GUEST_FILE_WINDOW_BYTES)
        try:
            await self._session.request(channel, Ask.ACCEPT, u32(channel.window_bytes, token))
            answer = await channel.answer()
        except BaseException:
            self._session.abandon(channel)
            raise
        if isinstance(answer, protocol.Refusal):
            self._session.abandon(channel)
            raise RuntimeFailureError(answer.message)
        channel.credit_bytes = protocol.INBOUND_CREDIT_BYTES
        return ChannelStream(self._session, channel)


async def join(one: trio.abc.HalfCloseableStream, other: trio.abc.HalfCloseableStream) -> None:
    """Copy both ways, each to its end; when one direction breaks, or nothing moves for long, it is over."""

    async def copy(source: trio.abc.HalfCloseableStream, target: trio.abc.HalfCloseableStream) -> None:
        try:
            while data := await source.receive_some(_COPY_BYTES):
                nursery.cancel_scope.deadline = trio.current_time() + limits.OUTBOUND_IDLE_S
                await target.send_all(data)
            await target.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + limits.OUTBOUND_IDLE_S
        nursery.start_soon(copy, one, other)
        nursery.start_soon(copy, other, one)


def _two_numbers(body: bytes) -> tuple[int, int]:
    fields = Fields(body)
    return fields.u32(), fields.u32()
