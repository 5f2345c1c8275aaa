"""No index on event_time_us: nothing reads by it, and every commit wrote it.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the index."""
    op.drop_index("ix_transactions_event_time_us", "transactions")


def downgrade() -> None:
    """Make it again."""
    op.create_index("ix_transactions_event_time_us", "transactions", ["event_time_us"])
