"""The host's end of one guest agent: runs, files and connections over one byte stream.

Two tasks in the instance's nursery read and write; they never raise. Whatever goes wrong with the stream, or with what
the agent says, makes the session lost, with a reason: all who wait get RuntimeFailureError, ``lost`` returns.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import structlog
import trio

from golemp2p import limits
from golemp2p.runtimes.base import OutputSink, RuntimeFailureError
from golemp2p.runtimes.guest import protocol
from golemp2p.runtimes.guest.channel import Channel, ChannelStream
from golemp2p.runtimes.guest.files import SessionFiles
from golemp2p.runtimes.guest.outgoing import Outgoing
from golemp2p.runtimes.guest.protocol import Ask, Fields, Frame, FrameDecoder, GuestProtocolError, Tell, text, texts
from golemp2p.runtimes.guest.protocol import u32 as _u32
from golemp2p.runtimes.guest.protocol import u64 as _u64
from golemp2p.runtimes.link import GuestLink, Pace
from golemp2p.runtimes.outbound import OutboundPort

log = structlog.get_logger()

_STREAMS: Final = {Tell.STDOUT: "stdout", Tell.STDERR: "stderr"}


@dataclass(frozen=True)
class RunLimits:
    """Of one run, inside the guest. ``None`` is none of ours; what surrounds the guest still limits."""

    cpu_s: float | None = None  # of all processes of the run together, looked at five times a second
    file_bytes: int | None = None  # of one file
    open_files: int | None = limits.GUEST_OPEN_FILES
    processes: int | None = None  # of the user, RLIMIT_NPROC: root is not bound by it


@dataclass(frozen=True)
class GuestExit:
    """How a run ended. One of ``code`` and ``signal`` is None. All of it is the guest's word."""

    code: int | None
    signal: int | None
    cpu_s: float  # of the command and all that it waited for
    max_rss_bytes: int  # of the largest process
    out_of_memory: bool = False  # the kernel killed for memory while it ran
    cpu_limit: bool = False


@dataclass(frozen=True)
class GuestUsage:
    """Of the whole guest (its control group); zero where the guest cannot know. The guest's word."""

    cpu_s: float
    memory_bytes: int
    memory_peak_bytes: int
    processes: int
    oom_kills: int


