"""The states of allocations, documents and settlement slots, as tables."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from golemp2p.core.machine import Machine


class Side(StrEnum):
    """Which end of a payment this node is."""

    PAYER = "payer"
    PAYEE = "payee"


class AllocationState(StrEnum):
    LIVE = "live"
    RELEASED = "released"
    EXPIRED = "expired"


class AllocationEvent(StrEnum):
    AMEND = "amend"
    RELEASE = "release"
    EXPIRE = "expire"


ALLOCATION: Final = Machine(
    "allocation",
    AllocationState.LIVE,
    {
        (AllocationState.LIVE, AllocationEvent.AMEND): AllocationState.LIVE,
        (AllocationState.LIVE, AllocationEvent.RELEASE): AllocationState.RELEASED,
        (AllocationState.LIVE, AllocationEvent.EXPIRE): AllocationState.EXPIRED,
    },
)


class DocumentState(StrEnum):
    """Of debit notes and invoices; the names are yagna's. ISSUED and CANCELLED exist before sending only."""

    ISSUED = "ISSUED"
    RECEIVED = "RECEIVED"
    ACCEPTED = "ACCEPTED"
    REJECTED = "REJECTED"
    FAILED = "FAILED"
    SETTLED = "SETTLED"
    CANCELLED = "CANCELLED"


class DocumentEvent(StrEnum):
    SEND = "send"
    ACCEPT = "accept"
    REJECT = "reject"
    FAIL = "fail"
    SETTLE = "settle"
    CANCEL = "cancel"


_D, _DE = DocumentState, DocumentEvent
DOCUMENT: Final = Machine(
    "document",
    _D.ISSUED,
    {
        (_D.ISSUED, _DE.SEND): _D.RECEIVED,
        (_D.ISSUED, _DE.CANCEL): _D.CANCELLED,
        (_D.RECEIVED, _DE.ACCEPT): _D.ACCEPTED,
        (_D.RECEIVED, _DE.REJECT): _D.REJECTED,
        # A requestor may change its mind in the provider's favour, never the other way round.
        (_D.REJECTED, _DE.ACCEPT): _D.ACCEPTED,
        (_D.ACCEPTED, _DE.FAIL): _D.FAILED,
        (_D.FAILED, _DE.ACCEPT): _D.ACCEPTED,
        (_D.ACCEPTED, _DE.SETTLE): _D.SETTLED,
        (_D.FAILED, _DE.SETTLE): _D.SETTLED,
    },
)


class SlotState(StrEnum):
    """Of one nonce of one account. A slot carries one batch for ever; only FAILED and FOREIGN let go of it."""

    SIGNED = "signed"
    SENT = "sent"
    MINED = "mined"
    FINAL = "final"
    FAILED = "failed"
    FOREIGN = "foreign"


class SlotEvent(StrEnum):
    SEND = "send"
    MINE = "mine"
    REORG = "reorg"
    FINALIZE = "finalize"
    REVERT = "revert"
    LOSE_NONCE = "lose_nonce"


_S, _SE = SlotState, SlotEvent
SLOT: Final = Machine(
    "settlement slot",
    _S.SIGNED,
    {
        (_S.SIGNED, _SE.SEND): _S.SENT,
        # The same bytes again (a crash, a restart, a forgetful node), or a higher bid for the same nonce: still one
        # transaction.
        (_S.SENT, _SE.SEND): _S.SENT,
        (_S.SENT, _SE.MINE): _S.MINED,
        (_S.MINED, _SE.REORG): _S.SENT,
        (_S.MINED, _SE.FINALIZE): _S.FINAL,
        (_S.MINED, _SE.REVERT): _S.FAILED,
        (_S.SENT, _SE.LOSE_NONCE): _S.FOREIGN,
    },
)
