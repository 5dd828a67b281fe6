"""Many messages in one call: in order, in one transaction, up to the first that is refused; never one lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio

from golemp2p import limits
from golemp2p.core.ids import ActivityId, DocumentId, PeerId
from golemp2p.core.payment import DocumentState
from golemp2p.errors import RemoteProtocolError
from golemp2p.payment.messages import document_message
from golemp2p.payment.ports import Handler
from golemp2p.storage.payment import outbox
from golemp2p.wire.p2p import payment as wire
from tests.unit.payment.test_peers import invoice_of
from tests.unit.payment.test_service import AG1, NOTE, reaches
from tests.unit.payment.world import DOMAIN, World, glm, open_world, table_count


async def notes(world: World, count: int) -> list[DocumentId]:
    """So many that wait together, while the requestor is away; then it is back."""
    world.requestor.rpc.cut = True
    documents, made = world.provider.service.documents, []
    for number in range(count):
        activity = ActivityId(f"activity-{number % 3}")
        stored = await documents.issue_debit_note(AG1, activity, glm(f"{1 + number}"), usage=(0.0, 0.0))
        await documents.send(NOTE, stored.document.id)
        made.append(stored.document.id)
    await trio.sleep(1)
    world.provider.rpc.calls.clear()
    world.requestor.rpc.cut = False
    world.provider.service.on_peer(world.requestor.key.peer_id, True)
    return made


async def received(world: World) -> list[DocumentId]:
    return [stored.document.id for stored in await world.requestor.service.list_documents(NOTE)]


async def test_what_waits_for_a_peer_goes_in_few_calls_in_its_order(autojump_clock: object) -> None:
    async with open_world() as world:
        made = await notes(world, 70)
        await trio.sleep(5)
        assert await received(world) == made
        calls = [method for method, _ in world.provider.rpc.calls]
        assert calls.count(wire.BATCH) == len(calls) == -(-70 // limits.OUTBOX_GROUP)
        assert await table_count(world.provider.storage, outbox) == 0


async def test_a_call_carries_no_more_bytes_than_the_limit(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OUTBOX_BATCH_BYTES", 1_000)
    async with open_world() as world:
        made = await notes(world, 9)
        await trio.sleep(5)
        assert await received(world) == made
        assert len(world.provider.rpc.calls) > 4


async def test_what_comes_after_a_refused_message_waits_for_it(autojump_clock: object) -> None:
    async with open_world() as world:
        made = await notes(world, 0)
        handler = world.requestor.rpc.handlers[f"{wire.PROTOCOL} {wire.BATCH}"]
        refusals = 2

        async def refuse_some(peer: PeerId, body: Mapping[str, Any]) -> object:
            nonlocal refusals
            if refusals:
                refusals -= 1
                taken = await handler(peer, {"messages": body["messages"][:2]})
                return {**taken, "code": "busy", "message": "not now"}  # type: ignore[dict-item]
            return await handler(peer, body)

        world.requestor.rpc.handlers[f"{wire.PROTOCOL} {wire.BATCH}"] = refuse_some
        made = await notes(world, 6)
        await trio.sleep(0.5)
        assert await received(world) == made[:2]
        await trio.sleep(10)
        assert await received(world) == made


async def test_a_lost_answer_repeats_the_batch_without_harm(autojump_clock: object) -> None:
    async with open_world() as world:
        world.provider.rpc.lose_answers = 2
        made = await notes(world, 5)
        await trio.sleep(30)
        assert await received(world) == made
        assert len(await world.requestor.service.events(NOTE)) == 5


@pytest.mark.parametrize(
    "answer",
    [
        {},
        None,
        {"done": 9},
        {"done": 1},
        {"done": -1},
        {"done": 3, "code": "busy"},
        {"done": True},
        {"done": 3, "x": 1},
    ],
    ids=str,
)
async def test_an_answer_that_makes_no_sense_strikes_nothing_off(answer: object, autojump_clock: object) -> None:
    async with open_world() as world:
        honest = world.requestor.rpc.handlers[f"{wire.PROTOCOL} {wire.BATCH}"]

        async def nonsense(_peer: PeerId, _body: Mapping[str, Any]) -> object:
            return answer

        world.requestor.rpc.handlers[f"{wire.PROTOCOL} {wire.BATCH}"] = nonsense
        made = await notes(world, 3)
        await trio.sleep(0.5)
        assert await table_count(world.provider.storage, outbox) == 3
        world.requestor.rpc.handlers[f"{wire.PROTOCOL} {wire.BATCH}"] = honest
        await trio.sleep(10)
        assert await received(world) == made


def batch_handler(world: World) -> Handler:
    return world.requestor.rpc.handlers[f"{wire.PROTOCOL} {wire.BATCH}"]


async def test_the_receiver_stops_at_the_first_wrong_one_and_says_where(autojump_clock: object) -> None:
    async with open_world() as world:
        good = invoice_of(world, amount=glm("1"))
        message = document_message(good, world.provider.key.sign(good.digest(DOMAIN))).model_dump()
        forged = {**message, "id": "other", "amount": "7"}
        peer = world.provider.key.peer_id
        entry, wrong = [wire.SEND_INVOICE, message], [wire.SEND_INVOICE, forged]
        handler = batch_handler(world)
        answer = await handler(peer, {"messages": [entry, wrong, entry]})
        assert isinstance(answer, dict)
        assert (answer["done"], answer["code"]) == (1, "remote_protocol")
        assert "signature is not the provider's" in answer["message"]
        answer = await handler(peer, {"messages": [entry, ["no.such", {}], entry]})
        assert isinstance(answer, dict)
        assert (answer["done"], answer["code"]) == (1, "unknown_method")
        answer = await handler(peer, {"messages": [entry, [wire.BATCH, {"messages": [entry]}]]})
        assert isinstance(answer, dict)
        assert (answer["done"], answer["code"]) == (1, "unknown_method")
        # The second is refused by what the database says, within the transaction of the first.
        second = invoice_of(world, amount=glm("2"))
        other = document_message(second, world.provider.key.sign(second.digest(DOMAIN))).model_dump()
        answer = await handler(peer, {"messages": [entry, [wire.SEND_INVOICE, other], entry]})
        assert isinstance(answer, dict)
        assert (answer["done"], answer["code"]) == (1, "conflict")


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": [["x"]]}, {"messages": [["x", {}]] * 65}])
async def test_a_malformed_batch_is_refused(body: dict[str, Any], autojump_clock: object) -> None:
    async with open_world() as world:
        with pytest.raises(RemoteProtocolError, match="BatchMessage"):
            await batch_handler(world)(world.provider.key.peer_id, body)


async def test_documents_of_a_batch_are_answered_like_others(autojump_clock: object) -> None:
    async with open_world() as world:
        made = await notes(world, 4)
        await trio.sleep(5)
        for document_id in made:
            await world.requestor.service.documents.reject(NOTE, document_id, code="NO", message="")
        for document_id in made:
            await reaches(world.provider, NOTE, document_id, DocumentState.REJECTED)
