"""net-api: private networks."""

from __future__ import annotations

from typing import Final

from golemp2p.client.session import Session
from golemp2p.wire.rest import net as rest

_PREFIX: Final = "/net-api/v1/net"


class NetApi:
    """Node ids are Ethereum addresses. TCP into a network is a WebSocket: :meth:`tcp_url`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def create(self, ip: str, *, mask: str | None = None) -> rest.NetworkBody:
        """``ip`` such as "192.168.0.0/24"."""
        body = {"ip": ip} if mask is None else {"ip": ip, "mask": mask}
        return rest.NetworkBody.model_validate(await self._session.request("POST", _PREFIX, json=body))

    async def networks(self) -> list[rest.NetworkBody]:
        return [rest.NetworkBody.model_validate(found) for found in await self._session.request("GET", _PREFIX)]

    async def remove(self, network: str) -> None:
        await self._session.request("DELETE", f"{_PREFIX}/{network}")

    async def add_address(self, network: str, ip: str) -> None:
        """The requestor's own. Raises ConflictError when it is taken."""
        await self._session.request("POST", f"{_PREFIX}/{network}/addresses", json={"ip": ip})

    async def add_node(self, network: str, node: str, ip: str) -> None:
        """May be repeated. Raises ConflictError when another node has the address."""
        await self._session.request("POST", f"{_PREFIX}/{network}/nodes", json={"id": node, "ip": ip})

    async def remove_node(self, network: str, node: str) -> None:
        await self._session.request("DELETE", f"{_PREFIX}/{network}/nodes/{node}")

    async def nodes(self, network: str) -> dict[str, str]:
        """ip -> node id: the ``nodes`` of a deploy command."""
        found = await self._session.request("GET", f"{_PREFIX}/{network}/nodes")
        return {str(entry["ip"]): str(entry["id"]) for entry in found}

    async def deploy_entry(self, network: str, ip: str) -> dict[str, object]:
        """An element of ``net`` in a deploy command, for the activity that is to have ``ip``."""
        found = rest.NetworkBody.model_validate(await self._session.request("GET", f"{_PREFIX}/{network}"))
        address = found.ip.partition("/")[0]
        nodes = await self.nodes(network)
        return {"id": network, "ip": address, "mask": found.mask, "nodeIp": ip, "nodes": nodes}

    def tcp_url(self, network: str, ip: str, port: int) -> str:
        """Of the WebSocket that is a TCP connection; it wants the app-key in ``Authorization``."""
        return f"{self._session.url.rstrip('/').replace('http', 'ws', 1)}{_PREFIX}/{network}/tcp/{ip}/{port}"
