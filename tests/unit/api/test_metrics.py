"""Settlement as a scraper sees it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from golemp2p.api.metrics import PaymentGauges
from golemp2p.payment.settlement import PlatformStatus
from tests.unit.payment.world import glm


def test_each_platform_has_its_values_and_a_problem_is_one() -> None:
    gauges, registry = PaymentGauges(), CollectorRegistry()
    registry.register(gauges)
    gauges.states = [
        PlatformStatus("erc20-amoy-tglm", glm("2.5"), 1, "no gas", glm("1.5"), glm("0.5"), None, 3),
        PlatformStatus("erc20-local-tglm", glm("0"), 0, "", glm("0"), glm("0"), None, 0),
    ]
    text = generate_latest(registry).decode()
    for line in (
        'golemp2p_payment_owed_tokens{platform="erc20-amoy-tglm"} 2.5',
        'golemp2p_payment_rolled_over_tokens{platform="erc20-amoy-tglm"} 0.5',
        'golemp2p_payment_orders_waiting{platform="erc20-amoy-tglm"} 3.0',
        'golemp2p_payment_problem{platform="erc20-amoy-tglm"} 1.0',
        'golemp2p_payment_problem{platform="erc20-local-tglm"} 0.0',
    ):
        assert line in text
