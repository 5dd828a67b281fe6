"""A peer that sends more than anybody needs is slowed down; the others notice nothing."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
import trio

from golemp2p import limits
from golemp2p.core.ids import DocumentId, PeerId
from golemp2p.core.money import Amount
from golemp2p.core.payment import Document, Fees, PaymentNotice, Side
from golemp2p.errors import PolicyError, RemoteError
from golemp2p.payment.claims import round_robin
from golemp2p.payment.drivers.base import Call
from golemp2p.payment.drivers.transactions import transfer_call
from golemp2p.payment.messages import notice_message
from golemp2p.storage import payment_notices as repo
from golemp2p.storage.payment_notices import StoredPayment
from golemp2p.wire.p2p import payment as wire
from tests.unit.payment.test_peers import invoice_of, offer
from tests.unit.payment.test_service import AG1, NOTE, bill
from tests.unit.payment.world import DOMAIN, TOKEN, World, glm, open_world


def note_of(world: World) -> Document:
    return replace(invoice_of(world), kind=NOTE, id=DocumentId(uuid.uuid4().hex), due_at_ms=0)


async def test_debit_notes_beyond_the_burst_come_one_a_second(autojump_clock: object) -> None:
    async with open_world() as world:
        first = note_of(world)
        await offer(world, first)
        for _ in range(limits.DEBIT_NOTES_BURST - 1):
            await offer(world, note_of(world))
        with pytest.raises(RemoteError, match="come too fast") as refused:
            await offer(world, note_of(world))
        assert refused.value.code == "busy", "so its sender tries again"
        await offer(world, first)  # a repetition is acknowledged all the same
        await offer(world, replace(note_of(world), agreement_id=world.add_agreement("ag2")))
        for _ in range(3):
            await trio.sleep(1.01)
            await offer(world, note_of(world))


async def test_an_agreement_has_a_last_debit_note(monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    monkeypatch.setattr(limits, "MAX_DEBIT_NOTES", 3)
    async with open_world() as world:
        for _ in range(3):
            await offer(world, note_of(world))
        with pytest.raises(PolicyError, match="no more are taken"):
            await offer(world, note_of(world))
        await offer(world, invoice_of(world))


def notice_of(world: World, number: int) -> PaymentNotice:
    key, payee = world.requestor.key, world.provider.key.address
    platform = world.requestor.driver.network.platform
    transaction = f"0x{number:064x}"
    return PaymentNotice(f"n{number}", key.address, payee, platform, transaction, ((AG1, glm("1")),), (), 1)


async def test_open_payment_notices_of_a_peer_are_bounded(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    monkeypatch.setattr(limits, "MAX_OPEN_NOTICES", 3 * limits.NOTICES_PER_LOOK)
    async with open_world() as world:
        await bill(world, "1")
        handler, key = world.provider.rpc.handlers[f"{wire.PROTOCOL} {wire.PAYMENT_NOTICE}"], world.requestor.key
        for number in range(limits.MAX_OPEN_NOTICES + 1):
            notice = notice_of(world, number)
            body = notice_message(notice, key.sign(notice.digest(DOMAIN))).model_dump()
            if number < limits.MAX_OPEN_NOTICES:
                await handler(key.peer_id, body)
                continue
            with pytest.raises(RemoteError, match="wait for the chain already") as refused:
                await handler(key.peer_id, body)
            assert refused.value.code == "busy"
        await trio.sleep(limits.CLAIM_PATIENCE_S + 3_600)
        payments = await world.provider.service.payments()
        assert {p.state for p in payments} == {repo.REFUSED}, "every one had its turn"
        await handler(key.peer_id, body)


async def test_notices_that_the_chain_refuses_are_not_taken_without_end(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """Of a transaction that pays nothing each is refused at once, and stays in the journal."""
    monkeypatch.setattr(limits, "MAX_REFUSED_NOTICES", 5)
    async with open_world() as world:
        await bill(world, "1")
        key, driver = world.requestor.key, world.requestor.driver
        call = Call(TOKEN, transfer_call(key.address, 1), 100_000)
        nothing = driver.sign(key, 0, call, Fees(10**10, 10**9))
        await driver.broadcast(nothing.raw)
        handler = world.provider.rpc.handlers[f"{wire.PROTOCOL} {wire.PAYMENT_NOTICE}"]
        for number in range(6):
            notice = replace(notice_of(world, number), transaction=nothing.hash)
            body = notice_message(notice, key.sign(notice.digest(DOMAIN))).model_dump()
            if number < 5:
                await handler(key.peer_id, body)
                await trio.sleep(100)
                continue
            with pytest.raises(PolicyError, match="not borne out by the chain"):
                await handler(key.peer_id, body)
        assert len(await world.provider.service.payments()) == 5


def test_each_peer_has_its_turn_and_the_least_looked_at_goes_first() -> None:
    def stored(peer: str, name: str) -> StoredPayment:
        notice = PaymentNotice(name, None, None, "p", "0x", ((AG1, Amount(1)),), (), 1)  # type: ignore[arg-type]  # unused
        return StoredPayment(notice, Side.PAYEE, PeerId(peer), b"", repo.CLAIMED, "", 0.0)

    many = [stored("a", f"a{number}") for number in range(100)]
    few = [stored("b", "b0"), stored("b", "b1")]
    order = [p.notice.id for p in round_robin([*many, *few], {"a0": 1, "b0": 2})]
    assert order[:5] == ["a1", "b1", "a2", "b0", "a3"]
    assert len(order) == limits.NOTICES_PER_LOOK + 2
