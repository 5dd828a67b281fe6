"""Bulk lanes of a node: a listener, tickets, and dialling (protocols/data.md, "Lanes").

Who wants a lane and who grants it each make an offer on an authenticated libp2p stream: a certificate, a ticket's name,
a secret token and where they listen. Whoever reaches the other sends the name in the clear, then speaks TLS with both
certificates pinned, then sends the token. A connection without the name of a ticket costs 20 bytes and no thread.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import DeadlineError, GolemError, NetworkError, RemoteProtocolError, UsageError
from golemp2p.net.lane import LaneStream
from golemp2p.net.lanebulk import receive_exactly
from golemp2p.net.laneoffer import MAGIC, NAME_BYTES, TOKEN_BYTES, Offer, hosts_of, places_to_try
from golemp2p.net.lanepipe import TlsPipe
from golemp2p.net.lanethreads import run_blocking
from golemp2p.net.lanetls import CertificateHolder, LaneCertificate, check_pinned, context_for
from golemp2p.net.port import Network

log = structlog.get_logger(__name__)
Deliver = Callable[[LaneStream], Awaitable[None]]
_ACCEPTED: Final = b"\\1"
_HELLO_BYTES: Final = len(MAGIC) + NAME_BYTES


def listen_place(setting: str, multiaddrs: Sequence[str]) -> tuple[tuple[str, int], bool]:
    """Where lanes are to listen, and whether at exactly that port. Raises UsageError.

    ``setting``: "HOST:PORT", or "" for the host that libp2p listens on and the port after libp2p's, if that is free.
    """
    if not setting:
        for text in multiaddrs:
            parts = text.split("/")
            if len(parts) >= 5 and parts[1] in ("ip4", "ip6") and parts[4].isdecimal():
                return (parts[2], (int(parts[4]) + 1) % 65_536 if int(parts[4]) else 0), False
        return ("127.0.0.1", 0), False
    host, _, port = setting.rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        host = ""
    if not host or not port.isascii() or not port.isdecimal() or int(port[:6]) > 65_535:
        raise UsageError(f"net.lane_listen {setting!r} is not IP:PORT", hint="for example 0.0.0.0:11156")
    return (host, int(port)), True


@dataclass(frozen=True)
class Ticket:
    """What one connection needs to become a lane."""

    peer: PeerId
    token: bytes
    their_cert: bytes
    deliver: Deliver
    expires_at: float  # trio's clock


class Lanes:
    """``run`` listens until cancelled; without it lanes are dialled, but none is offered."""

    def __init__(self, network: Network, listen: tuple[str, int] = ("127.0.0.1", 0), *, exact: bool = True) -> None:
        """``listen``: an IP address and a port; without ``exact`` another port will do when that one is taken."""
        self._network, self._listen, self._exact = network, listen, exact
        self._certificate = CertificateHolder()
        self._tickets: OrderedDict[bytes, Ticket] = OrderedDict()
        self._open: Counter[PeerId] = Counter()
        self._coming: Counter[PeerId] = Counter()  # lanes between ticket and token
        self._pending: Counter[str] = Counter()  # by host: connections that have not shown a ticket
        self._unreachable: OrderedDict[PeerId, float] = OrderedDict()
        self._threads = trio.CapacityLimiter(limits.LANE_THREADS)
        self._port: int | None = None
        self.opened = 0  # lanes, since the start

    # --- listening --------------------------------------------------------------------------------------------------
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Raises UsageError when the port is taken."""
        host, port = self._listen
        listener = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        with listener:
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    await listener.bind((host, port))
                except OSError:
                    if self._exact or not port:
                        raise
                    await listener.bind((host, 0))
                listener.listen(limits.LANE_MAX_PENDING)
            except OSError as exc:
                raise UsageError(
                    f"bulk lanes cannot listen on {host} port {port}: {exc.strerror}", hint="set net.lane_listen"
                ) from exc
            self._port = listener.getsockname()[1]
            try:
                async with trio.open_nursery() as nursery:
                    task_status.started()
                    while True:
                        try:
                            accepted, address = await listener.accept()
                        except OSError as exc:  # too many open files, or gone again
                            log.warning("lane_accept_failed", error=exc.strerror)
                            await trio.sleep(limits.LANE_DIAL_STAGGER_S)
                            continue
                        host = str(address[0])
                        if (
                            self._pending.total() >= limits.LANE_MAX_PENDING
                            or self._pending[host] >= limits.LANE_MAX_PENDING_PER_HOST
                        ):
                            accepted.close()
                            continue
                        nursery.start_soon(self._greet, accepted, host)
            finally:
                self._port = None

    async def _greet(self, accepted: trio.socket.SocketType, host: str) -> None:
        """Never raises: a stranger's mistake is its own."""
        lane = ticket = None
        self._pending[host] += 1
        try:
            with accepted:
                ticket = await self._ticket_of(accepted)
                if ticket is None:
                    return
                plain = socket.socket(fileno=accepted.detach())
            with self._counted(ticket.peer):
                lane = await self._secure(plain, ticket.peer, ticket.their_cert, ticket.token, server=True)
        except (GolemError, OSError) as exc:
            log.info("lane_refused", host=host, error=str(exc))
        finally:
            self._pending[host] -= 1
            if not self._pending[host]:
                del self._pending[host]
        if lane is not None and ticket is not None:
            log.debug("lane_opened", peer=ticket.peer, direction="in")
            await ticket.deliver(lane)

    async def _ticket_of(self, accepted: trio.socket.SocketType) -> Ticket | None:
        """The ticket that the first bytes name, used up by that; None for everything else."""
        hello = b""
        with trio.move_on_after(limits.LANE_HELLO_S):
            while len(hello) < _HELLO_BYTES:
                piece = await accepted.recv(_HELLO_BYTES - len(hello))
                if not piece:
                    return None
                hello += piece
                if not hello.startswith(MAGIC[: len(hello)]):
                    return None
            ticket = self._tickets.pop(hello[len(MAGIC) :], None)
            if ticket is not None and ticket.expires_at > trio.current_time():
                return ticket
        return None

    # --- offers -----------------------------------------------------------------------------------------------------
    async def certificate(self) -> bytes:
        """What we show, DER."""
        return (await self._certificate_now()).der

    async def _certificate_now(self) -> LaneCertificate:
        return await trio.to_thread.run_sync(self._certificate.get)

    async def offer(self, peer: PeerId, their_cert: bytes, deliver: Deliver) -> Offer:
        """Our side of a lane with ``peer``; without places when we do not listen or have too many lanes already.

        ``deliver`` owns the lane and never raises; it runs in our nursery.
        """
        certificate = await self._certificate_now()
        name, token = secrets.token_bytes(NAME_BYTES), secrets.token_bytes(TOKEN_BYTES)
        if self._port is None or not self.has_room(peer):
            return Offer(certificate.der, name, token, ())
        expires_at = trio.current_time() + limits.LANE_TICKET_S
        self._tickets[name] = Ticket(peer, token, their_cert, deliver, expires_at)
        return Offer(certificate.der, name, token, tuple((host, self._port) for host in self._hosts()))

    def withdraw(self, offer: Offer) -> None:
        """Nobody is to come with that ticket any more. Idempotent."""
        self._tickets.pop(offer.name, None)

    def has_room(self, peer: PeerId) -> bool:
        """For one more lane, with those that are offered or on their way."""
        self._expire()
        offered = sum(1 for ticket in self._tickets.values() if ticket.peer == peer)
        theirs = self._open[peer] + self._coming[peer] + offered
        every = self._open.total() + self._coming.total() + len(self._tickets)
        return every < limits.LANE_MAX_LANES and theirs < limits.LANE_MAX_LANES_PER_PEER

    @contextmanager
    def _counted(self, peer: PeerId) -> Iterator[None]:
        self._coming[peer] += 1
        try:
            yield
        finally:
            self._coming[peer] -= 1
            if not self._coming[peer]:
                del self._coming[peer]

    def _hosts(self) -> list[str]:
        host = self._listen[0]
        if host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            return [host]
        return hosts_of(self._network.addresses())[: limits.LANE_MAX_PLACES]

    def _expire(self) -> None:
        now = trio.current_time()
        while self._tickets and next(iter(self._tickets.values())).expires_at <= now:
            self._tickets.popitem(last=False)

    # --- dialling ---------------------------------------------------------------------------------------------------
    def worth_trying(self, peer: PeerId) -> bool:
        """False for a while after a lane with ``peer`` did not come about."""
        until = self._unreachable.get(peer)
        return (until is None or until <= trio.current_time()) and self.has_room(peer)

    def remember_unreachable(self, peer: PeerId) -> None:
        self._unreachable[peer] = trio.current_time() + limits.LANE_FORGET_S
        self._unreachable.move_to_end(peer)
        while len(self._unreachable) > limits.LANE_REMEMBERED_PEERS:
            self._unreachable.popitem(last=False)

    async def dial(self, peer: PeerId, offer: Offer) -> LaneStream:
        """The lane that ``offer`` promises, by the first of its places that answers rightly. Raises NetworkError."""
        known = [info.addresses for info in self._network.peers() if info.peer == peer]
        places = places_to_try(offer, hosts_of(known[0]) if known else [])
        lanes: list[LaneStream] = []
        why = "it listens nowhere"

        async def attempt(index: int, place: tuple[str, int]) -> None:
            nonlocal why
            await trio.sleep(index * limits.LANE_DIAL_STAGGER_S)
            try:
                lanes.append(await self._dial_one(peer, offer, place))
            except (GolemError, OSError) as exc:
                why = f"{place[0]}: {exc}"
                log.debug("lane_not_dialled", peer=peer, place=place, error=str(exc))
            else:
                nursery.cancel_scope.cancel()

        if not self.has_room(peer):
            raise NetworkError(f"there are too many lanes, {self._open[peer]} with {peer}")
        with self._counted(peer), trio.move_on_after(limits.LANE_DIAL_S) as dialling:
            async with trio.open_nursery() as nursery:
                for index, place in enumerate(places):
                    nursery.start_soon(attempt, index, place)
        for spare in lanes[1:]:
            await spare.reset()
        if lanes:
            log.debug("lane_opened", peer=peer, direction="out")
            return lanes[0]
        if dialling.cancelled_caught:
            raise DeadlineError(f"no lane to {peer} within {limits.LANE_DIAL_S:g} s")
        raise NetworkError(f"no lane to {peer}: {why}")

    async def _dial_one(self, peer: PeerId, offer: Offer, place: tuple[str, int]) -> LaneStream:
        host, port = place
        dialled = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        with dialled:
            await dialled.connect((host, port))
            await dialled.send(MAGIC + offer.name)  # 20 bytes into an empty buffer
            plain = socket.socket(fileno=dialled.detach())
        return await self._secure(plain, peer, offer.cert, offer.token, server=False)

    # --- TLS --------------------------------------------------------------------------------------------------------
    async def _secure(
        self, plain: socket.socket, peer: PeerId, their_cert: bytes, token: bytes, *, server: bool
    ) -> LaneStream:
        """Owns ``plain``. Raises NetworkError, RemoteProtocolError."""
        certificate = await self._certificate_now()
        made: list[TlsPipe] = []
        try:
            work = partial(_handshake, plain, made, certificate, their_cert, token, server=server)
            await run_blocking(work, partial(_shut_down, plain), self._threads)
        except OSError as exc:
            plain.close()
            raise NetworkError(f"the handshake of a lane with {peer} failed: {exc}") from exc
        except BaseException:
            plain.close()
            raise
        connection = made[0]
        self._open[peer] += 1
        self.opened += 1

        def closed() -> None:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]

        return LaneStream(connection, peer, self._threads, closed)

    def statistics(self) -> dict[str, int]:
        """What is there at the moment."""
        return {
            "lanes": self._open.total(),
            "tickets": len(self._tickets),
            "pending": self._pending.total(),
            "threads": int(self._threads.borrowed_tokens),
        }


def _handshake(
    plain: socket.socket,
    made: list[TlsPipe],
    certificate: LaneCertificate,
    their_cert: bytes,
    token: bytes,
    *,
    server: bool,
) -> None:
    """TLS over ``plain``, then the token; the lane is appended to ``made``. Blocking.

    Raises OSError (also ssl's), RemoteProtocolError.
    """
    plain.setblocking(True)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pipe = TlsPipe(plain, context_for(certificate, their_cert, server=server), server=server)
    pipe.handshake(limits.LANE_HANDSHAKE_S)
    check_pinned(pipe.peer_certificate(), their_cert)
    if server:
        _expect(pipe, token, "a lane's token is wrong")
        pipe.sendall(_ACCEPTED)
    else:
        pipe.sendall(token)
        _expect(pipe, _ACCEPTED, "the other end does not accept a lane's token")
    made.append(pipe)


def _expect(connection: TlsPipe, expected: bytes, otherwise: str) -> None:
    if not hmac.compare_digest(receive_exactly(connection, len(expected)), expected):
        raise RemoteProtocolError(otherwise)


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):  # it was not connected any more
        connection.shutdown(socket.SHUT_RDWR)
