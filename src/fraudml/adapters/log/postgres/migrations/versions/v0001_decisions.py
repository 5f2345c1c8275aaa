"""Transactions, decisions, label reports, writers and API keys.

Revision ID: 0001
Revises: -
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSON

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Id = sa.Text(collation="C")
MOMENT = "to_timestamp((event_time_us / 1000000.0)::double precision)"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "transaction_ids",
        sa.Column("transaction_id", Id, primary_key=True),
        sa.Column("event_time_us", sa.BigInteger, nullable=False),
        sa.Column("arrival", sa.BigInteger, nullable=False, unique=True),
    )
    op.create_table(
        "transactions",
        sa.Column("arrival", sa.BigInteger, nullable=False),
        sa.Column("event_time_us", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("transaction_id", Id, primary_key=True),
        sa.Column("amount_minor", sa.BigInteger),
        sa.Column("entities", JSON, nullable=False),
        sa.Column("attributes", JSON, nullable=False),
        sa.Column("original_id", sa.LargeBinary),
        sa.Column("event_time", sa.DateTime(timezone=True), sa.Computed(MOMENT, persisted=True)),
    )
    op.create_table(
        "decisions",
        sa.Column("arrival", sa.BigInteger, nullable=False),
        sa.Column("event_time_us", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("transaction_id", Id, primary_key=True),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("arm", sa.Text, nullable=False),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.Column("degraded", sa.Text, nullable=False),
        sa.Column("decided_at_us", sa.BigInteger, nullable=False),
        sa.Column("timings", JSON, nullable=False),
    )
    op.create_table(
        "labels",
        sa.Column("arrival", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("transaction_id", Id, sa.ForeignKey("transaction_ids.transaction_id"), nullable=False),
        sa.Column("nth", sa.Integer, nullable=False),
        sa.Column("is_fraud", sa.Boolean, nullable=False),
        sa.Column("known_at_us", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("transaction_id", "nth"),
    )
    op.create_table(
        "writers",
        sa.Column("number", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
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
    for table in ("api_keys", "writers", "labels", "decisions", "transactions", "transaction_ids"):
        op.drop_table(table)
