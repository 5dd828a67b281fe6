"""Private networks between containers of two providers: the real engine, the memory network."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import pytest
import trio
from trio_websocket import ConnectionRejected

from golemp2p import limits
from golemp2p.client import connect
from golemp2p.runtimes.base import Runtime
from golemp2p.vpn.segment import SPOOFED, NetworkKey
from tests.integration.vpn.conftest import Docker
from tests.integration.vpn.world import APP_KEY, PING, World, closed_with, exactly, open_world, tcp

NET_RAW: Final = 13


async def test_activities_reach_each_other_and_the_requestor_by_ip_and_by_name(world: World) -> None:
    network = await world.network()
    one = await world.start(world.providers[0], network, "192.168.7.2", hostname="one", hosts={"two": "192.168.7.3"})
    two = await world.start(world.providers[1], network, "192.168.7.3", hosts={"one": "192.168.7.2"})
    assert "0% packet loss" in await one.ok(f"{PING} 192.168.7.3")
    assert "0% packet loss" in await one.ok(f"{PING} two")
    assert "0% packet loss" in await two.ok(f"{PING} one")
    assert "0% packet loss" in await two.ok(f"{PING} 192.168.7.1")
    assert "192.168.7.2" in await one.ok("grep one /etc/hosts")
    await one.ok("httpd -p 80 -h /www")
    assert await two.ok("wget -q -O - http://one/hello.txt") == "hello from inside\n"


async def test_a_websocket_is_a_tcp_connection_into_the_activity(world: World) -> None:
    network = await world.network()
    one = await world.start(world.providers[0], network, "192.168.7.2")
    await one.ok("httpd -p 8080 -h /www; (nc -ll -p 7 -e cat &) ; (nc -ll -p 9 -e sh -c 'cat | wc -c' &); sleep 0.3")
    async with tcp(world, network, "192.168.7.2", 8080) as socket:
        await socket.send_message(b"GET /hello.txt HTTP/1.0\r\n\r\n")
        answer, code = await closed_with(socket)
        assert b" 200 OK" in answer
        assert answer.endswith(b"hello from inside\n")
        assert code == 1000
    # Megabytes both ways at once, and many connections at a time.
    blob = random.Random(1).randbytes(1024 * 1024)

    async def echo() -> None:
        async with tcp(world, network, "192.168.7.2", 7) as socket:

            async def send() -> None:
                for at in range(0, len(blob), 65_536):
                    await socket.send_message(blob[at : at + 65_536])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                assert await exactly(socket, len(blob)) == blob

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(echo)
        await world.until_connections(network, 3)


async def test_a_connection_that_cannot_be_made_is_504_and_what_is_not_known_404(world: World) -> None:
    network = await world.network()
    await world.start(world.providers[0], network, "192.168.7.2")
    await world.add_node(network, world.providers[1], "192.168.7.3")
    for place, port, status in (
        ("192.168.7.2", 81, 504),  # refused in there
        ("192.168.7.1", 80, 504),  # nothing listens at the requestor's own
        ("192.168.7.9", 80, 404),
        ("192.168.7.2", 0, 400),
        ("192.168.7.2", "x", 400),
        ("fe80::1", 80, 400),
    ):
        with pytest.raises(ConnectionRejected) as refused:
            async with tcp(world, network, place, port):
                pass
        assert refused.value.status_code == status, (place, port, refused.value.body)
    with pytest.raises(ConnectionRejected) as refused:
        async with tcp(world, "0" * 32, "192.168.7.2", 80):
            pass
    assert refused.value.status_code == 404


async def test_the_end_of_the_activity_or_of_the_network_closes_its_connections(world: World) -> None:
    network = await world.network()
    one = await world.start(world.providers[0], network, "192.168.7.2")
    two = await world.start(world.providers[1], network, "192.168.7.3")
    for activity in (one, two):
        await activity.ok("(nc -ll -p 7 -e cat &); sleep 0.3")
    async with (
        tcp(world, network, "192.168.7.2", 7) as socket,
        tcp(world, network, "192.168.7.3", 7) as other,
    ):
        for each in (socket, other):
            await each.send_message(b"x")
            assert await each.get_message() == b"x"
        await one.destroy()
        assert await closed_with(socket) == (b"", 1011)
        async with world.http() as http:
            assert (await http.delete(f"/net-api/v1/net/{network}")).status_code == 200
            assert (await http.delete(f"/net-api/v1/net/{network}")).status_code == 404
        assert await closed_with(other) == (b"", 1011)
    assert world.requestor.vpn.segments == {}
    done, _ = await two.sh("ping -c 1 -W 1 192.168.7.1")
    assert not done


@pytest.fixture
async def usual_world(docker: Docker, busybox_image: bytes, tmp_path: Path) -> AsyncIterator[World]:
    """One provider whose owner leaves root in containers the usual capabilities."""
    runtime = await docker("one", capabilities="usual")
    async with open_world(tmp_path / "world", busybox_image, [{"vm/docker": runtime}]) as opened:
        yield opened


def bits(status: str) -> dict[str, int]:
    """The capability sets in /proc/PID/status."""
    return {line.split()[0]: int(line.split()[1], 16) for line in status.splitlines() if line.startswith("Cap")}


async def test_the_payload_has_no_right_to_change_networks_and_neither_has_the_agent(world: World) -> None:
    network = await world.network()
    one = await world.start(world.providers[0], network, "192.168.7.2")
    plain = await world.start(world.providers[0])
    # All that root in a networked container has is raw sockets of its own network, for ping.
    found = bits(await one.ok("cat /proc/self/status"))
    assert set(found.values()) <= {0, 1 << NET_RAW}
    assert found["CapInh:"] == found["CapAmb:"] == 0
    assert bits(await one.ok("cat /proc/1/status")) == found
    assert set(bits(await plain.ok("cat /proc/self/status")).values()) == {0}
    for forbidden in (
        "ip addr add 10.9.9.9/24 dev eth0",
        "ip link set eth0 down",
        "ip link set lo down",
        "ip route add default dev eth0",
        "ip link add dummy0 type dummy",
        "ip tuntap add dev tun9 mode tun",
        "mknod /tmp/tun c 10 200",
        "ls /dev/net/tun",
        "cat /proc/1/fd/3",
        "kill -9 1; ip link show eth0 | grep -q NO-CARRIER",
        "chown 1:1 /tmp",
        "su nobody -s /bin/true",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
    ):
        done, text = await one.sh(forbidden)
        assert not done, (forbidden, text)
    assert "0% packet loss" in await one.ok(f"{PING} 192.168.7.1")
    assert (await plain.ok("ls /sys/class/net")).split() == ["lo"]


async def test_the_usual_capabilities_are_the_owners_choice_and_no_more(usual_world: World) -> None:
    network = await usual_world.network()
    provider = usual_world.providers[0]
    one, plain = await usual_world.start(provider, network, "192.168.7.2"), await usual_world.start(provider)
    for activity in (one, plain):
        assert await activity.ok("touch /tmp/x; chown 65534 /tmp/x; su nobody -s /bin/sh -c 'id -un'") == "nobody\n"
        for forbidden in ("ip link set lo down", "mount -t tmpfs x /mnt", "mknod /tmp/null c 1 3"):
            done, _ = await activity.sh(forbidden)
            assert not done, forbidden
        assert not bits(await activity.ok("cat /proc/self/status"))["CapBnd:"] & (1 << 12 | 1 << 21)
    assert "0% packet loss" in await one.ok(f"{PING} 192.168.7.1")


@pytest.fixture
async def nobodys_world(docker: Docker, busybox_image: bytes, tmp_path: Path) -> AsyncIterator[World]:
    """Two providers whose payloads are not root."""
    runtimes: list[Mapping[str, Runtime]] = [
        {"vm/docker": await docker(name, run_as="1234:1234")} for name in ("a", "b")
    ]
    async with open_world(tmp_path / "world", busybox_image, runtimes) as opened:
        yield opened


async def test_a_payload_that_is_not_root_has_networks_without_any_capability(nobodys_world: World) -> None:
    world = nobodys_world
    network = await world.network()
    one = await world.start(world.providers[0], network, "192.168.7.2")
    two = await world.start(world.providers[1], network, "192.168.7.3")
    assert (
        await one.ok("id -u; id -g; touch /golem/work/x; ls -ln /golem/work/x | awk '{print $3}'")
        == "1234\n1234\n1234\n"
    )
    assert set(bits(await one.ok("cat /proc/self/status")).values()) <= {0, 1 << NET_RAW}
    assert bits(await one.ok("cat /proc/self/status"))["CapEff:"] == 0
    await two.ok("(nc -ll -p 8007 -e cat &); sleep 0.3")
    assert await one.ok("echo hello | nc 192.168.7.3 8007") == "hello\n"


async def test_a_forged_source_address_goes_nowhere(world: World) -> None:
    """Raw sockets let root write any source; the node lets only the activity's own pass."""
    network = await world.network()
    one = await world.start(world.providers[0], network, "192.168.7.2")
    two = await world.start(world.providers[1], network, "192.168.7.3")
    # Nothing listens there; the kernel counts what comes all the same.
    heard = "awk '/^Udp:/ { count = $3 } END { print count }' /proc/net/snmp"
    segment = world.providers[0].vpn.segments[NetworkKey(world.requestor.key.peer_id, network)]
    for source in ("192.168.7.1", "192.168.7.9", "8.8.8.8"):
        await one.ok(f"spoof {source} 192.168.7.3 5000 forged")
    assert segment.dropped == {SPOOFED: 3}
    await one.ok("spoof 192.168.7.2 192.168.7.3 5000 honest")
    assert await two.ok(f'until [ "$({heard})" != 0 ]; do sleep 0.05; done; {heard}') == "1\n"


