"""The hash-chained journal of documents."""

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    pass
