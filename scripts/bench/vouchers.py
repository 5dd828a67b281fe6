#!/usr/bin/env python3
"""How many vouchers a payee's node verifies and stores durably in a second (protocols/payment.md, "Channels").

    scripts/bench/vouchers.py [--count 4000] [--channels 20] [--at-once 256]

Each is checked (EIP-712, recovered signer), attributed to its agreement, written to the journal and on disk
(synchronous=FULL, group commit) before it counts. Signing is measured by itself: it is the payer's. Exit code 1 below
2,000 a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from golemp2p.core.ids import Address, AgreementId
from golemp2p.core.money import Amount
from golemp2p.core.payment import Ledger, Side
from golemp2p.core.payment.vouchers import ChannelConfig, Voucher, VoucherDomain
from golemp2p.identity.keys import NodeKey
from golemp2p.payment.service import PaymentService
from golemp2p.storage import open_storage
from golemp2p.storage import payment as ledger_repo
from golemp2p.storage.payment import Parties
from tests.evmdriver import EvmChain, EvmDriver
from tests.unit.payment.world import DOMAIN, PLATFORM, FakeAgreements, FakeRpc

GOAL_PER_S = 2_000


async def measure(count: int, channels: int, at_once: int) -> float:
    """Vouchers verified and stored in a second."""
    chain = EvmChain()
    driver = EvmDriver(chain)
    payee = NodeKey.generate()
    domain = VoucherDomain(driver.network.chain_id, chain.channels)
    with tempfile.TemporaryDirectory() as folder:
        async with open_storage(Path(folder) / "db") as storage:
            service = PaymentService(
                storage=storage,
                rpc=FakeRpc(payee.peer_id, {}),
                agreements=FakeAgreements({}),
                signer=payee,
                domain=DOMAIN,
                drivers={PLATFORM: driver},
                clock=time.time,
            )
            payers = [NodeKey.generate() for _ in range(channels)]
            configs = [ChannelConfig(k.address, payee.address, k.address, 86_400, bytes(32)) for k in payers]
            for number, (key, config) in enumerate(zip(payers, configs, strict=True)):
                await service.channels.payee.announced(key.peer_id, PLATFORM, Address(chain.channels), config)
                parties = Parties(
                    AgreementId(f"ag{number}"), Side.PAYEE, key.peer_id, key.address, payee.address, PLATFORM
                )
                await storage.run(lambda c, parties=parties: ledger_repo.put_ledger(c, parties, Ledger()))  # type: ignore[misc]  # bound now
            began = time.perf_counter()
            work = []
            for n in range(count):
                key, config = payers[n % channels], configs[n % channels]
                cumulative = Amount(1 + n // channels)
                signature = key.sign(domain.digest(config.id, cumulative))
                work.append((key.peer_id, Voucher(config.id, cumulative, signature), AgreementId(f"ag{n % channels}")))
            signed_s = time.perf_counter() - began
            send, receive = trio.open_memory_channel[int](0)

            async def worker() -> None:
                async for n in receive:
                    peer, voucher, agreement = work[n]
                    await service.channels.payee.receive(peer, voucher, agreement, voucher.cumulative)

            began = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(at_once):
                    nursery.start_soon(worker)
                async with send:
                    for n in range(count):
                        await send.send(n)
            stored_s = time.perf_counter() - began
            commits = storage.statistics().commits
    print(f"signed by payers:     {count / signed_s:8.0f} vouchers/s")
    print(f"verified and stored:  {count / stored_s:8.0f} vouchers/s  ({at_once} at once, {commits} commits)")
    return count / stored_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4_000)
    parser.add_argument("--channels", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=256)
    arguments = parser.parse_args()
    found = trio.run(measure, arguments.count, arguments.channels, arguments.at_once)
    return 0 if found >= GOAL_PER_S else 1


if __name__ == "__main__":
    sys.exit(main())
