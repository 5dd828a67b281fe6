"""One payload's way to the outside: which names it may know, which connections it may make.

Names get addresses of a range that is nobody's (198.18.0.0/15, for benchmarks: RFC 2544), made up per payload; the
real ones are looked up here when a connection is made. So an address always stands for one name of the whitelist, the
payload learns nothing of the provider's network, and DNS cannot lead it there.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Final

import structlog
import trio

from golemp2p import limits
from golemp2p.core import dns
from golemp2p.core.manifest import ALL, Outbound, OutboundRule, address_of
from golemp2p.errors import NetworkError, PolicyError

log = structlog.get_logger(__name__)

RANGE: Final = IPv4Network("198.18.0.0/15")
RESOLVER: Final = RANGE[1]
_FIRST: Final = 16

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""IPv4 addresses of a name. Raises OSError."""


# Payloads choose the names, and who answers for them may take his time: not the threads that the node works with.
_threads: Final = trio.CapacityLimiter(limits.OUTBOUND_LOOKUP_THREADS)


async def look_up(name: str) -> Sequence[str]:
    ask = partial(socket.getaddrinfo, name, None, socket.AF_INET, socket.SOCK_STREAM)
    found = await trio.to_thread.run_sync(ask, limiter=_threads, abandon_on_cancel=True)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class OutboundGate:
    """``rule`` is the provider's, ``wanted`` the demand's, which the rule allowed."""

    def __init__(self, rule: OutboundRule, wanted: Outbound, *, resolve: Resolve = look_up) -> None:
        self._rule = rule
        self._wanted = wanted
        self._resolve = resolve
        self._lookups = trio.CapacityLimiter(limits.OUTBOUND_LOOKUPS)
        self._by_name: dict[str, IPv4Address] = {}
        self._names: dict[IPv4Address, str] = {}
        self.connections = 0
        self.refused = 0

    @property
    def ports(self) -> Sequence[int]:
        return self._wanted.ports

    @property
    def resolver(self) -> IPv4Address:
        return RESOLVER

    @property
    def routes(self) -> Sequence[IPv4Network]:
        if self._wanted.unrestricted:
            return (IPv4Network("0.0.0.0/0"),)
        literal = [address for host, _ in self._wanted.hosts if (address := address_of(host)) is not None]
        return (RANGE, *(IPv4Network(address) for address in dict.fromkeys(literal)))

    def answer(self, query: bytes) -> bytes | None:
        """An address of our range for the names that may be known; all others do not exist."""
        asked = dns.parse_query(query)
        if asked is None:
            return None
        if asked.klass != dns.CLASS_IN:
            return dns.make_answer(asked, None, code=dns.NOT_IMPLEMENTED)
        if not self._may_know(asked.name):
            return dns.make_answer(asked, None, code=dns.NAME_ERROR)
        address = self._address_of(asked.name) if asked.type == dns.TYPE_A else None
        return dns.make_answer(asked, address)

    async def dial(self, address: IPv4Address, port: int) -> trio.abc.HalfCloseableStream:
        """Raises PolicyError, NetworkError."""
        host = self._names.get(address, str(address))
        if not self._may_reach(host, port):
            self.refused += 1
            raise PolicyError(f"the payload may not connect to {host}:{port}", hint="it is not in its manifest")
        for candidate in await self._places(host):
            with trio.move_on_after(limits.OUTBOUND_DIAL_S):
                try:
                    stream = await trio.open_tcp_stream(candidate, port)
                except OSError as exc:
                    log.info("outbound_not_connected", host=host, address=candidate, port=port, error=str(exc))
                else:
                    self.connections += 1
                    log.info("outbound_connected", host=host, address=candidate, port=port)
                    return stream
        raise NetworkError(f"{host}:{port} does not take a connection")

    async def _places(self, host: str) -> Sequence[str]:
        """Where to connect, private places left out unless the owner named them. Raises PolicyError, NetworkError."""
        found: Sequence[str] = [host]
        if address_of(host) is None:
            try:
                with trio.fail_after(limits.OUTBOUND_DIAL_S):
                    async with self._lookups:
                        found = await self._resolve(host)
            except (OSError, trio.TooSlowError) as exc:
                raise NetworkError(f"{host} cannot be looked up: {exc}") from None
        allowed = [place for place in found if self._may_dial(place)]
        if not allowed:
            self.refused += 1
            raise PolicyError(f"{host} is at a private address", hint="the whitelist would have to name the address")
        return allowed[: limits.OUTBOUND_PLACES]

    def _may_dial(self, place: str) -> bool:
        """Also not this machine by its public address: what listens there may trust the machine itself."""
        return place in self._rule.whitelist or (self._rule.may_dial(IPv4Address(place)) and not _is_ours(place))

    def _may_know(self, name: str) -> bool:
        if self._wanted.unrestricted:
            return self._rule.allows(name) and "." in name
        return any(host == name for host, _ in self._wanted.hosts)

    def _may_reach(self, host: str, port: int) -> bool:
        """The rule once more, for what is not in the manifest by name."""
        if self._wanted.unrestricted:
            return port in self._wanted.ports and ALL in self._rule.whitelist and self._rule.allows(host)
        return (host, port) in self._wanted.hosts and self._rule.allows(host)

    def _address_of(self, name: str) -> IPv4Address | None:
        """The same one each time; None when there are too many."""
        known = self._by_name.get(name)
        if known is None and len(self._by_name) < limits.OUTBOUND_NAMES:
            known = self._by_name[name] = RANGE[_FIRST + len(self._by_name)]
            self._names[known] = name
        return known


def _is_ours(address: str) -> bool:
    """Whether a socket here can have it. Takes microseconds; needs no list of interfaces."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
