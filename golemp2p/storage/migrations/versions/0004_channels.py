"""Voucher channels."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "pay_channel",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("chain_id", sa.Integer(), nullable=False),
        sa.Column("contract", sa.Text(), nullable=False),
        sa.Column("payer", sa.Text(), nullable=False),
        sa.Column("payee", sa.Text(), nullable=False),
        sa.Column("signer", sa.Text(), nullable=False),
        sa.Column("grace_s", sa.Integer(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("deposit", sa.Text(), nullable=False),
        sa.Column("claimed", sa.Text(), nullable=False),
        sa.Column("close_at", sa.Text(), nullable=False),
        sa.Column("seen_block", sa.Integer(), nullable=False),
        sa.Column("cumulative", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=True),
        sa.Column("attributed", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=False),
        sa.Column("unclaimed_since", sa.Float(), nullable=True),
        sa.Column("fund_order", sa.Text(), nullable=True),
        sa.Column("order", sa.Text(), nullable=True),
        sa.Column("orders", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", "side", name=op.f("pk_pay_channel")),
    )
    op.create_index("ix_pay_channel_peer", "pay_channel", ["peer", "platform", "side"], unique=False)
    op.create_index("ix_pay_channel_state", "pay_channel", ["state"], unique=False)
    op.create_table(
        "pay_channel_share",
        sa.Column("channel_id", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("agreement_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("credited", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("channel_id", "side", "agreement_id", name=op.f("pk_pay_channel_share")),
    )
    op.create_index(op.f("ix_pay_channel_share_agreement_id"), "pay_channel_share", ["agreement_id"], unique=False)
