"""The settlement engine: pays what is owed, each debt exactly once, whatever crashes.

Theory of operation. A debt (obligation) is written in the transaction that accepts a document. The engine nets debts
by payee, gathers them into one transaction when it is time (core.payment.batching), takes a nonce from its own table,
signs, and STORES the signed bytes; only then it broadcasts. From there on a crash at any instruction only makes it
send the same bytes again, and one nonce admits one transaction. A slot (the nonce) lets go of its batch in two cases
only: its transaction is finally reverted, or a foreign one finally took the nonce. See protocols/payment.md.

Everything that can go wrong is a state that is visible in :meth:`SettlementEngine.status` and is tried again: chain
down, fees above the cap, too few tokens, too little gas, a spending cap, a nonce taken by somebody else. The engine
asks the chain nothing while nothing is due.
"""

from golemp2p.payment.settlement.engine import SettlementEngine
from golemp2p.payment.settlement.states import (
    Checkpoint,
    FeesAboveCapError,
    NonceTakenError,
    OutOfTokensError,
    PayeeParkedError,
    PaymentRevertedError,
    Planned,
    PlatformStatus,
    SlotView,
)

__all__ = [
    "Checkpoint",
    "FeesAboveCapError",
    "NonceTakenError",
    "OutOfTokensError",
    "PayeeParkedError",
    "PaymentRevertedError",
    "Planned",
    "PlatformStatus",
    "SettlementEngine",
    "SlotView",
]
