"""A requestor and providers with real runtimes, on the memory network; the requestor's REST on a real socket."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from golemp2p.api import net as net_api
from golemp2p.api.app import make_app
from golemp2p.api.auth import AppKey, AppKeys
from golemp2p.api.server import serve_rest
from golemp2p.core.activity import CommandResult
from golemp2p.core.agreement import Agreement, AgreementState, Role
from golemp2p.core.ids import ActivityId, SubscriptionId, new_agreement_id
from golemp2p.core.properties import Properties
from golemp2p.net.memory import MemoryHub
from golemp2p.runtimes.base import Runtime
from golemp2p.vpn.outbound import Resolve, look_up
from tests.integration.activity.harness import USAGE, Node, open_node
from tests.integration.runtimes.contract import unwrapped

APP_KEY = "app-key-of-tests"
PING = "ping -c 1 -W 5"


@dataclass
class Activity:
    """One that runs, with its address."""

    world: World
    provider: Node
    id: ActivityId
    ip: str

    async def sh(self, script: str, timeout_s: float = 60) -> tuple[bool, str]:
        """Whether the shell script ended with 0, and what it wrote."""
        return await self.world.sh(self.id, script, timeout_s)

    async def ok(self, script: str, timeout_s: float = 60) -> str:
        done, text = await self.sh(script, timeout_s)
        assert done, f"{script!r}: {text}"
        return text

    async def destroy(self) -> None:
        activity = self.world.requestor.service.requestor.activity(self.id)
        assert activity is not None
        await activity.destroy(20)


@dataclass
class World:
    hub: MemoryHub
    requestor: Node
    providers: list[Node]
    image: bytes
    directory: Path
    rest: str

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://{self.rest}", headers={"Authorization": f"Bearer {APP_KEY}"}, trust_env=False, timeout=20
        )

    async def network(self, ip: str = "192.168.7.0/24") -> str:
        """A network in which the requestor has .1, by REST."""
        async with self.http() as http:
            made = (await http.post("/net-api/v1/net", json={"ip": ip})).json()
            answer = await http.post(f"/net-api/v1/net/{made['id']}/addresses", json={"ip": ip.replace("0/24", "1")})
            assert answer.status_code == 200, answer.text
        return str(made["id"])

    async def add_node(self, network: str, provider: Node, ip: str) -> None:
        async with self.http() as http:
            answer = await http.post(f"/net-api/v1/net/{network}/nodes", json={"id": provider.key.address, "ip": ip})
            assert answer.status_code == 200, answer.text

    async def until_connections(self, network: str, count: int) -> None:
        """REST lists that many at least."""
        found: list[object] = []
        with trio.fail_after(10):
            async with self.http() as http:
                while len(found) < count:
                    found = (await http.get(f"/net-api/v1/net/{network}/tcp")).json()
                    await trio.sleep(0.01)

    def net_entry(self, network: str, ip: str) -> dict[str, object]:
        owned = self.requestor.vpn.requestor.get(network)
        return {
            "id": network,
            "ip": str(owned.network.network_address),
            "mask": str(owned.network.netmask),
            "nodeIp": ip,
            "nodes": {str(at): member.node for at, member in owned.membership.members.items()},
        }

    async def start(
        self,
        provider: Node,
        network: str | None = None,
        ip: str = "",
        *,
        runtime: str = "vm/docker",
        demand: Properties | None = None,
        **deploy: object,
    ) -> Activity:
        """An activity of the world's image, in ``network`` with ``ip``; ``demand``: further properties."""
        if network is not None:
            await self.add_node(network, provider, ip)
            deploy["net"] = [self.net_entry(network, ip)]
        activity = Activity(self, provider, await self._create(provider, runtime, demand or {}), ip)
        await self.run(activity.id, {"deploy": deploy}, {"start": {"args": []}})
        return activity

    async def _create(self, provider: Node, runtime: str, further: Properties) -> ActivityId:
        path = self.directory / f"image-{secrets.token_hex(4)}"
        path.write_bytes(self.image)
        content = await self.requestor.content.add_file(path)
        now, url = time.time(), f"gftp://{self.requestor.key.address}/{content.sha3_256}"
        agreement = Agreement(
            id=new_agreement_id(),
            role=Role.REQUESTOR,
            requestor=self.requestor.key.peer_id,
            provider=provider.key.peer_id,
            demand_id=SubscriptionId("d"),
            offer_id=SubscriptionId("o"),
            demand={"golem.srv.comp.task_package": f"hash:sha3:{content.sha3_256}:{url}", **further},
            offer={
                "golem.runtime.name": "vm",
                "golem.!exp.golemp2p.backend": runtime.removeprefix("vm/"),
                "golem.inf.mem.gib": 0.25,
                "golem.inf.storage.gib": 0.25,
                "golem.com.usage.vector": list(USAGE),
            },
            demand_constraints="()",
            offer_constraints="()",
            content=b"{}",
            created_at=now,
            valid_to=now + 3600,
            state=AgreementState.APPROVED,
        )
        self.requestor.agreements[agreement.id] = agreement
        provider.agreements[agreement.id] = replace(agreement, role=Role.PROVIDER)
        return await self.requestor.service.requestor.create(agreement.id, timeout_s=10)

    async def run(self, activity_id: ActivityId, *commands: dict[str, object], timeout_s: float = 60) -> Sequence[str]:
        """Their outputs. Fails when one of them fails."""
        activity = self.requestor.service.requestor.activity(activity_id)
        assert activity is not None
        batch = activity.batch(activity.exec(json.dumps(commands)))
        results = await batch.results(timeout_s)
        assert batch.ended.is_set(), f"{commands} did not end"
        for result in results:
            assert result.ok, (result.message, result.stdout, result.stderr)
        return [_said(result) for result in results]

    async def sh(self, activity_id: ActivityId, script: str, timeout_s: float) -> tuple[bool, str]:
        activity = self.requestor.service.requestor.activity(activity_id)
        assert activity is not None
        capture = {"atEnd": {"format": "str"}}
        command = {
            "run": {
                "entry_point": "/bin/sh",
                "args": ["-c", script],
                "capture": {"stdout": capture, "stderr": capture},
            }
        }
        batch = activity.batch(activity.exec(json.dumps([command])))
        results = await batch.results(timeout_s)
        assert batch.ended.is_set(), f"{script!r} did not end"
        (result,) = results
        return result.ok, _said(result) or str(result.message)


