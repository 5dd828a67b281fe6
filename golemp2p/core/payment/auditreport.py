"""What the auditor says: findings, and an account for each agreement."""

from __future__ import annotations

from dataclasses import dataclass

from golemp2p.core.money import ZERO, Amount
from golemp2p.core.payment.auditfile import Header
from golemp2p.core.payment.machines import Side


@dataclass(frozen=True)
class Finding:
    """``entry``: its number in the journal; 0: about the file, or about an agreement as a whole."""

    entry: int
    agreement_id: str
    reason: str


@dataclass(frozen=True)
class Account:
    """One agreement from one side, as the documents prove it. ``vouched``: by vouchers, claimed or not."""

    agreement_id: str
    side: Side
    counterpart: str  # the other side's address
    platform: str
    documents: int
    billed: Amount  # what the provider claims: its invoice, else its last notes
    accepted: Amount
    paid: Amount
    vouched: Amount = ZERO

    @property
    def open(self) -> Amount:
        """Accepted and not paid."""
        return Amount(max(0, self.accepted - self.paid))


@dataclass(frozen=True)
class Report:
    header: Header
    entries: int
    accounts: tuple[Account, ...]
    findings: tuple[Finding, ...]  # the first MAX_AUDIT_FINDINGS
    findings_total: int

    @property
    def ok(self) -> bool:
        return self.findings_total == 0
