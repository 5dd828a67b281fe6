"""Private networks between containers of two providers: the real engine, the memory network."""

from __future__ import annotations

import random

import pytest
import trio
from trio_websocket import ConnectionRejected

from tests.integration.vpn.world import PING, World, closed_with, exactly, tcp


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
