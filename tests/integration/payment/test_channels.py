"""Mode channel on a real EVM, through the real driver: nobody comes back, or both do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from golemp2p.core.ids import PeerId
from golemp2p.core.payment import DocumentState, Side
from golemp2p.core.payment.vouchers import CLOSED
from golemp2p.identity.keys import NodeKey
from golemp2p.localchain import LocalChain, open_local_chain
from golemp2p.payment.channels.settings import ChannelSettings
from golemp2p.payment.drivers.erc20 import Erc20Driver
from golemp2p.storage import open_storage
from golemp2p.storage.channels import ChannelStatus
from tests.unit.payment.channels.world import INVOICE, NOTE, Node, Pair, until
from tests.unit.payment.world import PLATFORM, FakeRpc, glm

SETTINGS = ChannelSettings(
    deposit=glm("10"), grace_s=3600, min_grace_s=4, claim_threshold=glm("1000"), open_timeout_s=20.0
)


@asynccontextmanager
async def open_pair(
    chain: LocalChain,
    folder: Path,
    *,
    requestor: ChannelSettings = SETTINGS,
    provider: ChannelSettings = SETTINGS,
) -> AsyncIterator[Pair]:
    wires: dict[PeerId, FakeRpc] = {}
    async with (
        open_storage(folder / "requestor.db") as first,
        open_storage(folder / "provider.db") as second,
        trio.open_nursery() as nursery,
    ):
        nodes = []
        for storage, settings in ((first, requestor), (second, provider)):
            key = NodeKey.generate()
            wires[key.peer_id] = rpc = FakeRpc(key.peer_id, wires)
            driver = Erc20Driver(chain.network())
            nodes.append(Node(key, rpc, driver, storage, settings, time.time))
            await chain.faucet(key.address, tglm=glm("0" if len(nodes) == 2 else "100"), eth_wei=10**18)
            await nursery.start(nodes[-1].run)
        await nodes[0].service.allocations.create(platform=PLATFORM, total=glm("50"))
        yield Pair(nodes[0], nodes[1], nursery)
        nursery.cancel_scope.cancel()


async def has(node: Node, amount: str) -> None:
    """Until the node's account holds so much."""

    async def there() -> bool:
        return await node.driver.balance(node.key.address) == glm(amount)

    await until(there, timeout_s=20)


async def test_vouchers_are_claimed_and_both_books_settle(tmp_path: Path) -> None:
    eager = replace(SETTINGS, claim_on_invoice=True)
    async with open_local_chain(prefer="anvil") as chain, open_pair(chain, tmp_path, provider=eager) as pair:
        agreement = await pair.approved()
        note = await pair.bill(agreement.id, "1")
        await pair.vouched("1")
        invoice = await pair.bill(agreement.id, "3", kind=INVOICE)
        await pair.settled(INVOICE, invoice)
        await pair.settled(NOTE, note)
        await has(pair.provider, "3")
        await has(pair.requestor, "90")
        paid = [p for node in (pair.requestor, pair.provider) for p in await node.service.payments()]
        assert paid[0].notice.transaction == paid[1].notice.transaction


async def test_nobody_comes_back(tmp_path: Path) -> None:
    """First the requestor is gone: the provider turns every voucher into tokens. Then the provider is gone: the payer
    gets the rest after the grace."""
    async with open_local_chain(prefer="anvil") as chain, open_pair(chain, tmp_path) as pair:
        agreement = await pair.approved()
        note = await pair.bill(agreement.id, "2")
        await pair.vouched("2")
        pair.requestor.stop()
        channel = await pair.provider.channel(Side.PAYEE)
        await pair.provider.service.channels.claim(channel.id)
        await has(pair.provider, "2")

        async def settled() -> bool:
            return await pair.state(pair.provider, NOTE, note) is DocumentState.SETTLED

        await until(settled, timeout_s=20)
        pair.provider.stop()
        await pair.requestor.start(pair.nursery)
        await pair.requestor.service.channels.close(channel.id)

        async def closing() -> bool:
            return (await pair.requestor.channel(Side.PAYER)).close_at not in (0, CLOSED)

        await until(closing, timeout_s=20)
        await has(pair.requestor, "90")
        await chain.call("evm_increaseTime", 3601)
        await chain.call("anvil_mine", "0x1")
        pair.requestor.service.channels.look_soon(channel.id)
        await has(pair.requestor, "98")

        async def done() -> bool:
            return (await pair.requestor.channel(Side.PAYER)).state is ChannelStatus.DONE

        await until(done, timeout_s=20)

        async def settled() -> bool:  # it saw the claim by itself
            return await pair.state(pair.requestor, NOTE, note) is DocumentState.SETTLED

        await until(settled, timeout_s=20)


async def test_a_close_while_the_provider_is_up_is_answered_within_the_grace(tmp_path: Path) -> None:
    short = replace(SETTINGS, grace_s=8)  # looked at once a second
    async with open_local_chain(prefer="anvil") as chain, open_pair(chain, tmp_path, requestor=short) as pair:
        agreement = await pair.approved()
        await pair.bill(agreement.id, "2")
        await pair.vouched("2")
        await pair.requestor.service.channels.close((await pair.requestor.channel(Side.PAYER)).id)
        await has(pair.provider, "2")
