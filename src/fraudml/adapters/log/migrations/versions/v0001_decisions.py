"""Transactions, decisions, label reports and API keys.

Revision ID: 0001
Revises: -
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Arrival = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "transactions",
        sa.Column("arrival", Arrival, primary_key=True, autoincrement=False),
        sa.Column("transaction_id", sa.Text, nullable=False, unique=True),
        sa.Column("event_time_us", sa.BigInteger, nullable=False),
        sa.Column("amount_minor", sa.BigInteger),
        sa.Column("entities", sa.Text, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
    )
    op.create_index("ix_transactions_event_time_us", "transactions", ["event_time_us"])
    op.create_table(
        "decisions",
        sa.Column("arrival", Arrival, sa.ForeignKey("transactions.arrival"), primary_key=True, autoincrement=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("arm", sa.Text, nullable=False),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.Column("degraded", sa.Text, nullable=False),
        sa.Column("decided_at_us", sa.BigInteger, nullable=False),
        sa.Column("timings", sa.Text, nullable=False),
    )
    op.create_table(
        "labels",
        sa.Column("arrival", Arrival, primary_key=True, autoincrement=False),
        sa.Column("transaction_id", sa.Text, sa.ForeignKey("transactions.transaction_id"), nullable=False),
        sa.Column("nth", sa.Integer, nullable=False),
        sa.Column("is_fraud", sa.Boolean, nullable=False),
        sa.Column("known_at_us", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("transaction_id", "nth"),
    )
    op.create_table(
        "api_keys",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("token_hash", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("revoked_at_us", sa.BigInteger),
    )


def downgrade() -> None:
    """Drop the tables, newest first."""
    for table in ("api_keys", "labels", "decisions", "transactions"):
        op.drop_table(table)