async def open_session(
    stream: trio.abc.Stream, nursery: trio.Nursery, *, hello_timeout_s: float = limits.GUEST_HELLO_S
) -> GuestSession:
    """Greet the agent at the other end of ``stream``, which the session owns from now on, also when this fails.

    Raises RuntimeFailureError when no agent answers.
    """
    decoder = FrameDecoder()
    try:
        with trio.fail_after(hello_timeout_s):
            facts = await _greet(stream, decoder)
    except trio.TooSlowError:
        await trio.aclose_forcefully(stream)
        raise RuntimeFailureError(f"the guest agent did not answer within {hello_timeout_s:g} s") from None
    except (GuestProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        await trio.aclose_forcefully(stream)
        raise RuntimeFailureError(f"no guest agent: {exc or 'the stream broke'}") from exc
    except trio.Cancelled:
        await trio.aclose_forcefully(stream)
        raise
    session = GuestSession(stream, decoder, facts)
    nursery.start_soon(session.serve)
    return session


async def _greet(stream: trio.abc.Stream, decoder: FrameDecoder) -> str:
    """The agent's facts. Raises GuestProtocolError and what the stream raises."""
    await stream.send_all(protocol.frame(Ask.HELLO, 0, protocol.MAGIC + _u32(protocol.VERSION)))
    frames: list[Frame] = []
    while not frames:
        data = await stream.receive_some(limits.GUEST_READ_BYTES)
        if not data:
            raise GuestProtocolError("the guest agent closed the stream")
        frames.extend(decoder.feed(bytes(data)))
    hello, *early = frames
    if hello.kind is Tell.ERROR:
        raise GuestProtocolError(protocol.read_refusal(hello.body).message)
    if hello.kind is not Tell.HELLO or early:
        raise GuestProtocolError("what answers is no guest agent")
    return protocol.read_hello(hello.body)


class GuestSession:
    """Made by :func:`open_session`. ``facts`` is what the agent says of its kernel."""

    def __init__(self, stream: trio.abc.Stream, decoder: FrameDecoder, facts: str) -> None:
        self.facts = facts
        self.memory_peak_bytes = 0  # of the guest's control group, as told at the end of each run; 0 is unknown
        self._stream = stream
        self._decoder = decoder
        self._channels: dict[int, Channel] = {}
        self._next_id = 1
        self._reason: str | None = None
        self._gone = trio.Event()
        self._scope = trio.CancelScope()
        self._outbox, self._outgoing = trio.open_memory_channel[bytes](limits.GUEST_OUTBOX_FRAMES)

    # --- what runtimes call -------------------------------------------------------------------------------------------

    async def setup(
        self,
        *,
        hostname: str = "",
        user: str = "",
        volumes: Sequence[str] = (),
        memory_bytes: int = 0,
        processes: int = 0,
        cpu_percent: int = 0,
        scratch: bool = False,
    ) -> None:
        """Make the guest ready: volumes exist and belong to ``user`` (name or uid[:group or gid]), the runs' default.

        The rest is for a virtual machine, which enters its image now. Raises RuntimeFailureError.
        """
        body = _u32(protocol.SETUP_SCRATCH if scratch else 0) + _u64(memory_bytes) + _u32(processes, cpu_percent)
        body += text(hostname) + text(user) + texts(volumes)
        await self.call(Ask.SETUP, body)

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str = "/",
        user: str = "",
        limits: RunLimits = RunLimits(),
        output: OutputSink,
    ) -> GuestExit:
        """One command to the end of its own process; what it left behind runs on, unheard.

        Cancelling kills all of it first. Raises RuntimeFailureError when it cannot start, or when the guest is lost.
        """
        return await _Run(self).to_its_end(_exec_body(argv, env, cwd, user, limits), argv, output)

    def files(self, volumes: Sequence[str], *, spool_dir: Path) -> SessionFiles:
        """GuestFiles over ``volumes``; files on their way out are spooled in ``spool_dir``."""
        return SessionFiles(self, volumes, spool_dir)

    async def add_network(self, number: int, link: GuestLink, nursery: trio.Nursery) -> None:
        """Make the device ``eth<number>``; its packets go through ``link`` until the session ends.

        Only before :meth:`seal`. Raises RuntimeFailureError when the guest cannot have one.
        """
        at = link.interface
        channel = await self._agreed(Ask.NET, _u32(number, int(at.ip), at.network.prefixlen, link.mtu))
        nursery.start_soon(self._packets_from_guest, channel, link)
        nursery.start_soon(self._packets_to_guest, channel, link)

    async def add_outbound(self, outbound: OutboundPort, nursery: trio.Nursery) -> None:
        """The payload's connections to the outside come to ``outbound``. As :meth:`add_network`."""
        routes = [number for route in outbound.routes for number in (int(route.network_address), route.prefixlen)]
        body = _u32(int(outbound.resolver), len(outbound.ports), *outbound.ports) + _u32(len(routes) // 2, *routes)
        channel = await self._agreed(Ask.OUTBOUND, body, refused="no connections to the outside: ")
        nursery.start_soon(Outgoing(self, channel, outbound).run)

    async def seal(self, *, kept: int = 0, user: str = "", hosts: Sequence[str] = ()) -> None:
        """After the networks, before any run: the agent gives up the right to change networks, for good.

        In a container it becomes ``user``, and root keeps the capabilities ``kept`` (a bit set) at most; in a machine
        ``hosts`` are further lines of /etc/hosts. Raises RuntimeFailureError.
        """
        await self.call(Ask.SEAL, _u64(kept) + text(user) + texts(hosts))

    async def connect(self, port: int, address: IPv4Address | None = None) -> trio.abc.HalfCloseableStream:
        """To ``address`` of the guest (its loopback if none). Raises RuntimeFailureError: refused, no such port."""
        refused = f"cannot connect to port {port} in the guest: "
        channel = await self._agreed(Ask.CONNECT, _u32(port, int(address or 0)), refused=refused)
        channel.credit_bytes = protocol.INBOUND_CREDIT_BYTES
        return ChannelStream(self, channel)

    async def _agreed(self, ask: Ask, body: bytes, *, refused: str = "") -> Channel:
        """A channel for what ``ask`` begins; its window goes before ``body``. Raises RuntimeFailureError: refused."""
        channel = self.open_channel(limits.GUEST_WINDOW_BYTES)
        try:
            await self.request(channel, ask, _u32(channel.window_bytes) + body)
            answer = await channel.answer()
        except BaseException:  # cancellation too: the guest would hold its end open
            self.abandon(channel)
            raise
        if isinstance(answer, protocol.Refusal):
            self.abandon(channel)
            raise RuntimeFailureError(refused + answer.message)
        return channel

    async def usage(self) -> GuestUsage:
        async with self.channel(0) as channel:
            await self.request(channel, Ask.USAGE, b"")
            answer = await channel.answer()
            if isinstance(answer, protocol.Refusal):
                raise RuntimeFailureError(answer.message)
            return channel.parse(_read_usage, answer)

    async def lost(self) -> str:
        """Wait until the session has ended, by whatever; the reason."""
        await self._gone.wait()
        return self._reason or ""

    async def aclose(self) -> None:
        """Say farewell (the agent kills what runs and ends) and close. Never raises; idempotent."""
        with trio.move_on_after(limits.GUEST_CLOSE_S, shield=True), contextlib.suppress(RuntimeFailureError):
            await self.call(Ask.SHUTDOWN, b"")
        self.lose("closed")
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)

    # --- what channels, files and runs call ---------------------------------------------------------------------------

    def open_channel(self, window_bytes: int) -> Channel:
        """A new request's channel. The caller abandons it in the end."""
        if self._reason is not None:
            raise self.failure()
        if len(self._channels) >= limits.GUEST_CHANNELS:
            raise RuntimeFailureError(f"there are {len(self._channels)} requests to the guest under way already")
        channel = Channel(self, self._next_id, window_bytes)
        self._channels[channel.id] = channel
        self._next_id += 1
        return channel

    async def send(self, frame: bytes) -> None:
        """Queue one frame. Raises RuntimeFailureError when the session is lost."""
        try:
            await self._outbox.send(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self.failure() from None

    async def request(self, channel: Channel, kind: Ask, body: bytes) -> None:
        for frame in protocol.request_frames(kind, channel.id, body):
            await self.send(frame)

    async def call(self, kind: Ask, body: bytes) -> bytes:
        """One request, one answer. Raises RuntimeFailureError with the guest's words."""
        async with self.channel(0) as channel:
            await self.request(channel, kind, body)
            answer = await channel.answer()
        if isinstance(answer, protocol.Refusal):
            raise RuntimeFailureError(answer.message)
        return answer

    @asynccontextmanager
    async def channel(self, window_bytes: int) -> AsyncIterator[Channel]:
        channel = self.open_channel(window_bytes)
        try:
            yield channel
        finally:
            self.abandon(channel)

    def abandon(self, channel: Channel) -> None:
        """Forget the channel; the agent is told unless the request has ended. Never waits."""
        if self._channels.pop(channel.id, None) is None or channel.ended or self._reason is not None:
            return
        try:
            self._outbox.send_nowait(protocol.frame(Ask.CLOSE, channel.id))
        except (trio.WouldBlock, trio.BrokenResourceError):
            # An agent that takes nothing: it keeps one of its channels open, of which it has more than we use.
            log.debug("guest_channel_not_closed", channel=channel.id)

    def failure(self) -> RuntimeFailureError:
        return RuntimeFailureError(f"the guest is gone: {self._reason or 'the stream ended'}")

    def lose(self, reason: str) -> None:
        """End the session. The first reason counts."""
        if self._reason is None:
            self._reason = reason
            self._gone.set()
            self._scope.cancel()
            self._outbox.close()
            self._outgoing.close()
            for channel in self._channels.values():
                channel.wake()

    @property
    def is_lost(self) -> bool:
        return self._reason is not None

    # --- the two tasks ------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Until the session is lost. Never raises but Cancelled."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
        finally:
            self.lose("the instance is being closed")
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        try:
            while data := await self._stream.receive_some(limits.GUEST_READ_BYTES):
                for frame in self._decoder.feed(bytes(data)):
                    self._dispatch(frame)
            self.lose("the guest agent has ended")
        except GuestProtocolError as exc:
            log.warning("guest_protocol_broken", reason=exc.message)
            self.lose(exc.message)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as exc:
            self.lose(f"the stream to the guest agent broke: {exc}")

    async def _write(self) -> None:
        try:
            async for frame in self._outgoing:
                await self._stream.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as exc:
            self.lose(f"the stream to the guest agent broke: {exc}")

    async def _packets_from_guest(self, channel: Channel, link: GuestLink) -> None:
        pace = Pace()
        with contextlib.suppress(RuntimeFailureError):  # the session is over, which others notice
            while (frame := await channel.get()).kind is Tell.DATA:
                link.from_guest(frame.body)
                await channel.consumed(frame)
                await pace.spend(1)

    async def _packets_to_guest(self, channel: Channel, link: GuestLink) -> None:
        with contextlib.suppress(RuntimeFailureError):
            while not self.is_lost:
                packet = await link.next()
                await self.send(protocol.frame(Ask.DATA, channel.id, packet))

    def _dispatch(self, frame: Frame) -> None:
        channel = self._channels.get(frame.id)
        if channel is not None:
            channel.deliver(frame)
        elif not 0 < frame.id < self._next_id:
            raise GuestProtocolError(f"the guest agent speaks of request {frame.id}, which nobody made")


class _Run:
    """One EXEC from its request to its end."""

    def __init__(self, session: GuestSession) -> None:
        self._session = session
        self._asked = False
        self._exited: protocol.Exited | None = None

    async def to_its_end(self, body: bytes, argv: Sequence[str], output: OutputSink) -> GuestExit:
        channel = self._session.open_channel(limits.GUEST_WINDOW_BYTES)
        try:
            await self._session.request(channel, Ask.EXEC, body)
            self._asked = True
            answer = await channel.answer()
            if isinstance(answer, protocol.Refusal):
                raise RuntimeFailureError(f"cannot run {argv[0][:200]!r}: {answer.message}")
            while self._exited is None:
                await self._step(channel, output)
        finally:
            if self._asked and not channel.ended:
                await self._kill(channel)
            self._session.abandon(channel)
        return _guest_exit(self._exited)

    async def _step(self, channel: Channel, output: OutputSink | None) -> None:
        frame = await channel.get()
        if frame.kind in _STREAMS:
            if output is not None:
                await output(_STREAMS[frame.kind], frame.body)
            await channel.consumed(frame)
        elif frame.kind is Tell.EXITED:
            self._exited = channel.parse(protocol.read_exited, frame.body)
            self._session.memory_peak_bytes = max(self._session.memory_peak_bytes, self._exited.memory_peak_bytes)
            channel.ended = True
        elif output is None and frame.kind is Tell.ERROR:  # it never started
            channel.ended = True
        elif output is not None or frame.kind is not Tell.OK:
            raise self._broken(frame)

    async def _kill(self, channel: Channel) -> None:
        """All of the run is dead afterwards, or the session is lost."""
        with trio.move_on_after(limits.GUEST_KILL_S, shield=True), contextlib.suppress(RuntimeFailureError):
            await self._session.send(protocol.frame(Ask.KILL, channel.id, _u32(1)))
            while not channel.ended:
                await self._step(channel, None)
        if not channel.ended:
            self._session.lose(f"a cancelled command was not dead after {limits.GUEST_KILL_S:g} s")

    def _broken(self, frame: Frame) -> RuntimeFailureError:
        self._session.lose(f"the guest agent sent {frame.kind.name} in a run")
        return self._session.failure()


def _read_usage(body: bytes) -> GuestUsage:
    fields = Fields(body)
    cpu_us, memory, peak = fields.u64(), fields.u64(), fields.u64()
    return GuestUsage(min(cpu_us, 2**52) / 1e6, memory, peak, fields.u32(), fields.u32())


def _exec_body(argv: Sequence[str], env: Mapping[str, str], cwd: str, user: str, bounds: RunLimits) -> bytes:
    words = [*argv, *env.keys(), *env.values(), cwd, user]
    if not argv or not argv[0]:
        raise RuntimeFailureError("there is no command to run")
    if any("\0" in word for word in words) or any("=" in key or not key for key in env):
        raise RuntimeFailureError("a command's words and environment cannot hold NUL, nor its variables' names '='")
    if len(argv) > protocol.LIST_MAX or len(env) > protocol.LIST_MAX:
        raise RuntimeFailureError(f"a command has at most {protocol.LIST_MAX} words and as many variables")
    cpu_ms = 0 if bounds.cpu_s is None else max(1, math.ceil(bounds.cpu_s * 1000))
    body = _u32(limits.GUEST_WINDOW_BYTES) + _u64(cpu_ms, bounds.file_bytes or 0)
    body += _u32(bounds.open_files or 0, bounds.processes or 0) + text(cwd) + text(user)
    body += texts(argv) + texts(f"{key}={value}" for key, value in env.items())
    if len(body) > protocol.REQUEST_MAX_BYTES:
        raise RuntimeFailureError(
            f"the command line and its environment have {len(body)} bytes", hint="at most 1 MiB; put it in a file"
        )
    return body


def _guest_exit(exited: protocol.Exited) -> GuestExit:
    killed = exited.code < 0
    return GuestExit(
        code=None if killed else exited.code,
        signal=-exited.code if killed else None,
        cpu_s=exited.cpu_s,
        max_rss_bytes=exited.max_rss_bytes,
        out_of_memory=bool(exited.flags & protocol.EXIT_OOM),
        cpu_limit=bool(exited.flags & protocol.EXIT_CPU),
    )
