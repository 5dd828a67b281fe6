"""An older copy of the database owes again what was paid since: it is looked up before it is paid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from golemp2p.core.ids import AgreementId, DocumentId
from golemp2p.core.payment import DocumentKind, DocumentState, Fees
from golemp2p.identity.keys import NodeKey
from golemp2p.payment import PaymentService
from golemp2p.payment.drivers import transactions as calls
from golemp2p.payment.drivers.base import Call
from golemp2p.payment.networks import GWEI
from golemp2p.storage.engine import open_storage
from tests.unit.payment.test_parking import billed_by
from tests.unit.payment.test_service import accept, allocate, bill, reaches
from tests.unit.payment.world import PLATFORM, TOKEN, FakeRpc, World, glm, make_service, open_world

INVOICE = DocumentKind.INVOICE


def copy_of(world: World) -> bytes:
    """The requestor's database as it is now."""
    with world.requestor.storage._engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        copied: bytes = driver.serialize()
        return copied


@asynccontextmanager
async def restored(world: World, copy: bytes) -> AsyncIterator[PaymentService]:
    """The requestor's payments once more, on an older copy."""
    async with open_storage(None) as storage, trio.open_nursery() as nursery:
        with storage._engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.deserialize(copy)
        requestor = world.requestor
        rpc = FakeRpc(requestor.key.peer_id, {})
        service = make_service(requestor.key, rpc, requestor.agreements, storage, requestor.driver)
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


async def owed_again(world: World) -> tuple[bytes, DocumentId]:
    """One invoice was paid before the copy was made, one is owed in it and paid afterwards."""
    allocation = await allocate(world, "50")
    first = await bill(world, "1")
    await accept(world, INVOICE, first, "1", allocation)
    await reaches(world.requestor, INVOICE, first, DocumentState.SETTLED)
    world.chain.down = True
    world.add_agreement("ag2")
    stored = await world.provider.service.documents.issue_invoice(AgreementId("ag2"), glm("2"), activity_ids=[])
    await world.provider.service.documents.send(INVOICE, stored.document.id)
    await trio.sleep(5)
    await accept(world, INVOICE, stored.document.id, "2", allocation)
    other = await billed_by(world, NodeKey.generate(), "4")
    await accept(world, INVOICE, other, "4", allocation)
    return copy_of(world), stored.document.id


async def test_a_restored_copy_pays_nobody_twice_and_the_owner_decides(autojump_clock: object) -> None:
    async with open_world() as world:
        copy, invoice = await owed_again(world)
        world.chain.down = False
        await reaches(world.provider, INVOICE, invoice, DocumentState.SETTLED)
        paid = dict(world.chain._state.tokens)
        async with restored(world, copy) as service:
            await trio.sleep(600)
            assert dict(world.chain._state.tokens) == paid
            (state,) = await service.status()
            assert "may be paid already" in state.problem
            service.settlement.settle_now(PLATFORM)
            await trio.sleep(100)
            assert world.tokens(world.provider) == glm("5"), "the owner said that it is owed"


async def test_a_restored_copy_pays_what_nobody_has_paid_since(autojump_clock: object) -> None:
    async with open_world() as world:
        copy, _ = await owed_again(world)
    requestor = world.requestor  # its first life is over, and the chain never heard of what it owes
    world.chain.down = False
    call = Call(TOKEN, calls.transfer_call(requestor.key.address, 1), calls.TRANSFER_GAS)
    wallet = requestor.driver.sign(requestor.key, 1, call, Fees(10 * GWEI, GWEI))
    await requestor.driver.broadcast(wallet.raw)
    async with restored(world, copy) as service:
        await trio.sleep(600)
        (state,) = await service.status()
        assert (state.problem, state.owed) == ("", 0)
        assert world.tokens(world.provider) == glm("3")
