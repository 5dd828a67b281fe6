"""``/net-api/v1`` and its other name ``/net-api/v2/vpn``: private networks, and TCP into them over WebSockets."""

from __future__ import annotations

from typing import Final

import structlog
import trio
from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from golemp2p import limits
from golemp2p.api.app import status_of
from golemp2p.api.auth import current_caller
from golemp2p.api.openapi import NULL, answers
from golemp2p.core.vpn import parse_ip, parse_network, parse_node
from golemp2p.errors import GolemError, NetworkError, UsageError
from golemp2p.net.port import ByteStream
from golemp2p.vpn.owning import OwnedNetwork, Owning, UnreachableError
from golemp2p.wire.rest.net import AddressBody, ConnectionBody, NetworkBody, NewNetwork, NodeBody

log = structlog.get_logger(__name__)

PREFIXES: Final = ("/net-api/v1", "/net-api/v2/vpn")
_TCP: Final = 6  # IANA's protocol number
_DONE: Final = {200: NULL}
_NORMAL, _BROKEN = 1000, 1011  # WebSocket close codes (RFC 6455 §7.4.1)


def make_router(networks: Owning) -> APIRouter:
    router = APIRouter(tags=["net"], dependencies=[Depends(current_caller)])
    for prefix in PREFIXES:
        at, shown = f"{prefix}/net", prefix == PREFIXES[0]
        _add_networks(router, at, networks, shown=shown)
        _add_members(router, at, networks, shown=shown)
        _add_socket(router, at, networks)
    return router


def _add_networks(router: APIRouter, at: str, networks: Owning, *, shown: bool) -> None:
    @router.get(at, response_model=list[NetworkBody], include_in_schema=shown)
    async def get_networks() -> JSONResponse:
        return JSONResponse([_body(owned) for owned in networks.all()])

    @router.post(at, response_model=NetworkBody, responses=answers(409), include_in_schema=shown)
    async def create_network(new: NewNetwork) -> JSONResponse:
        """It lives until it is deleted or the node ends."""
        gateway = parse_ip(new.gateway) if new.gateway else None
        return JSONResponse(_body(networks.create(parse_network(new.ip, new.mask), gateway)))

    @router.get(at + "/{network_id}", response_model=NetworkBody, responses=answers(404), include_in_schema=shown)
    async def get_network(network_id: str) -> JSONResponse:
        return JSONResponse(_body(networks.get(network_id)))

    @router.delete(at + "/{network_id}", response_model=None, responses=answers(404, ok=_DONE), include_in_schema=shown)
    async def remove_network(network_id: str) -> JSONResponse:
        """Its members cannot reach each other any more, its connections are cut."""
        networks.remove(network_id)
        return JSONResponse(None)


def _add_members(router: APIRouter, at: str, networks: Owning, *, shown: bool) -> None:
    @router.get(
        at + "/{network_id}/addresses",
        response_model=list[AddressBody],
        responses=answers(404),
        include_in_schema=shown,
    )
    async def get_addresses(network_id: str) -> JSONResponse:
        prefix = networks.get(network_id).network.prefixlen
        return JSONResponse([{"ip": f"{ip}/{prefix}"} for ip in networks.addresses(network_id)])

    @router.post(
        at + "/{network_id}/addresses",
        response_model=None,
        responses=answers(404, 409, ok=_DONE),
        include_in_schema=shown,
    )
    async def add_address(network_id: str, address: AddressBody) -> JSONResponse:
        """An address for the requestor itself; it answers pings."""
        networks.add_address(network_id, parse_ip(address.ip.partition("/")[0]))
        return JSONResponse(None)

    @router.get(
        at + "/{network_id}/nodes", response_model=list[NodeBody], responses=answers(404), include_in_schema=shown
    )
    async def get_nodes(network_id: str) -> JSONResponse:
        members = networks.get(network_id).membership.members
        return JSONResponse([{"id": member.node, "ip": str(ip)} for ip, member in members.items()])

    @router.post(
        at + "/{network_id}/nodes", response_model=None, responses=answers(404, 409, ok=_DONE), include_in_schema=shown
    )
    async def add_node(network_id: str, node: NodeBody) -> JSONResponse:
        """May be repeated. Activities that run in the network already are told."""
        await networks.add_node(network_id, parse_node(node.id), parse_ip(node.ip))
        return JSONResponse(None)

    @router.delete(
        at + "/{network_id}/nodes/{node_id}",
        response_model=None,
        responses=answers(404, ok=_DONE),
        include_in_schema=shown,
    )
    async def remove_node(network_id: str, node_id: str) -> JSONResponse:
        networks.remove_node(network_id, parse_node(node_id))
        return JSONResponse(None)

    @router.get(
        at + "/{network_id}/tcp", response_model=list[ConnectionBody], responses=answers(404), include_in_schema=shown
    )
    async def get_connections(network_id: str) -> JSONResponse:
        owned = networks.get(network_id)
        local_ip = next((str(ip) for ip in networks.addresses(network_id)), "0.0.0.0")  # noqa: S104 - says "none"
        found = [
            ConnectionBody(
                protocol=_TCP,
                local_ip=local_ip,
                local_port=serial % 65_536,
                remote_ip=str(ip),
                remote_port=port,
            )
            for serial, (ip, port, _) in owned.connections.items()
        ]
        return JSONResponse([connection.to_json() for connection in found])


