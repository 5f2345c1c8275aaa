"""Which message of a stream a decision answers.

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
    """A column that may be null and has no default: the table is not written again."""
    op.add_column("decisions", sa.Column("source", sa.Text))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("decisions", "source")
