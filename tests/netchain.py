"""A local chain that nodes in network namespaces reach at their own loopback: `python -m tests.netchain PORT SPACE..`.

Prints the network's settings as a line of JSON; then each line of stdin is an address that is given test money, and
answered with "ok". Ends with its stdin. One process listens in all the namespaces: a socket stays where it was made.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import threading
from functools import partial
from pathlib import Path

import trio

from golemp2p.core.ids import Address
from golemp2p.core.money import parse_amount
from golemp2p.localchain import open_local_chain
from golemp2p.localnet import GAS_WEI, _network


def listen_in(space: str, port: int) -> socket.socket:
    """A listening socket on 127.0.0.1 of network namespace ``space``."""
    made: list[socket.socket] = []

    def make() -> None:  # in a thread of its own, which ends in that namespace
        with Path(f"/run/netns/{space}").open() as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        made.append(socket.create_server(("127.0.0.1", port)))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


async def forward(port: int, stream: trio.SocketStream) -> None:
    async with stream, await trio.open_tcp_stream("127.0.0.1", port) as chain, trio.open_nursery() as nursery:

        async def carry(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            try:
                async for piece in source:
                    await sink.send_all(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(carry, stream, chain)
        nursery.start_soon(carry, chain, stream)


async def main(port: int, spaces: list[str]) -> None:
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listen_in(space, port))) for space in spaces]
    async with open_local_chain() as chain, trio.open_nursery() as nursery:
        inner = int(chain.rpc_url.rpartition(":")[2].rstrip("/"))
        await nursery.start(partial(trio.serve_listeners, partial(forward, inner), listeners))
        print(json.dumps({**_network("local", chain), "rpc_urls": [f"http://127.0.0.1:{port}"]}), flush=True)
        while line := (await trio.to_thread.run_sync(sys.stdin.readline)).strip():
            await chain.faucet(Address(line), tglm=parse_amount("1000"), eth_wei=GAS_WEI)
            print("ok", flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), sys.argv[2:])
