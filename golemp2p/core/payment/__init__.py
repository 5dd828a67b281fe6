"""The pure rules of money: documents and what is signed, the ledger, state machines, the node's own judgement.

Theory of operation. A provider's claims are cumulative: a debit note says what an activity has cost so far, an invoice
what the agreement has cost in all. What a requestor accepts only raises totals of the agreement; what is paid is
always the difference between the payable total and what was scheduled before. So nothing can be paid twice, whatever
is accepted, delivered or replayed twice and in whatever order.
"""

from golemp2p.core.payment.batching import Choice, Cycle, Group, Obligation, choose, net
from golemp2p.core.payment.claims import Leg, MinedTransfers, judge_claim
from golemp2p.core.payment.documents import (
    ACCEPTANCE_STRUCT,
    DEBIT_NOTE_STRUCT,
    INVOICE_STRUCT,
    PAYMENT_NOTICE_STRUCT,
    Acceptance,
    Document,
    DocumentKind,
    PaymentNotice,
)
from golemp2p.core.payment.fees import Fees, Market, first_bid, next_bid
from golemp2p.core.payment.ledger import Charge, Ledger, NoteTotals, charge_allocations, check_budget
from golemp2p.core.payment.machines import (
    ALLOCATION,
    DOCUMENT,
    SLOT,
    AllocationEvent,
    AllocationState,
    DocumentEvent,
    DocumentState,
    Side,
    SlotEvent,
    SlotState,
)
from golemp2p.core.payment.policy import refusal_of_debit_note, refusal_of_invoice

__all__ = [
    "ACCEPTANCE_STRUCT",
    "ALLOCATION",
    "DEBIT_NOTE_STRUCT",
    "DOCUMENT",
    "INVOICE_STRUCT",
    "PAYMENT_NOTICE_STRUCT",
    "SLOT",
    "Acceptance",
    "AllocationEvent",
    "AllocationState",
    "Charge",
    "Choice",
    "Cycle",
    "Document",
    "DocumentEvent",
    "DocumentKind",
    "DocumentState",
    "Fees",
    "Group",
    "Ledger",
    "Leg",
    "Market",
    "MinedTransfers",
    "NoteTotals",
    "Obligation",
    "PaymentNotice",
    "Side",
    "SlotEvent",
    "SlotState",
    "charge_allocations",
    "check_budget",
    "choose",
    "first_bid",
    "judge_claim",
    "net",
    "next_bid",
    "refusal_of_debit_note",
    "refusal_of_invoice",
]
