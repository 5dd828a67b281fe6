"""``/dnsaddr/NAME[/p2p/PEER]``: bootstrap addresses that DNS knows, so that they can change without a new profile.

The TXT records of ``_dnsaddr.NAME`` say ``dnsaddr=<multiaddr>``, which may be a dnsaddr again (multiformats'
specification of dnsaddr).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.errors import NetworkError, UsageError

if TYPE_CHECKING:
    import dns.asyncresolver

log = structlog.get_logger(__name__)
_NAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def is_dnsaddr(text: str) -> bool:
    return text.startswith("/dnsaddr/")


def parse_dnsaddr(text: str) -> tuple[str, str]:
    """The name, and the PeerId that its addresses must have ("": any). Raises UsageError."""
    parts = text.split("/")
    if (
        len(parts) not in (3, 5)
        or not _NAME.fullmatch(parts[2])
        or (len(parts) == 5 and (parts[3] != "p2p" or not parts[4]))
    ):
        raise UsageError(f"{text!r} is no dnsaddr", hint="/dnsaddr/NAME or /dnsaddr/NAME/p2p/<PeerId>")
    return parts[2], parts[4] if len(parts) == 5 else ""


async def resolve_dnsaddr(text: str, resolver: dns.asyncresolver.Resolver | None = None) -> list[str]:
    """The multiaddrs behind ``text``, those that lead on resolved too; without repetition, in the order of the answers.

    Raises UsageError (malformed), NetworkError (no such name, no server answers, nothing usable in it).
    """
    import dns.asyncresolver  # with it comes half of the web

    resolver = resolver or dns.asyncresolver.Resolver()
    found: dict[str, None] = {}
    parse_dnsaddr(text)
    waiting, seen = [(text, 0)], {text}
    with trio.move_on_after(limits.DNSADDR_TIMEOUT_S) as scope:
        while waiting and len(found) < limits.DNSADDR_MAX_ADDRESSES:
            here, depth = waiting.pop(0)
            try:
                name, peer = parse_dnsaddr(here)
            except UsageError:  # a record's, not the caller's
                continue
            for address in await _entries(name, resolver):
                if peer and not address.endswith(f"/p2p/{peer}"):
                    continue
                if not is_dnsaddr(address):
                    found[address] = None
                elif (
                    address not in seen
                    and depth < limits.DNSADDR_MAX_DEPTH
                    and len(seen) < limits.DNSADDR_MAX_ADDRESSES
                ):
                    seen.add(address)
                    waiting.append((address, depth + 1))
    if not found:
        why = f"no answer within {limits.DNSADDR_TIMEOUT_S:g} s" if scope.cancelled_caught else "it lists no address"
        raise NetworkError(f"{text} leads nowhere: {why}", hint="its TXT records are at _dnsaddr.NAME")
    return list(found)[: limits.DNSADDR_MAX_ADDRESSES]


async def _entries(name: str, resolver: dns.asyncresolver.Resolver) -> list[str]:
    import dns.exception

    try:
        answer = await resolver.resolve(f"_dnsaddr.{name}", "TXT", lifetime=limits.DNSADDR_TIMEOUT_S)
    except dns.exception.DNSException as exc:
        log.info("dnsaddr not resolved", name=name, error=str(exc))
        return []
    texts = (b"".join(record.strings).decode("ascii", "replace") for record in answer)
    return [text.removeprefix("dnsaddr=") for text in texts if text.startswith("dnsaddr=/")]
