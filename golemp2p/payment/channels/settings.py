"""What the owner says about voucher channels. Amounts in the token's smallest unit, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from golemp2p import limits
from golemp2p.core.money import Amount

_CLAIM_THRESHOLD: Final = Amount(limits.CHANNEL_CLAIM_THRESHOLD)


@dataclass(frozen=True)
class ChannelSettings:
    """``mode``: what our demands ask for. As payer: ``deposit`` (None: some times the agreed exposure), ``grace_s``,
    ``open_timeout_s``, ``idle_close_s`` (an unused channel is closed). As payee: ``min_grace_s``, and when vouchers are
    claimed: above ``claim_threshold``, after ``claim_after_s``, or as soon as an invoice is accepted.
    """

    mode: Literal["batch", "channel"] = "batch"
    deposit: Amount | None = None
    grace_s: int = limits.CHANNEL_GRACE_S
    open_timeout_s: float = limits.CHANNEL_OPEN_TIMEOUT_S
    idle_close_s: float = limits.CHANNEL_IDLE_CLOSE_S
    min_grace_s: int = limits.CHANNEL_MIN_GRACE_S
    claim_threshold: Amount = _CLAIM_THRESHOLD
    claim_after_s: float = limits.CHANNEL_CLAIM_AFTER_S
    claim_on_invoice: bool = False
