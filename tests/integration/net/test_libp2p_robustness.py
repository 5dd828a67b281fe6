"""The libp2p adapter against peers that attack, die and freeze. The node under attack is a process of its own."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psutil
import pytest
import trio

from golemp2p.core.ids import PeerId
from golemp2p.errors import NetworkError, UsageError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p import open_libp2p_network
from golemp2p.net.libp2p.host import Libp2pNetwork
from golemp2p.net.rpc import Rpc
from tests.integration.net.conftest import until

PROTOCOL = "/golemp2p-test-rpc/1"
ALONE = NetConfig(dht=False)  # else DHT lookups connect the nodes of a test with each other


@contextmanager
def server() -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """(process, multiaddr, port)."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.integration.net.server"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            yield process, address, int(address.split("/")[4])
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


@asynccontextmanager
async def client(config: NetConfig | None = None) -> AsyncIterator[tuple[Libp2pNetwork, Rpc]]:
    async with open_libp2p_network(NodeKey.generate(), config) as network, trio.open_nursery() as nursery:
        rpc = Rpc(network)
        await nursery.start(rpc.run)
        yield network, rpc
        nursery.cancel_scope.cancel()


async def alive(address: str, within_s: float = 3.0) -> None:
    """A peer that comes new is served."""
    async with client() as (network, rpc):
        with trio.fail_after(within_s):
            peer = await network.connect(address)
            assert await rpc.call(peer, PROTOCOL, "echo", {"x": 1}, timeout_s=within_s) == {"x": 1}


async def test_garbage_on_the_port_costs_nothing_but_its_connection() -> None:
    rng = random.Random(7)
    with server() as (process, address, port):
        before = psutil.Process(process.pid).num_fds()
        for i in range(150):
            with socket.create_connection(("127.0.0.1", port)) as attacker:
                attacker.sendall(b"\x13/multistream/1.0.0\n" * (i % 2) + rng.randbytes(rng.randrange(1, 3000)))
        await alive(address)
        assert process.poll() is None
        with trio.fail_after(15):
            while psutil.Process(process.pid).num_fds() > before + 4:  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.1)


async def test_five_hundred_silent_connections_shut_nobody_out() -> None:
    with server() as (process, address, port):
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(500)]
        try:
            await alive(address)
        finally:
            for connection in silent:
                connection.close()
        assert process.poll() is None


async def test_a_node_takes_more_connections_in_its_life_than_at_a_time() -> None:
    """libp2p's own accept path keeps every place for ever and is full after 250."""
    with server() as (_, address, _):
        done = 0

        async def come_and_go() -> None:
            nonlocal done
            async with client(ALONE) as (network, _):
                for _ in range(32):
                    peer = await network.connect(address)
                    await network.disconnect(peer)
                    await until("it is closed", lambda peer=peer: not network.is_connected(peer))
                    done += 1

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(come_and_go)
        assert done == 320
        await alive(address)


async def test_a_killed_peer_fails_calls_at_once() -> None:
    with server() as (process, address, _):
        async with client() as (network, rpc):
            peer = await network.connect(address)

            async def ask() -> None:
                with pytest.raises(NetworkError):
                    await rpc.call(peer, PROTOCOL, "sleep", {}, timeout_s=60)

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
                    await rpc.call(peer, PROTOCOL, "echo", {}, timeout_s=5)
                    process.kill()
                await until("it is gone", lambda: network.statistics().connections == 0, 3)


async def test_a_frozen_peer_is_noticed_by_the_keepalive_and_comes_back() -> None:
    with server() as (process, address, _):
        async with client(NetConfig(keepalive_interval_s=0.3, keepalive_timeout_s=0.5)) as (network, rpc):
            peer = await network.connect(address)
            await rpc.call(peer, PROTOCOL, "echo", {}, timeout_s=5)
            process.send_signal(signal.SIGSTOP)
            await until("the frozen peer is dropped", lambda: network.statistics().connections == 0, 5)
            process.send_signal(signal.SIGCONT)
            # The keeper dials known peers again by itself.
            await until("it is back", lambda: network.statistics().connections == 1, 15)
            assert await rpc.call(peer, PROTOCOL, "echo", {}, timeout_s=5) == {}


async def test_bootstrap_waits_for_a_peer_that_starts_later() -> None:
    key = NodeKey.generate()
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{key.peer_id}"
    async with client(NetConfig(bootstrap=(address,))) as (network, _):
        with trio.fail_after(10):
            await (await listener.accept()).aclose()  # the first attempt fails
        await listener.aclose()
        async with open_libp2p_network(key, NetConfig(listen=(f"/ip4/127.0.0.1/tcp/{port}",))):
            await until("the bootstrap peer is found", lambda: network.statistics().connections == 1, 5)


async def test_a_port_in_use_and_a_wrong_address_are_errors_that_say_so() -> None:
    async with client() as (network, _):
        listen = network.addresses()[0].split("/p2p/")[0]
        with pytest.raises(UsageError, match="in use"):
            async with open_libp2p_network(NodeKey.generate(), NetConfig(listen=(listen,))):
                pass
        # Somebody else's PeerId at a right address: the handshake must find out.
        with pytest.raises(NetworkError):
            await network.connect(f"{listen}/p2p/{NodeKey.generate().peer_id}")


async def test_closing_leaves_no_sockets_and_errors_of_the_body_come_out_bare() -> None:
    async def connected_pair() -> None:
        async with client() as (one, _), client() as (other, _):
            await one.connect(other.addresses()[0])

    await connected_pair()
    before = psutil.Process(os.getpid()).num_fds()
    for _ in range(5):
        await connected_pair()
    # libp2p by itself leaves three per host; a worker thread of trio may come or go meanwhile.
    await until("all closed", lambda: psutil.Process(os.getpid()).num_fds() < before + 5, 5)
    with pytest.raises(KeyError):
        async with open_libp2p_network(NodeKey.generate()):
            raise KeyError("as it is")


async def test_an_ip_address_may_have_so_many_connections_and_no_more() -> None:
    async with client(NetConfig(max_connections_per_ip=2, dht=False)) as (network, _):
        async with client(ALONE) as (one, _), client(ALONE) as (two, _), client(ALONE) as (three, _):
            await one.connect(network.addresses()[0])
            await two.connect(network.addresses()[0])
            with pytest.raises(NetworkError):
                await three.connect(network.addresses()[0])
                await three.open_stream(network.peer_id, PROTOCOL, timeout_s=2)
        await until("the places are free again", lambda: network.statistics().connections == 0, 5)
        async with client(ALONE) as (four, _):
            assert await four.connect(network.addresses()[0]) == PeerId(network.peer_id)
