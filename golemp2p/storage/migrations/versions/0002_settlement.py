"""Settlement: batches of several payees, orders, fee bids, spending."""

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    pass
