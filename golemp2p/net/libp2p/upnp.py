"""Asking the router for a port, by UPnP (opt-in: [net] upnp). Beside the start, never before it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import miniupnpc
import structlog
import trio

from golemp2p import limits
from golemp2p.net.libp2p.addresses import is_local

log = structlog.get_logger(__name__)
_DESCRIPTION: Final = "golemp2p"


@dataclass(frozen=True)
class Mapping:
    """``ip``: of the router, as it says; ``port``: leads to the same port of this machine."""

    ip: str
    port: int


class UpnpPort:
    """Keeps a mapping of ``port`` as long as :meth:`run` runs. ``description_url``: of a known router (tests)."""

    def __init__(self, port: int, changed: Callable[[Mapping | None], None], *, description_url: str = "") -> None:
        self._port, self._changed, self._url = port, changed, description_url
        self._gateway: Any = None

    async def run(self) -> None:
        mapped: Mapping | None = None
        try:
            while True:
                with trio.move_on_after(limits.UPNP_TIMEOUT_S) as scope:
                    found = await self._in_thread(self._map)
                if scope.cancelled_caught:
                    found = None
                    log.info("the router does not answer UPnP in time")
                if found != mapped:
                    mapped = found
                    self._changed(found)
                await trio.sleep(limits.UPNP_LEASE_S / 3)
        finally:
            if mapped is not None:
                with trio.move_on_after(limits.CLOSE_TIMEOUT_S, shield=True):
                    await self._in_thread(self._unmap)

    @staticmethod
    async def _in_thread(work: Callable[[], Mapping | None]) -> Mapping | None:
        # miniupnpc waits for sockets without a way to end that: left alone, it ends by its own timeouts.
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)

    def _map(self) -> Mapping | None:
        """None when there is no router that does it for us."""
        gateway = miniupnpc.UPnP()
        gateway.discoverdelay = limits.UPNP_DISCOVER_MS
        try:
            if self._url:
                gateway.selectigd(self._url)
            else:
                if not gateway.discover():
                    return None
                gateway.selectigd()
            ip = gateway.externalipaddress()
            lan, port = gateway.lanaddr, self._port
            if not gateway.addportmapping(port, "TCP", lan, port, _DESCRIPTION, "", int(limits.UPNP_LEASE_S)):
                return None
        except Exception as exc:  # noqa: BLE001 - miniupnpc raises bare Exception for all that a router may answer
            log.info("the router maps no port", error=str(exc))
            return None
        self._gateway = gateway
        if not _is_address(ip) or is_local(ip):
            log.info("the router's own address is not public: a mapped port is of no use", ip=ip)
            return None
        return Mapping(ip, port)

    def _unmap(self) -> None:
        try:
            self._gateway.deleteportmapping(self._port, "TCP")
        except Exception as exc:  # noqa: BLE001 - as above; the lease ends by itself
            log.debug("port mapping not removed", error=str(exc))


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
