"""Signing what a deterministic run came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from golemp2p import limits
from golemp2p.activity.usage import DETERMINISTIC_PROPERTY
from golemp2p.core.agreement import Agreement
from golemp2p.core.eip712 import Domain
from golemp2p.core.ids import ActivityId, BatchId
from golemp2p.core.receipt import Receipt, encode_evidence
from golemp2p.errors import UsageError
from golemp2p.identity.keys import Signer


@dataclass(frozen=True)
class Notary:
    """The provider's key and what its signatures are valid for. ``now``: seconds since the epoch."""

    signer: Signer
    domain: Domain
    now: Callable[[], float]

    def sign(
        self,
        agreement: Agreement,
        activity_id: ActivityId,
        batch_id: BatchId,
        command: int,
        evidence: Mapping[str, object],
    ) -> Receipt:
        """Raises UsageError when there is too much to name."""
        content = encode_evidence(evidence)
        if len(content) > limits.MAX_RECEIPT_BYTES:
            raise UsageError(
                f"the receipt would have {len(content)} bytes",
                hint=f"at most {limits.MAX_RECEIPT_BYTES}: use fewer files or shorter arguments",
            )
        receipt = Receipt(
            agreement.id,
            activity_id,
            batch_id,
            command,
            self.signer.peer_id,
            content,
            round(self.now() * 1000) / 1000,
            self.domain,
        )
        return replace(receipt, signature=self.signer.sign(receipt.digest()))


def wants_receipts(agreement: Agreement) -> bool:
    """``true`` alone: texts and numbers are somebody's mistake."""
    return agreement.demand.get(DETERMINISTIC_PROPERTY) is True
