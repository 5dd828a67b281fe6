"""Settlement: batches of several payees, orders, several bids for one nonce, a record of what was signed away."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("pay_obligation", sa.Column("due_at", sa.Float(), nullable=True))
    op.add_column("pay_obligation", sa.Column("deposit", sa.Text(), nullable=True))
    op.add_column("pay_allocation", sa.Column("deposit", sa.Text(), nullable=True))
    op.add_column("pay_tx_version", sa.Column("signed_at", sa.Float(), nullable=True))
    for column in (
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=True),
        sa.Column("gas", sa.Integer(), nullable=True),
        sa.Column("value", sa.Text(), nullable=True),
    ):
        op.add_column("pay_slot", column)
    op.create_table(
        "pay_leg",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("payee", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "payee", "peer", name=op.f("pk_pay_leg")),
    )
    op.create_table(
        "pay_order",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("gas", sa.Integer(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("transaction", sa.Text(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_pay_order")),
        sa.UniqueConstraint("key", name=op.f("uq_pay_order_key")),
    )
    op.create_index(op.f("ix_pay_order_state"), "pay_order", ["state"], unique=False)
    op.create_table(
        "pay_spending",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("agreement_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("daily", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pay_spending")),
    )
    op.create_index(op.f("ix_pay_spending_reference"), "pay_spending", ["reference"], unique=False)
    op.create_index("ix_pay_spending_day", "pay_spending", ["platform", "at"], unique=False)
    op.create_index("ix_pay_spending_agreement", "pay_spending", ["agreement_id", "platform"], unique=False)
    # Planned, and nothing signed: given up, the debts are planned anew.
    op.execute(
        "UPDATE pay_obligation SET batch_id = NULL"
        " WHERE batch_id IN (SELECT batch_id FROM pay_slot WHERE state = 'planned')"
    )
    op.execute("DELETE FROM pay_slot WHERE state = 'planned'")
    op.execute(
        "INSERT INTO pay_leg (batch_id, payee, peer, amount)"
        " SELECT s.batch_id, s.payee,"
        " (SELECT peer FROM pay_obligation o WHERE o.batch_id = s.batch_id LIMIT 1), s.amount"
        " FROM pay_slot s WHERE EXISTS (SELECT 1 FROM pay_obligation o WHERE o.batch_id = s.batch_id)"
    )
