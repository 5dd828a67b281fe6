"""Payload manifests of demands, and the rule by which a provider lets payloads reach the internet.

``golem.srv.comp.payload`` is the base64 of a JSON document (yagna's computation payload manifest): where the image is,
and what the payload wants to reach. Signatures are not looked at: the only rule is the provider's own list of hosts.
``compManifest.script`` is not enforced: it would bind the one who wrote it, and who sends the commands.
"""

from __future__ import annotations

import base64
import binascii
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Final
from urllib.parse import urlsplit

from golemp2p import limits
from golemp2p.errors import UsageError

PAYLOAD: Final = "golem.srv.comp.payload"
ALL: Final = "all"
PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*")


@dataclass(frozen=True)
class Outbound:
    """What a payload wants to reach: ``hosts`` as (name or IPv4 address, port), or everything on ``ports``."""

    hosts: tuple[tuple[str, int], ...] = ()
    unrestricted: bool = False
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """``package`` has the form of ``golem.srv.comp.task_package``."""

    package: str | None = None
    outbound: Outbound | None = None


def read_manifest(properties: Mapping[str, object]) -> Manifest | None:
    """The demand's manifest, None when it has none. Raises UsageError for one that cannot be understood."""
    text = properties.get(PAYLOAD)
    if text is None:
        return None
    document = _decode(text)
    return Manifest(_package(document.get("payload")), _outbound(document))


def wants_outbound(properties: Mapping[str, object]) -> bool:
    """Raises UsageError."""
    manifest = read_manifest(properties)
    return manifest is not None and manifest.outbound is not None


@dataclass(frozen=True)
class OutboundRule:
    """The owner's list: host names, ``*.name`` for all below one, IPv4 addresses, ``all`` for every public host.

    Nothing is allowed by an empty one.
    """

    whitelist: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.whitelist)

    def refusal(self, wanted: Outbound) -> str | None:
        """Why ``wanted`` is not allowed; None if it is."""
        if not self.whitelist:
            return "this provider does not let payloads reach the internet"
        if ALL in self.whitelist:
            return None
        if wanted.unrestricted:
            return "this provider lets payloads reach only hosts of its whitelist, not all"
        unknown = sorted({host for host, _ in wanted.hosts if not self.allows(host)})
        return f"not on this provider's whitelist: {', '.join(unknown)[:300]}" if unknown else None

    def allows(self, host: str) -> bool:
        """``host``: a name or an address, lower case."""
        entries = [entry.lower() for entry in self.whitelist]
        if host in entries or any(e.startswith("*.") and host.endswith(e[1:]) for e in entries):
            return True
        return ALL in entries and (address_of(host) is None or self.may_dial(IPv4Address(host)))

    def may_dial(self, address: IPv4Address) -> bool:
        """Whether connections may go to ``address``, whatever name led there: public, or named itself."""
        return str(address) in self.whitelist or (address.is_global and not address.is_multicast)


NOTHING_OUTSIDE: Final = OutboundRule()


def address_of(host: str) -> IPv4Address | None:
    """A literal address, None for a name."""
    try:
        return IPv4Address(host)
    except AddressValueError:
        return None


def check_whitelist(entries: Sequence[str]) -> tuple[str, ...]:
    """For settings. Raises ValueError naming the entry that is wrong."""
    for entry in entries:
        name = entry.lower().removeprefix("*.")
        if entry != ALL and not _NAME.fullmatch(name) and address_of(entry) is None:
            raise ValueError(f"{entry[:80]!r} is no host name, *.name, IPv4 address or 'all'")
    return tuple(entry.lower() for entry in entries)


def _decode(text: object) -> Mapping[str, Any]:
    if not isinstance(text, str) or len(text) > limits.MAX_MANIFEST_CHARS:
        raise UsageError(f"{PAYLOAD} is no text of at most {limits.MAX_MANIFEST_CHARS} characters")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        data = text.encode("utf-8", "surrogatepass")  # yagna takes plain JSON, too
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise UsageError(f"{PAYLOAD} is no base64 of a JSON document") from None
    return _object(document, "the manifest")


def _object(value: object, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{what} is no object")
    return value


def _package(entries: object) -> str | None:
    """Of the first entry for this kind of machine."""
    if not isinstance(entries, list):
        return None
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        machine = _object(entry.get("platform"), "payload.platform")
        urls, digest = entry.get("urls"), entry.get("hash")
        fits = not machine or (machine.get("arch") == platform.machine() and machine.get("os") == "linux")
        if fits and isinstance(digest, str) and isinstance(urls, list) and urls and isinstance(urls[0], str):
            return f"hash:{digest}:{urls[0]}"
    return None


def _outbound(document: Mapping[str, Any]) -> Outbound | None:
    place: Mapping[str, Any] = document
    for step in ("compManifest", "net", "inet"):
        place = _object(place.get(step), step)
    out = place.get("out")
    if out is None:
        return None
    out = _object(out, "inet.out")
    protocols = out.get("protocols", list(PORTS))
    if not isinstance(protocols, list) or any(not isinstance(p, str) or p not in PORTS for p in protocols):
        raise UsageError(f"inet.out.protocols may name {', '.join(PORTS)}")
    if out.get("unrestricted") is not None:
        if _object(out["unrestricted"], "inet.out.unrestricted").get("urls") is not True:
            raise UsageError("inet.out.unrestricted.urls can only be true")
        return Outbound(unrestricted=True, ports=tuple(sorted({PORTS[p] for p in protocols})))
    urls = out.get("urls", [])
    if not isinstance(urls, list) or len(urls) > limits.MAX_OUTBOUND_URLS:
        raise UsageError(f"inet.out.urls is no list of at most {limits.MAX_OUTBOUND_URLS} URLs")
    hosts = tuple(dict.fromkeys(_host(url, protocols) for url in urls))
    if len({port for _, port in hosts}) > limits.MAX_OUTBOUND_PORTS:
        raise UsageError(f"inet.out.urls have more than {limits.MAX_OUTBOUND_PORTS} different ports")
    return Outbound(hosts, ports=tuple(sorted({port for _, port in hosts}))) if hosts else None


def _host(url: object, protocols: Sequence[str]) -> tuple[str, int]:
    try:
        parts = urlsplit(str(url))
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise UsageError(f"inet.out.urls has {str(url)[:100]!r}, which is no URL") from None
    if parts.scheme not in protocols:
        raise UsageError(f"inet.out.urls has {str(url)[:100]!r}, whose protocol is not in inet.out.protocols")
    if not _NAME.fullmatch(host) and address_of(host) is None:
        raise UsageError(f"inet.out.urls has {str(url)[:100]!r}, whose host is no name or IPv4 address")
    if port == 0:
        raise UsageError(f"inet.out.urls has {str(url)[:100]!r} with port 0")
    return host, port or PORTS[parts.scheme]
