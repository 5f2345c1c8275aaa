"""Which message of a stream a decision answers, and since when state had its transaction.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Columns that may be null and have no default: the table is not written again."""
    op.add_column("decisions", sa.Column("source", sa.Text))
    op.add_column("decisions", sa.Column("entered_us", sa.BigInteger))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("decisions", "entered_us")
    op.drop_column("decisions", "source")
