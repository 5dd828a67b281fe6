"""A requestor's settlement in a process of its own that kills itself at a named step.

Arguments: DATABASE RPC_URL CHAIN_ID TOKEN SECRET STEP; with STEP "-" it runs to the end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import trio

from golemp2p.core.ids import Address
from golemp2p.identity.keys import NodeKey
from golemp2p.payment import PaymentNetwork
from golemp2p.payment.drivers.erc20 import Erc20Driver
from golemp2p.storage import open_storage
from golemp2p.storage import payment_settlement as repo
from tests.unit.payment.world import FakeAgreements, FakeRpc, make_service


async def main(*arguments: str) -> None:
    database, url, chain_id, token, secret, step = arguments
    key = NodeKey(bytes.fromhex(secret))
    network = PaymentNetwork("local", int(chain_id), Address(token), "tglm", url, poll_s=0.05)

    async def checkpoint(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    async with open_storage(Path(database)) as storage, trio.open_nursery() as nursery:
        service = make_service(
            key,
            FakeRpc(key.peer_id, {}),
            FakeAgreements({}),
            storage,
            Erc20Driver(network),
            checkpoint=checkpoint,
            clock=time.time,
        )
        await nursery.start(service.run)
        while await storage.run(repo.platforms_with_work):  # noqa: ASYNC110 - a test's wait
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
