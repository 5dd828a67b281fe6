"""What a scraper reads at /metrics: values of the moment, present at zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from golemp2p.payment.settlement import PlatformStatus

_TOKEN = 10**18


class PaymentGauges(Collector):
    """Settlement, by platform. ``states`` is set before each scrape: the database is asked outside of it."""

    def __init__(self) -> None:
        self.states: Sequence[PlatformStatus] = ()

    def collect(self) -> Iterator[Metric]:
        values: dict[str, tuple[str, Callable[[PlatformStatus], float]]] = {
            "owed_tokens": ("accepted and not finally paid", lambda s: s.owed / _TOKEN),
            "waiting_tokens": ("owed, and in no transaction yet", lambda s: s.waiting / _TOKEN),
            "rolled_over_tokens": ("owed to payees below the least payout", lambda s: s.rolled_over / _TOKEN),
            "spent_today_tokens": ("signed away in the last 24 hours", lambda s: s.spent_today / _TOKEN),
            "transactions_in_flight": ("sent and not final", lambda s: s.in_flight),
            "orders_waiting": ("transactions ordered and not sent", lambda s: s.orders),
            "problem": ("1 while something keeps payments from going on", lambda s: float(bool(s.problem))),
        }
        for name, (what, read) in values.items():
            family = GaugeMetricFamily(f"golemp2p_payment_{name}", what, labels=["platform"])
            for state in self.states:
                family.add_metric([state.platform], read(state))
            yield family