async def test_an_activity_in_two_networks_has_a_device_in_each(world: World) -> None:
    first, second = await world.network(), await world.network("10.20.30.0/24")
    for network, ip in ((first, "192.168.7.2"), (second, "10.20.30.2")):
        await world.add_node(network, world.providers[0], ip)
    both = await world.start(
        world.providers[0],
        net=[world.net_entry(first, "192.168.7.2"), world.net_entry(second, "10.20.30.2")],
    )
    other = await world.start(world.providers[1], second, "10.20.30.3")
    assert (await both.ok("ls /sys/class/net")).split() == ["eth0", "eth1", "lo"]
    for place in ("192.168.7.1", "10.20.30.1", "10.20.30.3"):
        assert "0% packet loss" in await both.ok(f"{PING} {place}")
    done, _ = await other.sh("ping -c 1 -W 1 192.168.7.1")  # networks do not mix
    assert not done


async def test_two_activities_of_one_provider_reach_each_other(world: World) -> None:
    network = await world.network()
    one = await world.start(world.providers[0], network, "192.168.7.2")
    two = await world.start(world.providers[0], network, "192.168.7.3")
    await two.ok("(nc -ll -p 7 -e cat &); sleep 0.3")
    assert await one.ok("echo hello | nc 192.168.7.3 7") == "hello\n"
    with pytest.raises(AssertionError, match="another activity"):
        await world.start(world.providers[0], network, "192.168.7.3")


