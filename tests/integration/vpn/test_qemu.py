"""Networks of virtual machines: TCG, so few machines and much in each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from golemp2p.runtimes.qemu.runtime import QemuRuntime
from golemp2p.vpn.segment import SPOOFED, NetworkKey
from tests.integration.vpn.conftest import Docker
from tests.integration.vpn.outside import manifest, resolve, web_server
from tests.integration.vpn.world import World, closed_with, open_world, tcp

PING = "ping -c 1 -W 20"


@pytest.fixture
async def mixed(qemu: QemuRuntime, docker: Docker, busybox_image: bytes, tmp_path: Path) -> AsyncIterator[World]:
    """A provider with machines and one with containers."""
    async with open_world(
        tmp_path / "world",
        busybox_image,
        [{"vm/qemu": qemu}, {"vm/docker": await docker("one")}],
        outbound=("api.test", "127.0.0.1"),
        resolve=resolve,
    ) as opened:
        yield opened


async def test_a_machine_and_a_container_are_in_one_network(mixed: World) -> None:
    network = await mixed.network()
    machine = await mixed.start(
        mixed.providers[0],
        network,
        "192.168.7.2",
        runtime="vm/qemu",
        hostname="machine",
        hosts={"container": "192.168.7.3"},
    )
    container = await mixed.start(mixed.providers[1], network, "192.168.7.3", hosts={"machine": "192.168.7.2"})
    assert "0% packet loss" in await machine.ok(f"{PING} container")
    assert "0% packet loss" in await container.ok(f"{PING} machine")
    assert "0% packet loss" in await machine.ok(f"{PING} 192.168.7.1")
    await machine.ok("httpd -p 80 -h /www")
    assert await container.ok("wget -q -O - http://machine/hello.txt") == "hello from inside\n"
    async with tcp(mixed, network, "192.168.7.2", 80) as socket:
        await socket.send_message(b"GET /hello.txt HTTP/1.0\r\n\r\n")
        answer, code = await closed_with(socket)
        assert answer.endswith(b"hello from inside\n")
        assert code == 1000
    # Root in the machine has no way to change its networks, nor to be another.
    for forbidden in (
        "ip addr add 10.9.9.9/24 dev eth0",
        "ip link set eth0 down",
        "ip tuntap add dev tun9 mode tun",
        "mknod /tmp/tun c 10 200",
        "ls /dev/net/tun /dev/.tun",
    ):
        done, text = await machine.sh(forbidden)
        assert not done, (forbidden, text)
    assert not int((await machine.ok("grep CapBnd /proc/self/status")).split()[1], 16) & 1 << 12
    await machine.ok("spoof 192.168.7.1 192.168.7.3 5000 forged")
    segment = mixed.providers[0].vpn.segments[NetworkKey(mixed.requestor.key.peer_id, network)]
    assert segment.dropped[SPOOFED] >= 1


async def test_a_machine_reaches_what_its_manifest_names(mixed: World) -> None:
    async with web_server(b"from the outside") as port:
        machine = await mixed.start(mixed.providers[0], runtime="vm/qemu", demand=manifest(f"http://api.test:{port}"))
        assert await machine.ok(f"wget -q -O - http://api.test:{port}/") == "from the outside"
        for forbidden in (f"wget -q -O - http://other.test:{port}/", "wget -T 5 -q -O - http://10.0.0.1/"):
            done, text = await machine.sh(forbidden)
            assert not done, (forbidden, text)
