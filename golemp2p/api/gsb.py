"""``/gsb-api/v1``: programs serve names over WebSockets (golem-js moves files so); also the gftp command's socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import structlog
import trio
from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from golemp2p import limits
from golemp2p.api.app import status_of
from golemp2p.api.auth import Caller, current_caller
from golemp2p.api.openapi import NULL, answers
from golemp2p.errors import GolemError, PolicyError, RemoteProtocolError, UsageError
from golemp2p.gsb.channel import Channel
from golemp2p.gsb.services import Service, Services
from golemp2p.wire import gsb as wire
from golemp2p.wire.rest.gsb import NewService, ServiceBody

log = structlog.get_logger(__name__)
Me = Annotated[Caller, Depends(current_caller)]
Take = Callable[[dict[str, wire.Value]], None]
GFTP_PATH = "/golemp2p/v1/gftp"
_NORMAL, _POLICY, _UNSUPPORTED = 1000, 1008, 1003  # WebSocket close codes (RFC 6455 §7.4.1)
_MAX_REASON_BYTES = 120


def make_router(services: Services) -> APIRouter:
    router = APIRouter(tags=["gsb"])

    @router.post("/gsb-api/v1/services", status_code=201)
    async def post_service(new: NewService, me: Me, response: Response) -> ServiceBody:
        """Bind a name. Then connect to ``/gsb-api/v1/services/{servicesId}`` and answer what is asked there."""
        service = services.bind(new.listen.on, new.listen.components, owner=me.key_name)
        response.headers["Location"] = f"/{service.services_id}"
        return ServiceBody(listen=new.listen, services_id=service.services_id)

    @router.delete("/gsb-api/v1/services/{services_id}", response_model=None, responses=answers(404, ok={200: NULL}))
    async def delete_service(services_id: str, me: Me) -> None:
        """Its socket is closed."""
        services.unbind(services.find(services_id, me.key_name))

    async def service_socket(websocket: WebSocket) -> None:
        try:
            service = services.find(websocket.path_params["services_id"], _caller(websocket).key_name)
        except GolemError as exc:
            await websocket.send_denial_response(JSONResponse({"message": str(exc)}, status_of(exc)))
            return
        channel = Channel()
        await _accept(websocket)
        service.attach(channel)
        try:
            await _run(websocket, channel, lambda frame: channel.take(wire.answer_of(frame)))
        finally:
            service.detach(channel)

    async def gftp_socket(websocket: WebSocket) -> None:
        """One gftp process: it binds and unbinds names on the socket, and all its names go with it."""
        session = _GftpSession(services, _caller(websocket))
        await _accept(websocket)
        try:
            await _run(websocket, session.channel, session.take)
        finally:
            session.end()

    # Plain routes: the dependencies of the app are for requests.
    router.add_websocket_route("/gsb-api/v1/services/{services_id}", service_socket)
    router.add_websocket_route(GFTP_PATH, gftp_socket)
    return router


def _caller(websocket: WebSocket) -> Caller:
    caller = websocket.scope.get("golemp2p.caller")
    if not isinstance(caller, Caller):
        raise TypeError("a socket without a caller: is the guard installed?")
    return caller


async def _accept(websocket: WebSocket) -> None:
    offered = websocket.scope.get("subprotocols", ())
    await websocket.accept(subprotocol=wire.SUBPROTOCOL if wire.SUBPROTOCOL in offered else None)


async def _run(websocket: WebSocket, channel: Channel, take: Take) -> None:
    """Both directions, until the program goes or the channel is closed; then the channel is closed."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_write, websocket, channel, nursery.cancel_scope)
        try:
            while (message := await websocket.receive())["type"] == "websocket.receive":
                data = message.get("bytes")
                if data is None:
                    raise RemoteProtocolError("gsb frames are binary")
                take(wire.decode(data))
        except GolemError as exc:  # a program that breaks the protocol is told why, as yagna does
            log.warning("gsb_socket_refused", error=str(exc))
            channel.close(str(exc), policy=True)
            with trio.move_on_after(limits.GSB_GOODBYE_S):
                await trio.sleep_forever()
        finally:
            channel.close("the program closed its socket")
            nursery.cancel_scope.cancel()


async def _write(websocket: WebSocket, channel: Channel, scope: trio.CancelScope) -> None:
    try:
        async for frame in channel.frames:
            await websocket.send_bytes(frame)
        code = _POLICY if channel.by_policy else _NORMAL
        await websocket.close(code, channel.closed_why.encode()[:_MAX_REASON_BYTES].decode(errors="ignore"))
    except (WebSocketDisconnect, RuntimeError):  # it went while we wrote; starlette's word for that is RuntimeError
        pass
    scope.deadline = trio.current_time() + limits.GSB_GOODBYE_S


class _GftpSession:
    """``{id, bind: {name, components, anybody}}`` and ``{id, unbind: name}`` beside the answers."""

    def __init__(self, services: Services, caller: Caller) -> None:
        self._services, self._caller = services, caller
        self._bound: dict[str, Service] = {}
        self.channel = Channel()

    def take(self, frame: dict[str, wire.Value]) -> None:
        if "bind" not in frame and "unbind" not in frame:
            self.channel.take(wire.answer_of(frame))
            return
        answer: dict[str, wire.Value] = {"id": frame.get("id"), "address": self._caller.address}
        try:
            match frame:
                case {"bind": {"name": str(name), "components": [*components], "anybody": bool(anybody)}}:
                    self._bind(name, [str(each) for each in components], anybody=anybody)
                case {"unbind": str(name)}:
                    answer["known"] = self._unbind(name)
                case _:
                    raise UsageError("gftp: neither bind nor unbind")
        except GolemError as exc:
            answer["error"] = str(exc)
        self.channel.post(wire.encode(answer))

    def _bind(self, name: str, components: list[str], *, anybody: bool) -> None:
        if name in self._bound:
            return
        if len(self._bound) >= limits.GFTP_BINDS_PER_SESSION:
            raise PolicyError(f"one gftp process has {len(self._bound)} names already")
        service = self._services.bind(name, components, owner=self._caller.key_name, shared=True, anybody=anybody)
        service.attach(self.channel)
        self._bound[name] = service

    def _unbind(self, name: str) -> bool:
        service = self._bound.pop(name, None)
        if service is not None:
            self._services.unbind(service)
        return service is not None

    def end(self) -> None:
        for name in list(self._bound):
            self._unbind(name)