async def test_a_provider_that_dies_closes_its_connections(world: World) -> None:
    network = await world.network()
    one = await world.start(world.providers[0], network, "192.168.7.2")
    await one.ok("(nc -ll -p 7 -e cat &); sleep 0.3")
    async with tcp(world, network, "192.168.7.2", 7) as socket:
        await socket.send_message(b"x")
        assert await exactly(socket, 1) == b"x"
        world.hub.kill(world.providers[0].key.peer_id)
        assert await closed_with(socket) == (b"", 1011)
    with trio.fail_after(limits.VPN_CONNECT_S + 2), pytest.raises(ConnectionRejected) as refused:
        async with tcp(world, network, "192.168.7.2", 7):
            pass
    assert refused.value.status_code == 504


async def test_a_closed_socket_is_the_end_of_the_connection_inside_after_all_was_delivered(world: World) -> None:
    network = await world.network()
    one = await world.start(world.providers[0], network, "192.168.7.2")
    await one.ok("(nc -ll -p 9 -e sh -c 'cat > /tmp/got; touch /tmp/ended' &); sleep 0.3")
    blob = random.Random(2).randbytes(3_000_000)
    async with tcp(world, network, "192.168.7.2", 9) as socket:
        for at in range(0, len(blob), 100_000):
            await socket.send_message(blob[at : at + 100_000])
    await one.ok("until [ -e /tmp/ended ]; do sleep 0.05; done")
    assert await one.ok("sha256sum < /tmp/got") == f"{hashlib.sha256(blob).hexdigest()}  -\n"