def _body(owned: OwnedNetwork) -> dict[str, object]:
    return NetworkBody(
        id=owned.id,
        ip=str(owned.network),
        mask=str(owned.network.netmask),
        gateway=str(owned.gateway),
    ).to_json()


def _add_socket(router: APIRouter, at: str, networks: Owning) -> None:
    async def tcp(websocket: WebSocket) -> None:
        """Raw TCP in binary frames. Answered 504 when no connection can be made, 404 for what is not known."""
        place = websocket.path_params
        try:
            port = int(place["port"]) if place["port"].isascii() and place["port"].isdecimal() else 0
            if not 0 < port < 65_536:
                raise UsageError(f"{place['port'][:20]!r} is no port")
            async with networks.connection(place["network_id"], parse_ip(place["ip"]), port) as stream:
                await websocket.accept()
                await _bridge(websocket, stream)
        except GolemError as exc:
            log.info("connection_refused", ip=place["ip"], port=place["port"], error=str(exc))
            status = 504 if isinstance(exc, UnreachableError) else status_of(exc)
            await websocket.send_denial_response(JSONResponse({"message": str(exc), "code": exc.code}, status))

    # A plain route: FastAPI's dependencies are for requests. The guard has authenticated the caller.
    router.add_websocket_route(at + "/{network_id}/tcp/{ip}/{port}", tcp)


async def _bridge(websocket: WebSocket, stream: ByteStream) -> None:
    """Until either side ends. A WebSocket has no half close: the program's close is passed on, and what the activity
    still says is dropped; when the activity has said all, the socket is closed.
    """
    goodbye: tuple[int, str] | None = (_BROKEN, "the network was removed")

    async def inwards() -> None:
        nonlocal goodbye
        try:
            while (message := await websocket.receive())["type"] == "websocket.receive":
                data = message.get("bytes")
                await stream.write((message.get("text") or "").encode() if data is None else data)
            goodbye = None  # the program has closed: nobody is there to hear why
            await stream.close_write()
            with trio.move_on_after(limits.VPN_GOODBYE_S):
                while await stream.read(limits.VPN_READ_BYTES):
                    continue
        except NetworkError:
            await trio.sleep(limits.VPN_GOODBYE_S)  # what came before it broke is for the other direction to deliver
        nursery.cancel_scope.cancel()

    async def outwards() -> None:
        nonlocal goodbye
        try:
            while data := await stream.read(limits.VPN_READ_BYTES):
                await websocket.send_bytes(data)
            goodbye = goodbye and (_NORMAL, "")
        except NetworkError as exc:
            goodbye = goodbye and (_BROKEN, exc.message[:120])
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inwards)
            nursery.start_soon(outwards)
    finally:
        if goodbye:
            with trio.move_on_after(limits.VPN_GOODBYE_S, shield=True):
                try:
                    await websocket.close(*goodbye)
                except (RuntimeError, WebSocketDisconnect):  # starlette's words for: it has gone meanwhile
                    log.debug("socket_gone_before_goodbye")
