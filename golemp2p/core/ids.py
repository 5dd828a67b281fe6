"""Names of things. All ids are strings on every border; the types keep them apart inside.

Shapes follow yagna (protocols/rest/README.md): subscription ``32 hex - 64 hex`` (core.records makes them), proposal
``R-``/``P-`` + 64 hex, agreement 64 hex, activity and batch 32 hex, payment documents dashed UUIDs.
"""

from __future__ import annotations

import secrets
import uuid
from typing import NewType

PeerId = NewType("PeerId", str)  # libp2p PeerId in base58, "16Uiu2HA…" for secp256k1 keys
Address = NewType("Address", str)  # Ethereum address, "0x" + 40 lower-case hex digits
SubscriptionId = NewType("SubscriptionId", str)
ProposalId = NewType("ProposalId", str)
AgreementId = NewType("AgreementId", str)
ActivityId = NewType("ActivityId", str)
BatchId = NewType("BatchId", str)
AllocationId = NewType("AllocationId", str)
DocumentId = NewType("DocumentId", str)  # debit notes and invoices


def new_proposal_id(side: str) -> ProposalId:
    """``side`` is "R" for the requestor's node and "P" for the provider's."""
    return ProposalId(f"{side}-{secrets.token_hex(32)}")


def new_agreement_id() -> AgreementId:
    return AgreementId(secrets.token_hex(32))


def new_activity_id() -> ActivityId:
    return ActivityId(secrets.token_hex(16))


def new_batch_id() -> BatchId:
    return BatchId(secrets.token_hex(16))


def new_allocation_id() -> AllocationId:
    return AllocationId(str(uuid.uuid4()))


def new_document_id() -> DocumentId:
    return DocumentId(str(uuid.uuid4()))
