"""Mode channel: the provider's agent never works unpaid beyond what was agreed."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from golemp2p.core.money import parse_amount
from golemp2p.core.payment.vouchers import EXPOSURE, MODE, MODES
from golemp2p.core.properties import Properties
from golemp2p.provider import ProviderTerms
from golemp2p.provider.negotiator import Refusal, answer
from golemp2p.provider.offer import NOTE_INTERVAL
from golemp2p.wire.rest.market import MarketEvent
from tests.unit.provider.fake_node import COEFFS, FakeNode
from tests.unit.provider.test_billing import agent, invoice, until
from tests.unit.provider.test_negotiator import DEMAND, NOW, OFFER

CHANNEL_DEMAND = {MODE: "channel", EXPOSURE: 1.0}
CHANNEL_OFFER: Properties = {**OFFER, MODES: ["batch", "channel"], EXPOSURE: 1.0}


async def test_while_vouchers_come_the_work_goes_on(autojump_clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", demand={**CHANNEL_DEMAND, NOTE_INTERVAL: 10})
    async with agent(node):
        node.start("a", "x")
        await trio.sleep(300)
        assert node.terminations == {}
        assert all(note.payment_due_date is None for note in node.notes.values())  # vouchers are at once
        node.end("a")
        await invoice(node, "a")


async def test_a_requestor_that_never_comes_back_costs_one_interval_at_most(autojump_clock: MockClock) -> None:
    node = FakeNode()
    interval_s = 120.0  # the offer's, which the demand leaves alone
    node.agreement("a", demand=CHANNEL_DEMAND)
    async with agent(node):
        node.start("a", "x")
        await trio.sleep(600)
        assert node.terminations == {}
        node.vouching = False
        await until(node, lambda: "a" in node.terminations)
        assert node.terminations["a"] == "VoucherLate"
        lost = parse_amount((await invoice(node, "a")).amount) - node.secured["a"]
        assert lost <= parse_amount(f"{(interval_s + 2) * COEFFS[0]:.6f}")


async def test_work_that_costs_more_than_the_exposure_between_two_notes_is_ended(autojump_clock: MockClock) -> None:
    node = FakeNode()
    node.agreement("a", demand={MODE: "channel", EXPOSURE: 0.53})
    node.vouching = False
    async with agent(node):
        node.start("a", "x")  # 0.5 to start, then 0.001 a second
        await until(node, lambda: "a" in node.terminations)
        assert node.terminations["a"] == "ExposureExceeded"
        assert parse_amount((await invoice(node, "a")).amount) <= parse_amount("0.5325")


async def test_an_agreement_without_a_good_channel_is_rejected_with_the_reason(autojump_clock: MockClock) -> None:
    node = FakeNode()
    node.channel_refusal = "the channel has no deposit that is final"
    async with agent(node, capacity=1):
        made = node.agreement("a", state="Pending", demand=CHANNEL_DEMAND)
        node.put(MarketEvent(event_type="AgreementEvent", event_date=made.timestamp, agreement=made))
        await until(node, lambda: "a" in node.rejections)
        assert node.rejections["a"] == "PaymentChannel"


@pytest.mark.parametrize(
    ("demand", "code"),
    [
        ({MODE: "channel"}, None),
        ({MODE: "batch"}, None),
        ({MODE: "channel", EXPOSURE: 0.5}, None),
        ({MODE: "channel", EXPOSURE: 1.5}, "TermOutOfRange"),
        ({MODE: "channel", EXPOSURE: 0}, "TermOutOfRange"),
        ({MODE: "channel", EXPOSURE: "much"}, "TermOutOfRange"),
        ({MODE: "credit"}, "UnknownPaymentMode"),
    ],
    ids=["channel", "batch", "less", "more", "none", "text", "other-mode"],
)
def test_modes_and_exposure_are_negotiated(demand: Properties, code: str | None) -> None:
    found = answer(CHANNEL_OFFER, {**DEMAND, **demand}, issuer="0xR", now=NOW)
    if code is None:
        assert not isinstance(found, Refusal)
        assert found[EXPOSURE] == demand.get(EXPOSURE, 1.0)
    else:
        assert isinstance(found, Refusal)
        assert found.code == code


def test_an_exposure_that_is_not_set_is_what_one_interval_can_cost() -> None:
    terms = ProviderTerms(price_start=0.1, price_per_hour=3.6, price_per_cpu_hour=3.6, threads=2)
    assert terms.exposure_glm == pytest.approx(0.1 + 3 * 3.6 * 120 / 3600)
    assert ProviderTerms(exposure=5.0).exposure_glm == 5.0