@asynccontextmanager
async def open_world(
    directory: Path,
    image: bytes,
    runtimes: Sequence[Mapping[str, Runtime]],
    *,
    outbound: tuple[str, ...] = (),
    resolve: Resolve = look_up,
) -> AsyncIterator[World]:
    """One provider for each of ``runtimes``; all know each other. ``outbound``: the providers' whitelist."""
    hub = MemoryHub()
    async with AsyncExitStack() as stack:
        requestor = await stack.enter_async_context(open_node(hub, directory / "r", {}))
        providers = [
            await stack.enter_async_context(
                open_node(hub, directory / f"p{number}", each, outbound=outbound, resolve=resolve)
            )
            for number, each in enumerate(runtimes)
        ]
        for provider in providers:
            await requestor.network.connect(provider.network.addresses()[0])
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        stack.callback(listener.close)
        keys = AppKeys([AppKey("test", APP_KEY)])
        app = make_app([net_api.make_router(requestor.vpn.requestor)], keys=keys, address=requestor.key.address)
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(serve_rest, app, listener)
        rest = "{}:{}".format(*listener.getsockname()[:2])
        yield World(hub, requestor, providers, image, directory, rest)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def tcp(
    world: World, network: str, ip: str, port: int | str, key: str = APP_KEY
) -> AsyncIterator[WebSocketConnection]:
    """A client's WebSocket to a port of an activity. Raises ConnectionRejected with the status."""
    url = f"ws://{world.rest}/net-api/v1/net/{network}/tcp/{ip}/{port}"
    with trio.fail_after(30):
        async with (
            unwrapped(),
            open_websocket_url(
                url, extra_headers=[(b"Authorization", f"Bearer {key}".encode())], max_message_size=4 * 1024 * 1024
            ) as socket,
        ):
            yield socket


async def read_all(socket: WebSocketConnection) -> bytes:
    """Until the other side has closed."""
    data = b""
    with trio.fail_after(20):
        while True:
            try:
                message = await socket.get_message()
            except ConnectionClosed:
                return data
            data += message if isinstance(message, bytes) else message.encode()


async def closed_with(socket: WebSocketConnection) -> tuple[bytes, int]:
    """What came until the other side closed, and its code."""
    data = await read_all(socket)
    assert socket.closed is not None
    return data, int(socket.closed.code)


async def exactly(socket: WebSocketConnection, size: int) -> bytes:
    data = bytearray()
    with trio.fail_after(60):
        while len(data) < size:
            message = await socket.get_message()
            assert isinstance(message, bytes)
            data += message
    return bytes(data)


def _said(result: CommandResult) -> str:
    return "".join(text for text in (result.stdout, result.stderr) if isinstance(text, str))
