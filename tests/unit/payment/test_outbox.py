"""Messages reach each peer, whatever the others do; only a real refusal counts as one."""

from __future__ import annotations

import pytest
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.core.payment import DocumentKind, DocumentState
from golemp2p.errors import (
    ConflictError,
    GolemError,
    InternalError,
    LocalProtocolError,
    NotFoundError,
    PolicyError,
    RemoteError,
    RemoteProtocolError,
)
from golemp2p.payment.outbox import post
from golemp2p.storage.payment import outbox
from golemp2p.wire.p2p import payment as wire
from tests.unit.payment.test_service import AG1, INVOICE, arrived, bill
from tests.unit.payment.world import FakeRpc, World, clock, glm, open_world, table_count

WORDS = wire.RejectionMessage(kind=DocumentKind.INVOICE, document_id="x", code="c", message="")


async def stuff(world: World, peer: PeerId, messages: int) -> None:
    def add(connection: object) -> None:
        for _ in range(messages):
            post(connection, peer, wire.REJECTION, WORDS, now=clock())  # type: ignore[arg-type]  # a Connection

    await world.provider.storage.run(add)
    world.provider.service._context.outbox.tell()


async def test_slow_and_dead_peers_with_thousands_of_messages_hold_up_nobody(autojump_clock: object) -> None:
    async with open_world() as world:
        wires = world.provider.rpc.wires

        async def slow(_peer: PeerId, _body: object) -> object:
            await trio.sleep(9)
            return {}

        for number in range(20):
            peer = PeerId(f"slow-{number}")
            wires[peer] = FakeRpc(peer, wires)
            wires[peer].serve(wire.PROTOCOL, {wire.REJECTION: slow, wire.BATCH: slow})
            await stuff(world, peer, 100)
            await stuff(world, PeerId(f"dead-{number}"), 100)
        await trio.sleep(5)
        start = trio.current_time()
        await bill(world, "1")
        assert trio.current_time() - start < 1


@pytest.mark.parametrize(
    ("error", "gives_up"),
    [
        (RemoteError("busy", code="busy"), False),
        (RemoteError("late", code="deadline"), False),
        (RemoteError("oops", code="internal"), False),
        (RemoteError("new", code="something_new"), False),
        (InternalError("oops"), False),
        (RemoteError("bad", code=RemoteProtocolError.code), True),
        (RemoteError("accepted", code=LocalProtocolError.code), True),
        (PolicyError("no"), True),
        (NotFoundError("no"), True),
        (ConflictError("no"), True),
    ],
)
async def test_only_refusals_end_the_delivery(error: GolemError, gives_up: bool, autojump_clock: object) -> None:
    async with open_world() as world:
        name = f"{wire.PROTOCOL} {wire.SEND_INVOICE}"
        honest = world.requestor.rpc.handlers[name]

        async def fail(_peer: PeerId, _body: object) -> object:
            raise error

        world.requestor.rpc.handlers[name] = fail
        documents = world.provider.service.documents
        stored = await documents.issue_invoice(AG1, glm("1"))
        await documents.send(INVOICE, stored.document.id)
        await trio.sleep(limits.OUTBOX_RETRY_MAX_S * 20)
        world.requestor.rpc.handlers[name] = honest
        if gives_up:
            await trio.sleep(limits.OUTBOX_RETRY_MAX_S * 2)
            assert await world.requestor.service.list_documents(INVOICE) == []
            return
        await arrived(world.requestor, INVOICE, stored.document.id)
        assert (await world.requestor.service.document(INVOICE, stored.document.id)).state is DocumentState.RECEIVED
        await trio.sleep(1)
        assert await table_count(world.provider.storage, outbox) == 0
