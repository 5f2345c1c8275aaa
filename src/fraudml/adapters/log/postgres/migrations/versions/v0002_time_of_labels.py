"""The transaction's time beside its label reports.

A join by id and time asks one piece of a table cut by time instead of each. The column may be null, so that a process
of the release before goes on; revision 0003 fills it.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A column that may be null and has no default: the table is not written again, the lock is short."""
    op.add_column("labels", sa.Column("event_time_us", sa.BigInteger))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("labels", "event_time_us")
