"""The first schema. Frozen: a change of the tables is a new script (tests/unit/storage compares them with the code)."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "activities",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("agreement_id", sa.String(), nullable=False),
        sa.Column("peer", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("usage", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", "role", name=op.f("pk_activities")),
    )
    op.create_index(op.f("ix_activities_agreement_id"), "activities", ["agreement_id"], unique=False)
    op.create_index(op.f("ix_activities_state"), "activities", ["state"], unique=False)
    op.create_table(
        "activity_events",
        sa.Column("moment", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("activity_id", sa.String(), nullable=False),
        sa.Column("agreement_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("moment", name=op.f("pk_activity_events")),
    )
    op.create_table(
        "agreement_events",
        sa.Column("moment", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("agreement_id", sa.String(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("terminator", sa.String(), nullable=True),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("moment", name=op.f("pk_agreement_events")),
    )
    op.create_table(
        "agreements",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("requestor", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("demand_id", sa.String(), nullable=False),
        sa.Column("offer_id", sa.String(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("valid_to", sa.Float(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("requestor_signature", sa.LargeBinary(), nullable=False),
        sa.Column("provider_signature", sa.LargeBinary(), nullable=False),
        sa.Column("approved_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("end_reason", sa.String(), nullable=True),
        sa.Column("terminator", sa.String(), nullable=True),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agreements")),
    )
    op.create_index(op.f("ix_agreements_state"), "agreements", ["state"], unique=False)
    op.create_table(
        "app_keys",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("cors_origins", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_app_keys")),
        sa.UniqueConstraint("key", name=op.f("uq_app_keys_key")),
    )
    op.create_table(
        "market_outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("peer", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("agreement_id", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_market_outbox")),
    )
    op.create_table(
        "own_records",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("issuer", sa.String(), nullable=False),
        sa.Column("subnet", sa.String(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("issued_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_own_records")),
    )
    op.create_table(
        "pay_allocation",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("total", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("timeout_at", sa.Float(), nullable=True),
        sa.Column("make_deposit", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pay_allocation")),
    )
    op.create_table(
        "pay_charge",
        sa.Column("agreement_id", sa.Text(), nullable=False),
        sa.Column("allocation_id", sa.Text(), nullable=False),
        sa.Column("reserved", sa.Text(), nullable=False),
        sa.Column("spent", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("agreement_id", "allocation_id", name=op.f("pk_pay_charge")),
    )
    op.create_index(op.f("ix_pay_charge_allocation_id"), "pay_charge", ["allocation_id"], unique=False)
    op.create_table(
        "pay_document",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("agreement_id", sa.Text(), nullable=False),
        sa.Column("activity_id", sa.Text(), nullable=True),
        sa.Column("activity_ids", sa.JSON(), nullable=False),
        sa.Column("payer", sa.Text(), nullable=False),
        sa.Column("payee", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("issued_at_ms", sa.Integer(), nullable=False),
        sa.Column("due_at_ms", sa.Integer(), nullable=False),
        sa.Column("usage", sa.Text(), nullable=False),
        sa.Column("previous_id", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("stored_at", sa.Float(), nullable=False),
        sa.Column("allocation_id", sa.Text(), nullable=True),
        sa.Column("accepted_at_ms", sa.Integer(), nullable=True),
        sa.Column("acceptance_signature", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_pay_document")),
        sa.UniqueConstraint("id", "side", name=op.f("uq_pay_document_id")),
    )
    op.create_index(
        "ix_pay_document_last_note", "pay_document", ["agreement_id", "side", "activity_id", "seq"], unique=False
    )
    op.create_index("ix_pay_document_session", "pay_document", ["session_id", "allocation_id"], unique=False)
    op.create_index(op.f("ix_pay_document_state"), "pay_document", ["state"], unique=False)
    op.create_table(
        "pay_event",
        sa.Column("date_us", sa.Integer(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("document_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("date_us", name=op.f("pk_pay_event")),
    )
    op.create_table(
        "pay_incoming",
        sa.Column("chain_id", sa.Integer(), nullable=False),
        sa.Column("transaction", sa.Text(), nullable=False),
        sa.Column("log_index", sa.Integer(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("chain_id", "transaction", "log_index", name=op.f("pk_pay_incoming")),
    )
    op.create_table(
        "pay_ledger",
        sa.Column("agreement_id", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("payer", sa.Text(), nullable=False),
        sa.Column("payee", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("invoice", sa.Text(), nullable=True),
        sa.Column("accepted", sa.Text(), nullable=False),
        sa.Column("scheduled", sa.Text(), nullable=False),
        sa.Column("paid", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("agreement_id", "side", name=op.f("pk_pay_ledger")),
    )
    op.create_table(
        "pay_note_total",
        sa.Column("agreement_id", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("activity_id", sa.Text(), nullable=False),
        sa.Column("accepted", sa.Text(), nullable=False),
        sa.Column("payable", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("agreement_id", "side", "activity_id", name=op.f("pk_pay_note_total")),
    )
    op.create_table(
        "pay_obligation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("agreement_id", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("payer", sa.Text(), nullable=False),
        sa.Column("payee", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pay_obligation")),
    )
    op.create_index(op.f("ix_pay_obligation_agreement_id"), "pay_obligation", ["agreement_id"], unique=False)
    op.create_index(op.f("ix_pay_obligation_batch_id"), "pay_obligation", ["batch_id"], unique=False)
    op.create_table(
        "pay_outbox",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Float(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("dead", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_pay_outbox")),
    )
    op.create_index("ix_pay_outbox_peer", "pay_outbox", ["peer", "seq"], unique=False)
    op.create_table(
        "pay_payment",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("payer", sa.Text(), nullable=False),
        sa.Column("payee", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("transaction", sa.Text(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("shares", sa.JSON(), nullable=False),
        sa.Column("document_ids", sa.JSON(), nullable=False),
        sa.Column("paid_at_ms", sa.Integer(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("stored_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", "side", name=op.f("pk_pay_payment")),
    )
    op.create_index(op.f("ix_pay_payment_state"), "pay_payment", ["state"], unique=False)
    op.create_table(
        "pay_slot",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("chain_id", sa.Integer(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("nonce", sa.Integer(), nullable=False),
        sa.Column("payee", sa.Text(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("sent_at", sa.Float(), nullable=True),
        sa.Column("transaction", sa.Text(), nullable=True),
        sa.Column("block_number", sa.Integer(), nullable=True),
        sa.Column("block_hash", sa.Text(), nullable=True),
        sa.Column("fee_wei", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pay_slot")),
        sa.UniqueConstraint("chain_id", "account", "nonce", name=op.f("uq_pay_slot_chain_id")),
    )
    op.create_index(op.f("ix_pay_slot_batch_id"), "pay_slot", ["batch_id"], unique=False)
    op.create_index(op.f("ix_pay_slot_state"), "pay_slot", ["state"], unique=False)
    op.create_table(
        "pay_tx_version",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("slot_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("max_fee", sa.Text(), nullable=False),
        sa.Column("tip", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["slot_id"], ["pay_slot.id"], name=op.f("fk_pay_tx_version_slot_id_pay_slot")),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_pay_tx_version")),
        sa.UniqueConstraint("slot_id", "version", name=op.f("uq_pay_tx_version_slot_id")),
    )
    op.create_index(op.f("ix_pay_tx_version_slot_id"), "pay_tx_version", ["slot_id"], unique=False)
