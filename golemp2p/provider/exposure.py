"""Mode channel, the provider's agent: it works for nothing unless the channel is good, and never on credit beyond what
was agreed.

Two bounds hold at once: what the work has cost beyond the vouchers is at most the agreed exposure, and a debit note
has its voucher within half of the voucher interval. Notes go out twice an interval, so that no more than one interval
of work is ever unpaid, whatever the requestor does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
import structlog

from golemp2p import limits
from golemp2p.client import NodeClient
from golemp2p.core.money import Amount, format_amount, parse_amount
from golemp2p.core.payment.vouchers import CHANNEL, exposure_of, mode_of
from golemp2p.core.properties import number
from golemp2p.errors import GolemError
from golemp2p.provider.contract import Contract, again, cost_of
from golemp2p.provider.offer import NOTE_INTERVAL

log = structlog.get_logger("golemp2p.provider")

MIN_VOUCHER_WAIT_S = 5.0  # a requestor's agent and two nodes have to act


def uses_channel(contract: Contract) -> bool:
    return mode_of(contract.agreement.demand.properties) == CHANNEL


async def channel_refusal(client: NodeClient, contract: Contract) -> str:
    """Why not to approve; "" when the agreement needs no channel or has a good one."""
    if not uses_channel(contract):
        return ""
    try:
        return await again(client.channels.refusal)(contract.id, timeout_s=limits.CHANNEL_CHECK_TIMEOUT_S)
    except GolemError as exc:
        return f"the payment channel could not be checked: {exc.message}"


def note_interval_s(contract: Contract, interval_s: float) -> float:
    """Between two notes. In mode channel twice in an interval, unless the requestor has named the interval itself:
    its agent may count the notes."""
    asked = number(contract.agreement.demand.properties.get(NOTE_INTERVAL))
    return interval_s if not uses_channel(contract) or asked is not None else max(1.0, interval_s / 2)


def voucher_wait_s(interval_s: float, accept_s: float) -> float:
    """How long a debit note may be without its voucher."""
    return min(accept_s, max(MIN_VOUCHER_WAIT_S, interval_s / 2))


@dataclass
class Exposure:
    """Of one agreement. ``exceeded`` is asked again and again while activities run."""

    contract: Contract
    cap: Amount
    wait_s: float
    _due: list[tuple[float, Amount]] = field(default_factory=list)  # (event-loop time, what must be secured by then)

    @classmethod
    def of(cls, contract: Contract, *, interval_s: float, accept_s: float) -> Exposure:
        properties = contract.agreement.demand.properties, contract.agreement.offer.properties
        cap = parse_amount(f"{exposure_of(*properties) or 0:.18f}", what="exposure")
        return cls(contract, cap, voucher_wait_s(interval_s, accept_s))

    async def exceeded(self, client: NodeClient) -> tuple[str, str] | None:
        """Why the agreement is to be ended now (code, message)."""
        contract = self.contract
        billed = Amount(sum(contract.billed.values()))
        now = anyio.current_time()
        if billed and (not self._due or self._due[-1][1] < billed):
            self._due.append((now + self.wait_s, billed))
        cover = await again(client.channels.cover)(contract.id)
        secured = parse_amount(cover.secured)
        self._due = [(when, amount) for when, amount in self._due if amount > secured]
        if self._due and self._due[0][0] <= now:
            return "VoucherLate", (
                f"{format_amount(self._due[0][1])} is billed, {format_amount(secured)} vouched for and locked"
            )
        cost = await self._cost(client)
        if cost > secured + self.cap:
            return "ExposureExceeded", (
                f"the work has cost {format_amount(cost)}, {format_amount(secured)} is vouched for and locked;"
                f" {format_amount(self.cap)} may be open"
            )
        return None

    async def _cost(self, client: NodeClient) -> Amount:
        """By the usage now; of activities that ended, as billed."""
        contract, total = self.contract, 0
        for activity in contract.seen:
            billed = contract.billed.get(activity, Amount(0))
            if activity in contract.live:
                try:
                    usage = await again(client.activity.usage)(activity)
                except GolemError:  # it ended meanwhile: its last note says what it has cost
                    usage = []
                billed = max(billed, cost_of(contract.agreement.offer.properties, usage) if usage else billed)
            total += billed
        return Amount(total)
