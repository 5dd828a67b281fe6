"""The provider agent against a fake node, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from golemp2p.errors import DeadlineError, NetworkError
from golemp2p.provider import ProviderTerms, run_provider
from golemp2p.provider.billing import PAYMENT_GRACE_S, invoice_id_of
from golemp2p.provider.contract import NO_ACTIVITY_S
from tests.unit.provider.fake_node import FakeDocument, FakeNode

PAYMENT = "golem.com.scheme.payu.payment-timeout-sec?"
NOTE = "golem.com.scheme.payu.debit-note.interval-sec?"
ACCEPT = "golem.com.payment.debit-notes.accept-timeout?"


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    return autojump_clock


@asynccontextmanager
async def agent(node: FakeNode, *, capacity: int = 2) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run_provider(node.client(), ProviderTerms(max_activities=capacity), subnet="public"))
        await until(node, lambda: bool(node.published) or len(node.agreements_by_id) >= capacity)
        yield
        nursery.cancel_scope.cancel()


async def until(node: FakeNode, condition: Callable[[], bool], timeout_s: float = 4000.0) -> None:
    with trio.fail_after(timeout_s):
        while not condition():
            changed = node.changed
            with trio.move_on_after(0.5):
                await changed.wait()


async def invoice(node: FakeNode, agreement: str) -> FakeDocument:
    document = invoice_id_of(agreement)
    await until(node, lambda: document in node.invoices_by_id and node.invoices_by_id[document].status != "ISSUED")
    return node.invoices_by_id[document]


async def test_notes_come_at_the_agreed_pace_and_the_invoice_is_the_last_total(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", demand={NOTE: 10})
    async with agent(node):
        node.start("a", "x")
        await trio.sleep(35)
        node.stop("x")
        await wait_all_tasks_blocked()
        times = [round(note.at) for note in node.notes.values()]
        assert times == [10, 20, 30, 35]
        node.end("a")
        assert (await invoice(node, "a")).amount == list(node.notes.values())[-1].amount
        assert float(node.invoices_by_id[invoice_id_of("a")].amount) == pytest.approx(0.5 + 0.035)


async def test_an_activity_that_came_and_went_between_two_looks_is_billed(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a")
    async with agent(node):
        node.start("a", "x")
        node.stop("x")  # both before the agent runs again
        await trio.sleep(1)
        node.end("a")
        made = await invoice(node, "a")
    assert made.activity_ids == ["x"]
    assert float(made.amount) == pytest.approx(0.5)


async def test_what_ran_under_an_agreement_that_ended_while_the_agent_was_away_is_billed(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a")
    node.start("a", "x")
    await trio.sleep(100)
    node.end("a")
    async with agent(node):
        assert float((await invoice(node, "a")).amount) == pytest.approx(0.6)


async def test_a_restart_goes_on_with_what_runs_and_invoices_once(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", demand={NOTE: 10})
    async with agent(node):
        node.start("a", "x")
        await trio.sleep(25)
    await trio.sleep(5)
    async with agent(node):
        await trio.sleep(30)
        node.end("a")
        await invoice(node, "a")
    async with agent(node):
        await trio.sleep(500)
    assert len(node.invoices_by_id) == 1
    assert float(node.invoices_by_id[invoice_id_of("a")].amount) == pytest.approx(0.56)


async def test_usage_that_a_crash_forgot_does_not_undo_what_a_note_claimed(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", demand={NOTE: 10})
    async with agent(node):
        node.start("a", "x")
        await trio.sleep(21)
    node.stop("x")  # "provider restarted", with the usage that was stored last
    node.acts["x"].usage_lost_s = 9.0
    async with agent(node):
        await trio.sleep(1)
        node.end("a")
        assert float((await invoice(node, "a")).amount) == pytest.approx(0.52)


async def test_an_invoice_that_was_issued_but_not_sent_is_sent_after_the_restart(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", state="Terminated")
    document = invoice_id_of("a")
    node.invoices_by_id[document] = FakeDocument(document, "a", "1")
    async with agent(node):
        assert (await invoice(node, "a")).status == "RECEIVED"


async def test_an_invoice_is_tried_again_while_the_node_is_away(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a")
    node.failures = [NetworkError("cut"), NetworkError("cut")]
    async with agent(node):
        node.end("a")
        assert (await invoice(node, "a")).amount == "0"
    assert node.failures == []


async def test_an_agreement_without_activity_is_ended(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a")
    async with agent(node):
        await invoice(node, "a")
        assert trio.current_time() == pytest.approx(NO_ACTIVITY_S, abs=2)
    assert node.terminations == {"a": "NoActivity"}


async def test_idle_time_counts_from_the_end_of_the_last_activity(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a")
    async with agent(node):
        node.start("a", "x")
        await trio.sleep(200)
        assert node.terminations == {}
        node.stop("x")
        await trio.sleep(NO_ACTIVITY_S - 5)
        assert node.terminations == {}
        await trio.sleep(10)
    assert node.terminations == {"a": "NoActivity"}


async def test_an_expired_demand_ends_agreement_and_activity(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", life_s=50)
    async with agent(node):
        node.start("a", "x")
        made = await invoice(node, "a")
        assert trio.current_time() == pytest.approx(50, abs=2)
    assert node.terminations == {"a": "Expired"}
    assert made.activity_ids == ["x"]


async def test_a_note_that_nobody_accepts_ends_the_agreement(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", demand={NOTE: 10, ACCEPT: 25})
    node.accepting = False
    async with agent(node):
        node.start("a", "x")
        await invoice(node, "a")
        assert 35 <= trio.current_time() <= 36  # at the deadline, not at the next note
    assert node.terminations == {"a": "DebitNotesDeadline"}


async def test_payable_notes_come_at_the_agreed_pace_and_only_when_mid_agreement_payments_are_agreed(
    clock: MockClock,
) -> None:
    node = FakeNode()
    node.agreement("with", demand={NOTE: 10, PAYMENT: 25})
    node.agreement("without", demand={NOTE: 10})
    async with agent(node):
        node.start("with", "x")
        node.start("without", "y")
        await trio.sleep(65)
        node.stop("x")
        node.stop("y")
        await wait_all_tasks_blocked()
        payable = {(note.activity_id, round(note.at)) for note in node.notes.values() if note.payment_due_date}
        assert payable == {("x", 30), ("x", 60)}


async def test_a_payable_note_that_is_not_paid_ends_the_agreement(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", demand={NOTE: 10, PAYMENT: 20, ACCEPT: 25})
    async with agent(node):
        node.start("a", "x")
        await invoice(node, "a")
        assert 20 + 20 + PAYMENT_GRACE_S <= trio.current_time() <= 20 + 20 + PAYMENT_GRACE_S + 1
    assert node.terminations == {"a": "DebitNoteNotPaid"}


async def test_a_payable_note_that_is_paid_lets_the_agreement_go_on(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", demand={NOTE: 10, PAYMENT: 20, ACCEPT: 25})
    node.paying = True
    async with agent(node):
        node.start("a", "x")
        await trio.sleep(400)
    assert not node.terminations


async def test_a_rejected_note_ends_the_agreement_with_that_reason(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", demand={NOTE: 10, ACCEPT: 25})
    node.accepting = False
    async with agent(node):
        node.start("a", "x")
        await until(node, lambda: bool(node.notes))
        (name,) = node.notes
        node.notes[name].status = "REJECTED"
        await invoice(node, "a")
    assert node.terminations == {"a": "DebitNoteRejected"}


async def test_a_single_activity_agreement_ends_with_it(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", demand={"golem.srv.caps.multi-activity": False})
    async with agent(node):
        node.start("a", "x")
        await trio.sleep(7)
        node.stop("x")
        await invoice(node, "a")
        assert trio.current_time() < 10
    assert node.terminations == {"a": "Success"}


async def test_capacity_withdraws_the_offer_and_an_end_brings_it_back(clock: MockClock) -> None:
    node = FakeNode()
    async with agent(node, capacity=1):
        node.propose("a")
        await until(node, lambda: node.agreements_by_id["a"].state == "Approved")
        node.start("a", "x")
        await until(node, lambda: node.withdrawn == 1)
        assert node.offers == {}
        node.end("a")
        await invoice(node, "a")
        await until(node, lambda: node.published == 2)


async def test_agreements_beyond_the_capacity_are_rejected(clock: MockClock) -> None:
    node = FakeNode()
    async with agent(node, capacity=1):
        node.propose("a")
        node.propose("b")
        await until(node, lambda: bool(node.rejections))
        assert node.rejections == {"b": "NoCapacity"}


async def test_without_capacity_proposals_are_rejected_and_not_for_good(clock: MockClock) -> None:
    node = FakeNode()
    async with agent(node, capacity=1):
        node.propose("a")
        await until(node, lambda: node.agreements_by_id["a"].state == "Approved")
        assert node.withdrawn == 0, "the offer goes with the end of the poll that brought the agreement"
        node.put(node.proposal("p"))
        await until(node, lambda: "p" in node.rejections or bool(node.countered))
        assert node.rejections == {"p": "NoCapacity"}
        assert node.rejection_is_final == {"p": False}
        assert node.countered == []


VPN = "(&(golem.runtime.name=vm)\n\t(golem.runtime.capabilities=vpn))"


async def test_a_requestor_gets_one_agreement_with_a_network_address_of_a_provider(clock: MockClock) -> None:
    # A network knows a node by its address: golem-js fails when a provider joins one twice.
    node = FakeNode()
    async with agent(node, capacity=4):
        node.propose("a", constraints=VPN)
        await until(node, lambda: node.agreements_by_id["a"].state == "Approved")
        node.put(node.proposal("again", constraints=VPN))
        node.put(node.proposal("other requestor", constraints=VPN, issuer="0xs"))
        node.put(node.proposal("no network"))
        node.propose("b", constraints=VPN)
        await until(node, lambda: len(node.rejections) == 2 and len(node.countered) == 2)
        assert node.rejections == {"again": "NetworkAddressTaken", "b": "NetworkAddressTaken"}
        assert node.rejection_is_final == {"again": False}
        assert set(node.countered) == {"other requestor", "no network"}
        node.end("a")
        await invoice(node, "a")
        await until(node, lambda: node.published == 2)  # who was turned away may come again
        node.put(node.proposal("now", constraints=VPN))
        await until(node, lambda: "now" in node.countered)


async def test_an_approval_that_arrives_late_is_served(clock: MockClock) -> None:
    node = FakeNode()
    node.approve_error = DeadlineError("not yet")
    async with agent(node, capacity=1):
        node.propose("a")
        await trio.sleep(12)
        node.set_state("a", "Approved")
        node.start("a", "x")
        await trio.sleep(20)
        node.end("a")
        assert (await invoice(node, "a")).activity_ids == ["x"]


async def test_an_approval_that_comes_to_nothing_frees_the_capacity_without_an_invoice(clock: MockClock) -> None:
    node = FakeNode()
    node.approve_error = DeadlineError("not yet")
    async with agent(node, capacity=1):
        node.propose("a")
        await trio.sleep(12)
        node.set_state("a", "Cancelled")
        await trio.sleep(20)
        node.approve_error = None
        node.propose("b")
        await until(node, lambda: node.agreements_by_id["b"].state == "Approved")
    assert node.invoices_by_id == {}


async def test_an_unanswered_agreement_of_a_former_life_is_rejected(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", state="Pending")
    async with agent(node):
        await until(node, lambda: bool(node.rejections))
    assert node.rejections == {"a": "ProviderRestarted"}


async def test_a_requestor_that_does_not_answer_does_not_hold_up_others(clock: MockClock) -> None:
    node = FakeNode()
    node.counter_takes_s = 10.0
    async with agent(node):
        node.put(node.proposal("slow"))
        node.put(node.proposal("quick"))
        await until(node, lambda: "quick" in node.countered)
        assert trio.current_time() < 2


async def test_what_breaks_the_agent_ends_only_itself(clock: MockClock) -> None:
    node = FakeNode()
    async with agent(node, capacity=3):
        node.bugs = {"odd", "b"}
        node.put(node.proposal("odd"))
        node.propose("b")
        node.put(node.proposal("good"))
        await until(node, lambda: "good" in node.countered)
        node.propose("a")
        await until(node, lambda: node.agreements_by_id["a"].state == "Approved")
        node.start("a", "x")
        await trio.sleep(20)
        node.end("a")
        assert (await invoice(node, "a")).activity_ids == ["x"]


async def test_a_contract_that_cannot_be_billed_is_ended_and_the_others_go_on(clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a")
    node.agreement("b")
    node.agreements_by_id["b"].offer.properties["golem.com.pricing.model.linear.coeffs"] = "free"
    async with agent(node):
        node.start("a", "x")
        node.start("b", "y")
        await trio.sleep(130)
        assert node.terminations == {"b": "ProviderError"}
        node.end("a")
        assert (await invoice(node, "a")).activity_ids == ["x"]


async def test_capacity_counts_activities(clock: MockClock) -> None:
    node = FakeNode()
    async with agent(node, capacity=2):
        node.propose("a")
        await until(node, lambda: node.agreements_by_id["a"].state == "Approved")
        node.start("a", "x")
        node.start("a", "y")
        await trio.sleep(1)
        node.propose("b")
        await until(node, lambda: bool(node.rejections))
        assert node.rejections == {"b": "NoCapacity"}


async def test_a_runtime_that_works_later_is_offered_then(clock: MockClock) -> None:
    node = FakeNode()
    node.broken_probes = 2  # the machine's container engine starts after us
    async with agent(node):
        assert node.published == 1