async def test_networks_by_rest_are_as_yagna_has_them(world: World) -> None:
    network = await world.network()
    node = {"id": world.providers[0].key.address.upper().replace("0X", "0x"), "ip": "192.168.7.2"}
    async with world.http() as http:
        at = f"/net-api/v1/net/{network}"
        assert (await http.get(at)).json() == {
            "id": network,
            "ip": "192.168.7.0/24",
            "mask": "255.255.255.0",
            "gateway": "192.168.7.1",
        }
        assert [entry["id"] for entry in (await http.get("/net-api/v2/vpn/net")).json()] == [network]
        assert (await http.get(f"{at}/addresses")).json() == [{"ip": "192.168.7.1/24"}]
        assert (await http.post(f"{at}/addresses", json={"ip": "192.168.7.1"})).status_code == 409
        for _ in range(2):
            answer = await http.post(f"{at}/nodes", json=node)
            assert (answer.status_code, answer.json()) == (200, None)
        assert (await http.post(f"{at}/nodes", json={**node, "id": "0x" + "1" * 40})).status_code == 409
        own = {"id": world.requestor.key.address, "ip": "192.168.7.1"}  # golem-js adds the requestor so
        assert (await http.post(f"{at}/nodes", json=own)).status_code == 200
        assert {entry["ip"] for entry in (await http.get(f"{at}/nodes")).json()} == {"192.168.7.1", "192.168.7.2"}
        assert (await http.delete(f"{at}/nodes/{node['id']}")).status_code == 200
        assert (await http.delete(f"{at}/nodes/{node['id']}")).status_code == 404
        for body in ({"ip": "nonsense"}, {"ip": "10.0.0.0", "mask": "1.2.3.4"}, {}, {"ip": 1}):
            assert (await http.post("/net-api/v1/net", json=body)).status_code == 400, body
        assert (await http.post(f"{at}/nodes", json={"id": "me", "ip": "192.168.7.3"})).status_code == 400
        assert (await http.post(f"{at}/nodes", json={**node, "ip": "10.0.0.1"})).status_code == 400
        assert (await http.get(f"/net-api/v1/net/{'0' * 32}")).status_code == 404
    async with connect(f"http://{world.rest}", APP_KEY) as client:
        made = await client.net.create("10.9.0.0/24")
        await client.net.add_address(made.id, "10.9.0.1")
        await client.net.add_node(made.id, world.providers[0].key.address, "10.9.0.2")
        assert {each.id for each in await client.net.networks()} == {network, made.id}
        assert await client.net.deploy_entry(made.id, "10.9.0.2") == world.net_entry(made.id, "10.9.0.2")
        assert client.net.tcp_url(made.id, "10.9.0.2", 80) == (
            f"ws://{world.rest}/net-api/v1/net/{made.id}/tcp/10.9.0.2/80"
        )
        await client.net.remove_node(made.id, world.providers[0].key.address)
        assert list(await client.net.nodes(made.id)) == ["10.9.0.1"]
        await client.net.remove(made.id)
    with pytest.raises(ConnectionRejected) as refused:
        async with tcp(world, network, "192.168.7.2", 80, key="wrong"):
            pass
    assert refused.value.status_code == 401
