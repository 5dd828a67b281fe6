"""Nodes that find each other by mDNS, and a router that maps a port by UPnP: both on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio

from golemp2p.identity.keys import NodeKey
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p.host import Libp2pNetwork, open_libp2p_network
from golemp2p.net.libp2p.upnp import Mapping, UpnpPort
from tests.integration.net.conftest import until


async def test_nodes_of_one_network_find_each_other_on_a_lan_and_leave_others_alone() -> None:
    async with AsyncExitStack() as stack:

        async def start(network: str) -> Libp2pNetwork:
            config = NetConfig(network=network, mdns=True, dht=False, min_peers=0)
            return await stack.enter_async_context(open_libp2p_network(NodeKey.generate(), config))

        one, stranger, two = await start("lan-one"), await start("lan-other"), await start("lan-one")
        await until("they found each other", lambda: one.is_connected(two.peer_id), 60)
        assert not any(info.connected for info in stranger.peers())
        assert stranger.peer_id not in {info.peer for node in (one, two) for info in node.peers()}


class Router:
    """A tiny Internet Gateway Device: its description, and the calls that a port mapping takes."""

    def __init__(self, external_ip: str) -> None:
        self.external_ip = external_ip
        self.mappings: dict[str, str] = {}
        self.url = ""

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        await trio.serve_listeners(self._answer, listeners, task_status=task_status)  # type: ignore[arg-type]

    async def _answer(self, stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some(4096)
        head, _, body = request.partition(b"\r\n\r\n")
        lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        while lengths and len(body) < lengths[0]:
            body += await stream.receive_some(4096)
        content = self._described() if head.startswith(b"GET") else self._called(head.decode(), body.decode())
        answer = (
            f"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        await stream.send_all((answer + content).encode())
        await stream.aclose()

    def _described(self) -> str:
        kind = "urn:schemas-upnp-org"
        return (
            f'<?xml version="1.0"?><root xmlns="{kind}:device-1-0"><URLBase>{self.url}</URLBase><device>'
            f"<deviceType>{kind}:device:InternetGatewayDevice:1</deviceType><deviceList><device>"
            f"<deviceType>{kind}:device:WANDevice:1</deviceType><deviceList><device>"
            f"<deviceType>{kind}:device:WANConnectionDevice:1</deviceType><serviceList><service>"
            f"<serviceType>{kind}:service:WANIPConnection:1</serviceType><controlURL>/control</controlURL>"
            "<eventSubURL>/e</eventSubURL><SCPDURL>/s.xml</SCPDURL></service></serviceList>"
            "</device></deviceList></device></deviceList></device></root>"
        )

    def _called(self, head: str, body: str) -> str:
        def argument(name: str) -> str:
            return body.partition(f"<{name}>")[2].partition("<")[0]

        action = head.partition("#")[2].partition('"')[0]
        found = ""
        if action == "GetExternalIPAddress":
            found = f"<NewExternalIPAddress>{self.external_ip}</NewExternalIPAddress>"
        elif action == "GetStatusInfo":
            found = "<NewConnectionStatus>Connected</NewConnectionStatus><NewUptime>1</NewUptime>"
        elif action == "AddPortMapping":
            self.mappings[argument("NewExternalPort")] = argument("NewInternalClient")
        elif action == "DeletePortMapping":
            self.mappings.pop(argument("NewExternalPort"), None)
        return (
            '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
            f'<u:{action}Response xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">{found}</u:{action}Response>'
            "</s:Body></s:Envelope>"
        )


@pytest.fixture
async def router(nursery: trio.Nursery) -> AsyncIterator[Router]:
    made = Router("198.51.100.20")
    await nursery.start(made.serve)
    yield made


async def test_a_router_maps_a_port_as_long_as_we_run(router: Router) -> None:
    told: list[Mapping | None] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(UpnpPort(11_155, told.append, description_url=f"{router.url}/root.xml").run)
        await until("it is mapped", lambda: told, 60)
        assert told == [Mapping("198.51.100.20", 11_155)]
        assert router.mappings == {"11155": "127.0.0.1"}
        nursery.cancel_scope.cancel()
    assert router.mappings == {}


async def test_a_router_behind_another_nat_is_of_no_use(router: Router, nursery: trio.Nursery) -> None:
    router.external_ip = "100.64.3.2"
    told: list[Mapping | None] = []
    asked = trio.Event()
    port = UpnpPort(11_155, told.append, description_url=f"{router.url}/root.xml")

    def mapped() -> Mapping | None:
        found = UpnpPort._map(port)
        trio.from_thread.run_sync(asked.set)
        return found

    port._map = mapped  # type: ignore[method-assign]
    nursery.start_soon(partial(port.run))
    with trio.fail_after(60):
        await asked.wait()
    assert told == []
